"""VGG16 and ResNet in PyTorch, the twins of ours, with torchvision's names.

Torch is imported inside the functions: it is an extra, and a test asks for it first.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.networks import Network, fold_batch_norm

EPSILON = 1e-5  # Added to the variance by torch's batch norm.


def vgg16_twin(seed: int = 0) -> Any:
    """Makes VGG16's `features` with random weights, in evaluation mode."""
    from torch import nn

    channels, layers = 3, []
    for outputs in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0) + (512, 512, 512, 0) * 2:
        if outputs:
            layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU()]
            channels = outputs
        else:
            layers.append(nn.MaxPool2d(2, 2))
    return _draw_weights(nn.ModuleDict({"features": nn.Sequential(*layers)}), seed=seed)


def vgg16_maps(twin: Any, planes: Any) -> Iterator[Any]:
    """Computes the maps after every ReLU and pooling, of scaled planes."""
    from torch import nn

    for layer in twin["features"]:
        planes = layer(planes)
        if not isinstance(layer, nn.Conv2d):
            yield planes


def resnet_twin(
    depths: tuple[int, ...] = (3, 4, 6, 3), width: int = 64, seed: int = 0
) -> Any:
    """Makes a ResNet with random weights and statistics, in evaluation mode."""
    from torch import nn

    class Bottleneck(nn.Module):
        def __init__(self, inputs, inner, stride):
            super().__init__()
            outputs = 4 * inner
            self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(inner)
            self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(inner)
            self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(outputs)
            self.relu = nn.ReLU()
            self.downsample = None
            if stride != 1 or inputs != outputs:
                self.downsample = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                    nn.BatchNorm2d(outputs),
                )

        def forward(self, x):
            y = self.relu(self.bn1(self.conv1(x)))
            y = self.relu(self.bn2(self.conv2(y)))
            y = self.bn3(self.conv3(y))
            return self.relu(y + (x if self.downsample is None else self.downsample(x)))

    twin = nn.Module()
    twin.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
    twin.bn1 = nn.BatchNorm2d(width)
    twin.maxpool = nn.MaxPool2d(3, 2, padding=1)
    channels = width
    for number, depth in enumerate(depths):
        inner, blocks = width * 2**number, []
        for repeat in range(depth):
            stride = 2 if number > 0 and repeat == 0 else 1
            blocks.append(Bottleneck(channels, inner, stride))
            channels = 4 * inner
        twin.add_module(f"layer{number + 1}", nn.Sequential(*blocks))
    return _draw_weights(twin, seed=seed)


def resnet_maps(twin: Any, planes: Any) -> Iterator[Any]:
    """Computes the maps after the stem, its pooling and each layer."""
    maps = twin.bn1(twin.conv1(planes)).relu()
    yield maps
    for name in ("maxpool", "layer1", "layer2", "layer3", "layer4"):
        maps = getattr(twin, name)(maps)
        yield maps


def _draw_weights(twin: Any, *, seed: int) -> Any:
    """Draws weights that keep the scale of maps, and statistics far from 0 and 1."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    with torch.no_grad():
        for module in twin.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    module.bias.normal_(0, 0.2)
            elif isinstance(module, nn.BatchNorm2d):
                numbers = module.state_dict()
                for name in ("weight", "running_var"):
                    numbers[name].uniform_(0.5, 1.5)
                for name in ("bias", "running_mean"):
                    numbers[name].normal_(0, 0.2)
    return twin.eval()


def resnet_names(layer: str) -> tuple[str, str]:
    """Torchvision's names of a layer's convolution and of its batch norm."""
    if layer.endswith("downsample"):
        return f"{layer}.0", f"{layer}.1"
    return layer, layer.replace("conv", "bn")


def vgg16_names(network: Network) -> dict[str, tuple[str, None]]:
    """Torchvision's names of the convolutions of VGG16, which have no batch norms."""
    # A ReLU follows each, a pooling the last of each group.
    position, group, names = 0, "1", {}
    for name in network.layers():
        block = name.removeprefix("conv")[0]
        position += block != group
        group = block
        names[name] = f"features.{position}", None
        position += 2
    return names


def copy_weights(
    network: Network, twin: Any, names: Mapping[str, tuple[str, str | None]]
) -> None:
    """Copies a twin's weights into a network, with batch norms folded.

    Args:
        network: The network; its weights are replaced.
        twin: The twin in PyTorch.
        names: For each layer of the network its convolution and batch norm in the twin.
    """
    tensors = {name: value.numpy() for name, value in twin.state_dict().items()}
    for name, layer in network.layers().items():
        convolution, norm = names[name]
        kernel = tensors[f"{convolution}.weight"].transpose(2, 3, 1, 0)
        bias = tensors.get(f"{convolution}.bias")
        if norm is not None:
            kernel, bias = fold_batch_norm(
                kernel,
                bias,
                gain=tensors[f"{norm}.weight"],
                offset=tensors[f"{norm}.bias"],
                mean=tensors[f"{norm}.running_mean"],
                variance=tensors[f"{norm}.running_var"],
                epsilon=EPSILON,
            )
        layer.kernel.set_value(jnp.asarray(kernel, jnp.float32))
        layer.bias.set_value(jnp.asarray(bias, jnp.float32))


def he_normal(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
    """Draws a kernel by He's rule, in NumPy, so that nothing is compiled."""
    seed = np.asarray(jax.random.key_data(key))
    deviation = np.sqrt(2 / np.prod(shape[:-1]))
    numbers = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return jnp.asarray(numbers * np.float32(deviation), dtype)
