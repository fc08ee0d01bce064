"""Name maps from layers of a network to tensors of a file, and their detection."""

import functools
import re
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from diffjax.networks import IMAGENET_SCALING, PixelScaling

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
_SYMMETRIC_SCALING = PixelScaling(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5))
_LITE_SCALING = PixelScaling(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
_TENSORFLOW_EPSILON = 1e-3
_BATCH_COUNTERS = r".+\.num_batches_tracked"
# Tensors of cirtorch beside the network: power of the pooling, and whitening.
_CIRTORCH_EXTRAS = ("pool.p", "whiten.weight", "whiten.bias")
_VGG16_BLOCKS = (2, 2, 3, 3, 3)
_LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)
_MAX_SHOWN_NAMES = 3  # Names that an error lists.


class LayerTensors(NamedTuple):
    """Names of a layer's tensors in a file: kernel, and bias or batch norm or both.

    Attributes:
        kernel: Name of the kernel.
        bias: Name of the bias; None where the layer has none.
        batch_norm: Prefix of the names of the batch norm after the layer; None where
            there is none.
    """

    kernel: str
    bias: str | None = None
    batch_norm: str | None = None

    def names(self) -> tuple[str, ...]:
        """Lists the tensors: kernel, bias, then gain, offset, mean and variance."""
        names = (self.kernel,) if self.bias is None else (self.kernel, self.bias)
        return names if self.batch_norm is None else names + self.batch_norm_names()

    def batch_norm_names(self) -> tuple[str, ...]:
        """Lists gain, offset, mean and variance of the batch norm after the layer."""
        return tuple(f"{self.batch_norm}.{name}" for name in _BATCH_NORM)


class NameMap(NamedTuple):
    """Name map of one architecture, as one publisher names its weights.

    Attributes:
        name: Publisher of the names, such as torchvision.
        layers: Tensors of each layer, by the layer's name in the network.
        scaling: Pixel scaling that the weights need; None where the file states it.
        epsilon: Number that batch norms add to the variance.
        extra_tensors: Names of optional tensors that are read and are no part of the
            network.
        ignored_patterns: Regular expressions for names of optional tensors that are
            not needed.
    """

    name: str
    layers: Mapping[str, LayerTensors]
    scaling: PixelScaling | None
    epsilon: float = 1e-5
    extra_tensors: tuple[str, ...] = ()
    ignored_patterns: tuple[str, ...] = ()

    def required_names(self) -> tuple[str, ...]:
        """Lists the tensors that a file must have, layer by layer."""
        return tuple(n for source in self.layers.values() for n in source.names())

    def is_ignored(self, name: str) -> bool:
        """Whether a tensor of this name is known and not needed."""
        return any(re.fullmatch(pattern, name) for pattern in self.ignored_patterns)


def detect_name_map(
    architecture: str, names: Collection[str], *, source: str = "The file"
) -> NameMap:
    """Detects the name map of an architecture that fits a file exactly.

    Args:
        architecture: Architecture that the file should hold; a key of `name_maps`.
        names: Names of the file's tensors.
        source: Name of the file, for error messages.

    Returns:
        The first name map of the architecture with which no name is missing and none is
        left over.

    Raises:
        ValueError: If none fits; the message says what the file looks like.
    """
    tables = name_maps()
    nearest = min(
        (_compare_names(architecture, table, names) for table in tables[architecture]),
        key=lambda comparison: comparison.differences,
    )
    if nearest.differences == 0:
        return nearest.table
    all_comparisons = [
        _compare_names(name, table, names)
        for name, maps in tables.items()
        for table in maps
    ]
    likeness = _describe_closest(
        min(all_comparisons, key=lambda comparison: comparison.differences)
    )
    raise ValueError(
        f"{source}: the tensors must be those of {architecture}; they look like "
        f"{likeness}. Held against {architecture} in the naming of "
        f"{nearest.table.name}, missing: {_format_names(nearest.missing)}; left over: "
        f"{_format_names(nearest.unexpected)}."
    )


class _NameDifference(NamedTuple):
    """Difference between a name map and the names of a file.

    Attributes:
        architecture: Architecture of the name map.
        table: The name map.
        missing: Required names that the file lacks, in the order of the name map.
        unexpected: Names of the file that the name map lacks, in the file's order.
    """

    architecture: str
    table: NameMap
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    @property
    def differences(self) -> int:
        """Number of names that differ."""
        return len(self.missing) + len(self.unexpected)


