"""Name maps from the layers of a network to the tensors of a file, and detection."""

import functools
import re
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from diffjax.networks import IMAGENET_SCALING, PixelScaling

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


class LayerTensors(NamedTuple):
    """Where a layer's weights come from: a kernel, and a bias or a batch norm or both.

    Attributes:
        kernel: Name of its kernel in the file.
        bias: Name of its bias; None where it has none.
        batch_norm: Prefix of the names of the batch norm that follows; None where none
            does.
    """

    kernel: str
    bias: str | None = None
    batch_norm: str | None = None

    def names(self) -> tuple[str, ...]:
        """Lists the tensors: kernel, bias, then gain, offset, mean and variance."""
        found = (self.kernel,) if self.bias is None else (self.kernel, self.bias)
        return found if self.batch_norm is None else found + self.batch_norm_names()

    def batch_norm_names(self) -> tuple[str, ...]:
        """Lists gain, offset, mean and variance of the batch norm that follows."""
        return tuple(f"{self.batch_norm}.{name}" for name in _BATCH_NORM)


class NameMap(NamedTuple):
    """One way of naming the weights of one architecture.

    Attributes:
        name: Whose way it is.
        layers: The source of each layer, by the layer's name in the network.
        scaling: What happens to pixels before they enter the network; None where the
            file has to say it.
        epsilon: What is added to the variances of batch norms.
        extra_tensors: Tensors that are no part of the network and are read all the
            same; a file may lack them.
        ignored_patterns: Regular expressions for names that are known and not needed; a
            file may lack them.
    """

    name: str
    layers: Mapping[str, LayerTensors]
    scaling: PixelScaling | None
    epsilon: float = 1e-5
    extra_tensors: tuple[str, ...] = ()
    ignored_patterns: tuple[str, ...] = ()

    def required_names(self) -> tuple[str, ...]:
        """Lists the tensors that a file must have, layer after layer."""
        return tuple(n for source in self.layers.values() for n in source.names())

    def is_ignored(self, name: str) -> bool:
        """Whether a tensor of this name is known and not needed."""
        return any(re.fullmatch(pattern, name) for pattern in self.ignored_patterns)


_SYMMETRIC_SCALING = PixelScaling(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5))
_LITE_SCALING = PixelScaling(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))

_TENSORFLOW_EPSILON = 1e-3

_BATCH_COUNTERS = r".+\.num_batches_tracked"
# What cirtorch keeps beside the network: its pooling's power and its whitening.
_CIRTORCH_EXTRAS = ("pool.p", "whiten.weight", "whiten.bias")

_VGG16_BLOCKS = (2, 2, 3, 3, 3)
_LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)


@functools.cache
def name_maps() -> Mapping[str, tuple[NameMap, ...]]:
    """Lists the namings that are known of each architecture.

    No two of an architecture share the names of all their layers, except where all that
    differs is what a file may have besides; the first that fits then counts.
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
    """Names the convolutions of VGG16.

    In torch's files they are numbered among all that stands in a row: convolutions,
    ReLUs and poolings.

    References:
        torchvision/models/vgg.py, https://github.com/pytorch/vision;
        timm/models/vgg.py, https://github.com/huggingface/pytorch-image-models;
        cirtorch/networks/imageretrievalnet.py,
        https://github.com/filipradenovic/cnnimageretrieval-pytorch.
    """
    numbers = tuple(_vgg16_layer_positions())

    def in_torch(prefix: str) -> Mapping[str, LayerTensors]:
        return {
            layer: LayerTensors(f"{prefix}{number}.weight", f"{prefix}{number}.bias")
            for layer, number in numbers
        }

    own = {
        layer: LayerTensors(f"{layer}.weight", f"{layer}.bias") for layer, _ in numbers
    }
    return (
        # Before torchvision's: without a classifier it is theirs.
        NameMap(
            "cirtorch",
            in_torch("features."),
            IMAGENET_SCALING,
            extra_tensors=_CIRTORCH_EXTRAS,
        ),
        NameMap(
            "torchvision",
            in_torch("features."),
            IMAGENET_SCALING,
            ignored_patterns=(r"classifier\.[036]\.(weight|bias)",),
        ),
        NameMap(
            "timm",
            in_torch("features."),
            IMAGENET_SCALING,
            ignored_patterns=(r"(pre_logits\.fc[12]|head\.fc)\.(weight|bias)",),
        ),
        NameMap("cirtorch-features", in_torch(""), IMAGENET_SCALING),
        NameMap("matconvnet", own, None, ignored_patterns=(r"fc[678]\.(weight|bias)",)),
    )


def _vgg16_layer_positions() -> Iterator[tuple[str, int]]:
    """Gives each convolution's name and its place among all that stands in a row."""
    place = 0
    for block, size in enumerate(_VGG16_BLOCKS, start=1):
        for number in range(1, size + 1):
            yield f"conv{block}_{number}", place
            place += 2  # A ReLU follows.
        place += 1  # A pooling follows.


