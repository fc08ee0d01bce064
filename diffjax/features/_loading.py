"""Networks from files of weights, whoever wrote them."""

import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from flax import nnx

from diffjax._files import file_digest

from ._checkpoint import read_checkpoint
from ._cirtorch import gem_power_of, scaling_of, whitenings_of
from ._efficientnet import EfficientNetLite0
from ._filling import fill
from ._names import NameTable
from ._network import Network, PixelScaling
from ._pretrained import Pretrained
from ._recognition import recognise
from ._resnet import resnet50, resnet101
from ._state_dict import Checkpoint
from ._vgg import VGG16

_NETWORKS: Mapping[str, Callable[..., Network]] = MappingProxyType(
    {
        "vgg16": VGG16,
        "resnet50": resnet50,
        "resnet101": resnet101,
        "efficientnet-lite0": EfficientNetLite0,
    }
)


def network_names() -> tuple[str, ...]:
    """Lists the architectures that `load_network` knows."""
    return tuple(_NETWORKS)


def load_network(architecture: str, path: str | os.PathLike[str]) -> Pretrained:
    """Loads a network from a file of weights.

    The file may be of any kind that `read_checkpoint` reads, with tensors named as by

    - torchvision: vgg16, resnet50, resnet101;
    - timm: the same, and its tf_efficientnet_lite0 (not its efficientnet_lite0, whose
      tensors look the same and mean another padding);
    - cirtorch (cnnimageretrieval-pytorch): whole networks of vgg16, resnet50 and
      resnet101, and files of features alone;
    - MatConvNet: vgg16;
    - lukemelas (EfficientNet-PyTorch and the pip package): efficientnet-lite0.

    Which of them it is shows in the names; every tensor is then used once, or is known
    and not needed, as the classifiers of VGG16 and ResNet are. Batch norms are folded
    into the convolutions, in float64.

    Args:
        architecture: One of `network_names`.
        path: The file.

    Returns:
        The network and what else the file holds for it.

    Raises:
        ValueError: If the architecture is unknown, or the file is damaged, of another
            kind or of another network, has a tensor too many or too few, or one of
            another shape or with numbers that are not finite.
        OSError: If the file can't be read.
    """
    if architecture not in _NETWORKS:
        raise ValueError(
            f"architecture must be one of {', '.join(_NETWORKS)}, got {architecture!r}."
        )
    path = pathlib.Path(path)
    checkpoint = read_checkpoint(path)
    table = recognise(architecture, checkpoint.tensors, source=checkpoint.source)
    build = functools.partial(
        _NETWORKS[architecture],
        scaling=_scaling(table, checkpoint),
        kernel_init=nnx.initializers.zeros,
    )
    # Shapes alone: the weights that it would draw are not needed.
    network = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0)))
    fill(network, checkpoint.tensors, table, source=f"{path} as {architecture}")
    return Pretrained(
        network=network,
        architecture=architecture,
        naming=table.name,
        fingerprint=file_digest(path),
        gem_power=gem_power_of(checkpoint) if table.beside else None,
        whitenings=whitenings_of(checkpoint) if table.beside else {},
    )


def _scaling(table: NameTable, checkpoint: Checkpoint) -> PixelScaling:
    """Finds how pixels are scaled: what the file says goes before what is usual."""
    if table.scaling is not None:
        found = scaling_of(checkpoint) if table.beside else None
        return table.scaling if found is None else found
    average = checkpoint.extras.get("average_image")
    if not isinstance(average, np.ndarray) or average.shape != (3,):
        raise ValueError(
            f"{checkpoint.source}: the file must hold an average image of three "
            f"colours, got {'none' if average is None else average}."
        )
    red, green, blue = average.astype(np.float64).tolist()
    return PixelScaling(mean=(red, green, blue), std=(1.0, 1.0, 1.0))