def _compare_names(
    architecture: str, table: NameMap, names: Collection[str]
) -> _NameDifference:
    present, required_names = frozenset(names), table.required_names()
    known = frozenset((*required_names, *table.extra_tensors))
    return _NameDifference(
        architecture,
        table,
        missing=tuple(name for name in required_names if name not in present),
        unexpected=tuple(
            name for name in names if name not in known and not table.is_ignored(name)
        ),
    )


def _describe_closest(nearest: _NameDifference) -> str:
    """Names the architecture that a file fits or resembles most, if any."""
    known = f"{nearest.architecture} in the naming of {nearest.table.name}"
    if nearest.differences == 0:
        return known
    if 2 * len(nearest.missing) > len(nearest.table.required_names()):
        return "none of " + ", ".join(name_maps())
    return f"{known}, but not exactly"


def _format_names(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_MAX_SHOWN_NAMES]) or "nothing"
    num_hidden = len(names) - _MAX_SHOWN_NAMES
    return f"{shown} and {num_hidden} more" if num_hidden > 0 else shown


@functools.cache
def name_maps() -> Mapping[str, tuple[NameMap, ...]]:
    """Lists the name maps of each architecture.

    Two name maps of an architecture name all layers alike only where they differ in
    their optional tensors; the first that fits is then used.
    """
    return MappingProxyType(
        {
            "vgg16": vgg16_name_maps(),
            "resnet50": resnet_name_maps((3, 4, 6, 3)),
            "resnet101": resnet_name_maps((3, 4, 23, 3)),
            "efficientnet-lite0": efficientnet_lite0_name_maps(),
        }
    )


def vgg16_name_maps() -> tuple[NameMap, ...]:
    """Lists the name maps of VGG16.

    Files of torch number the layers of one sequence: convolutions, ReLUs and poolings.

    References:
        torchvision/models/vgg.py, https://github.com/pytorch/vision;
        timm/models/vgg.py, https://github.com/huggingface/pytorch-image-models;
        cirtorch/networks/imageretrievalnet.py,
        https://github.com/filipradenovic/cnnimageretrieval-pytorch.
    """
    positions = tuple(_vgg16_layer_positions())

    def torch_names(prefix: str) -> Mapping[str, LayerTensors]:
        return {
            layer: LayerTensors(f"{prefix}{number}.weight", f"{prefix}{number}.bias")
            for layer, number in positions
        }

    matconvnet_names = {
        layer: LayerTensors(f"{layer}.weight", f"{layer}.bias")
        for layer, _ in positions
    }
    return (
        # Before torchvision: a file without a classifier is of cirtorch.
        NameMap(
            "cirtorch",
            torch_names("features."),
            IMAGENET_SCALING,
            extra_tensors=_CIRTORCH_EXTRAS,
        ),
        NameMap(
            "torchvision",
            torch_names("features."),
            IMAGENET_SCALING,
            ignored_patterns=(r"classifier\.[036]\.(weight|bias)",),
        ),
        NameMap(
            "timm",
            torch_names("features."),
            IMAGENET_SCALING,
            ignored_patterns=(r"(pre_logits\.fc[12]|head\.fc)\.(weight|bias)",),
        ),
        NameMap("cirtorch-features", torch_names(""), IMAGENET_SCALING),
        NameMap(
            "matconvnet",
            matconvnet_names,
            None,
            ignored_patterns=(r"fc[678]\.(weight|bias)",),
        ),
    )


def _vgg16_layer_positions() -> Iterator[tuple[str, int]]:
    """Yields each convolution's name and its position in the sequence of layers."""
    position = 0
    for block, size in enumerate(_VGG16_BLOCKS, start=1):
        for number in range(1, size + 1):
            yield f"conv{block}_{number}", position
            position += 2  # A ReLU follows.
        position += 1  # A pooling follows.