def resnet_name_maps(depths: tuple[int, ...]) -> tuple[NameMap, ...]:
    """Names the convolutions of a ResNet with bottlenecks.

    Args:
        depths: Blocks of each of its four layers.

    References:
        torchvision/models/resnet.py, https://github.com/pytorch/vision, whose names
        timm keeps; cirtorch/networks/imageretrievalnet.py,
        https://github.com/filipradenovic/cnnimageretrieval-pytorch.
    """
    # Their places among the children of the network: after bn1, ReLU and a pooling.
    numbered = {"conv1": "0", "bn1": "1"} | {
        f"layer{number}": str(number + 3) for number in range(1, len(depths) + 1)
    }

    def prefixed(prefix: str) -> Mapping[str, LayerTensors]:
        return _resnet_layers(depths, {k: prefix + v for k, v in numbered.items()})

    counted = (_BATCH_COUNTERS,)
    return (
        NameMap(
            "torchvision",
            _resnet_layers(depths, {name: name for name in numbered}),
            IMAGENET_SCALING,
            ignored_patterns=(r"fc\.(weight|bias)", *counted),
        ),
        NameMap(
            "cirtorch",
            prefixed("features."),
            IMAGENET_SCALING,
            extra_tensors=_CIRTORCH_EXTRAS,
            ignored_patterns=counted,
        ),
        NameMap(
            "cirtorch-features",
            prefixed(""),
            IMAGENET_SCALING,
            ignored_patterns=counted,
        ),
    )


def _resnet_layers(
    depths: tuple[int, ...], called: Mapping[str, str]
) -> Mapping[str, LayerTensors]:
    """Names the convolutions, given what the children of the network are called."""
    found = {
        "conv1": LayerTensors(f"{called['conv1']}.weight", batch_norm=called["bn1"])
    }
    for number, depth in enumerate(depths, start=1):
        for block in range(depth):
            ours = f"layer{number}.{block}"
            theirs = f"{called[f'layer{number}']}.{block}"
            for step in (1, 2, 3):
                found[f"{ours}.conv{step}"] = LayerTensors(
                    f"{theirs}.conv{step}.weight", batch_norm=f"{theirs}.bn{step}"
                )
            if block == 0:
                found[f"{ours}.downsample"] = LayerTensors(
                    f"{theirs}.downsample.0.weight", batch_norm=f"{theirs}.downsample.1"
                )
    return found


def efficientnet_lite0_name_maps() -> tuple[NameMap, ...]:
    """Names the layers of EfficientNet-Lite0.

    Those of timm are for its `tf_efficientnet_lite0`. Its `efficientnet_lite0` has the
    same names and shapes but other padding, so a file can't be told apart; it would
    give wrong maps.

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
    found = {"stem": LayerTensors("_conv_stem.weight", batch_norm="_bn0")}
    for block in range(sum(_LITE0_STAGES)):
        steps = {"expand": "0", "depthwise": "1", "project": "2"}
        if block == 0:
            del steps["expand"]
        for step, number in steps.items():
            theirs = f"_blocks.{block}."
            found[f"blocks.{block}.{step}"] = LayerTensors(
                f"{theirs}_{step}_conv.weight", batch_norm=f"{theirs}_bn{number}"
            )
    found["head"] = LayerTensors("_conv_head.weight", batch_norm="_bn1")
    found["classifier"] = LayerTensors("_fc.weight", "_fc.bias")
    return found


def _timm_lite0_layers() -> Mapping[str, LayerTensors]:
    found = {"stem": LayerTensors("conv_stem.weight", batch_norm="bn1")}
    places = [(s, r) for s, size in enumerate(_LITE0_STAGES) for r in range(size)]
    for block, (stage, repeat) in enumerate(places):
        steps = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
        if block == 0:  # It does not widen: another kind of block, with other names.
            steps = {"depthwise": "conv_dw", "project": "conv_pw"}
        for number, (step, convolution) in enumerate(steps.items(), start=1):
            theirs = f"blocks.{stage}.{repeat}."
            found[f"blocks.{block}.{step}"] = LayerTensors(
                f"{theirs}{convolution}.weight", batch_norm=f"{theirs}bn{number}"
            )
    found["head"] = LayerTensors("conv_head.weight", batch_norm="bn2")
    found["classifier"] = LayerTensors("classifier.weight", "classifier.bias")
    return found


_MAX_SHOWN_NAMES = 3  # Names that an error lists.


class _NameDifference(NamedTuple):
    """A table held against the names of a file.

    Attributes:
        architecture: The architecture that the table is of.
        table: The table.
        missing: What the file should have and has not, in the table's order.
        unexpected: What it has and should not, in the file's order.
    """

    architecture: str
    table: NameMap
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    @property
    def differences(self) -> int:
        """How many names differ."""
        return len(self.missing) + len(self.unexpected)


def detect_name_map(
    architecture: str, names: Collection[str], *, source: str = "The file"
) -> NameMap:
    """Finds the naming of an architecture that a file follows to the letter.

    Args:
        architecture: What the file should hold; one of `name_maps`.
        names: The file's tensors.
        source: The file, for messages.

    Returns:
        The first of the architecture's tables with which nothing is missing and nothing
        left over.

    Raises:
        ValueError: If there is none; the message says what the file looks like.
    """
    tables = name_maps()
    nearest = min(
        (_compare_names(architecture, table, names) for table in tables[architecture]),
        key=lambda comparison: comparison.differences,
    )
    if nearest.differences == 0:
        return nearest.table
    every = [
        _compare_names(name, table, names)
        for name, known in tables.items()
        for table in known
    ]
    likeness = _describe_closest(
        min(every, key=lambda comparison: comparison.differences)
    )
    raise ValueError(
        f"{source}: the tensors must be those of {architecture}; they look like "
        f"{likeness}. Held against {architecture} in the naming of "
        f"{nearest.table.name}, missing: {_format_names(nearest.missing)}; left over: "
        f"{_format_names(nearest.unexpected)}."
    )


def _compare_names(
    architecture: str, table: NameMap, names: Collection[str]
) -> _NameDifference:
    there, required_names = frozenset(names), table.required_names()
    known = frozenset((*required_names, *table.extra_tensors))
    return _NameDifference(
        architecture,
        table,
        missing=tuple(name for name in required_names if name not in there),
        unexpected=tuple(
            name for name in names if name not in known and not table.is_ignored(name)
        ),
    )


def _describe_closest(nearest: _NameDifference) -> str:
    """Says what a file is, or what it is most like, if it is like anything."""
    known = f"{nearest.architecture} in the naming of {nearest.table.name}"
    if nearest.differences == 0:
        return known
    if 2 * len(nearest.missing) > len(nearest.table.required_names()):
        return "none of " + ", ".join(name_maps())
    return f"{known}, but not exactly"


def _format_names(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_MAX_SHOWN_NAMES]) or "nothing"
    more = len(names) - _MAX_SHOWN_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