def resnet_name_maps(depths: tuple[int, ...]) -> tuple[NameMap, ...]:
    """Lists the name maps of a ResNet of bottleneck blocks.

    Args:
        depths: Number of blocks of each of the four layers.

    References:
        torchvision/models/resnet.py, https://github.com/pytorch/vision, whose names
        timm keeps; cirtorch/networks/imageretrievalnet.py,
        https://github.com/filipradenovic/cnnimageretrieval-pytorch.
    """
    # Positions among the children of the network: a ReLU and a pooling follow bn1.
    numbered = {"conv1": "0", "bn1": "1"} | {
        f"layer{number}": str(number + 3) for number in range(1, len(depths) + 1)
    }

    def numbered_layers(prefix: str) -> Mapping[str, LayerTensors]:
        """Layers whose modules a file numbers, after a prefix."""
        return _resnet_layers(depths, {k: prefix + v for k, v in numbered.items()})

    return (
        NameMap(
            "torchvision",
            _resnet_layers(depths, {name: name for name in numbered}),
            IMAGENET_SCALING,
            ignored_patterns=(r"fc\.(weight|bias)", _BATCH_COUNTERS),
        ),
        NameMap(
            "cirtorch",
            numbered_layers("features."),
            IMAGENET_SCALING,
            extra_tensors=_CIRTORCH_EXTRAS,
            ignored_patterns=(_BATCH_COUNTERS,),
        ),
        NameMap(
            "cirtorch-features",
            numbered_layers(""),
            IMAGENET_SCALING,
            ignored_patterns=(_BATCH_COUNTERS,),
        ),
    )


def _resnet_layers(
    depths: tuple[int, ...], children: Mapping[str, str]
) -> Mapping[str, LayerTensors]:
    """Maps the convolutions; `children` has the file's name of each child module."""
    layers = {
        "conv1": LayerTensors(f"{children['conv1']}.weight", batch_norm=children["bn1"])
    }
    for number, depth in enumerate(depths, start=1):
        for block in range(depth):
            target = f"layer{number}.{block}"
            source = f"{children[f'layer{number}']}.{block}"
            for step in (1, 2, 3):
                layers[f"{target}.conv{step}"] = LayerTensors(
                    f"{source}.conv{step}.weight", batch_norm=f"{source}.bn{step}"
                )
            if block == 0:
                layers[f"{target}.downsample"] = LayerTensors(
                    f"{source}.downsample.0.weight", batch_norm=f"{source}.downsample.1"
                )
    return layers


def efficientnet_lite0_name_maps() -> tuple[NameMap, ...]:
    """Lists the name maps of EfficientNet-Lite0.

    That of timm is for its `tf_efficientnet_lite0`. Its `efficientnet_lite0` has the
    same names and shapes but another padding, so its files cannot be refused and give
    wrong maps.

    References:
        timm/models/_efficientnet_blocks.py,
        https://github.com/huggingface/pytorch-image-models;
        efficientnet_pytorch/model.py,
        https://github.com/lukemelas/EfficientNet-PyTorch.
    """
    return (
        NameMap(
            "lukemelas",
            _lukemelas_layers(),
            _LITE_SCALING,
            epsilon=_TENSORFLOW_EPSILON,
            ignored_patterns=(_BATCH_COUNTERS,),
        ),
        NameMap(
            "timm",
            _timm_lite0_layers(),
            _SYMMETRIC_SCALING,
            epsilon=_TENSORFLOW_EPSILON,
            ignored_patterns=(_BATCH_COUNTERS,),
        ),
    )


def _lukemelas_layers() -> Mapping[str, LayerTensors]:
    layers = {"stem": LayerTensors("_conv_stem.weight", batch_norm="_bn0")}
    for block in range(sum(_LITE0_STAGES)):
        steps = {"expand": "0", "depthwise": "1", "project": "2"}
        if block == 0:
            del steps["expand"]
        for step, number in steps.items():
            source = f"_blocks.{block}."
            layers[f"blocks.{block}.{step}"] = LayerTensors(
                f"{source}_{step}_conv.weight", batch_norm=f"{source}_bn{number}"
            )
    layers["head"] = LayerTensors("_conv_head.weight", batch_norm="_bn1")
    layers["classifier"] = LayerTensors("_fc.weight", "_fc.bias")
    return layers


def _timm_lite0_layers() -> Mapping[str, LayerTensors]:
    layers = {"stem": LayerTensors("conv_stem.weight", batch_norm="bn1")}
    blocks = [(s, r) for s, size in enumerate(_LITE0_STAGES) for r in range(size)]
    for block, (stage, repeat) in enumerate(blocks):
        steps = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
        if block == 0:  # Without an expansion: a block with other names.
            steps = {"depthwise": "conv_dw", "project": "conv_pw"}
        for number, (step, convolution) in enumerate(steps.items(), start=1):
            source = f"blocks.{stage}.{repeat}."
            layers[f"blocks.{block}.{step}"] = LayerTensors(
                f"{source}{convolution}.weight", batch_norm=f"{source}bn{number}"
            )
    layers["head"] = LayerTensors("conv_head.weight", batch_norm="bn2")
    layers["classifier"] = LayerTensors("classifier.weight", "classifier.bias")
    return layers
