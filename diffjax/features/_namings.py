"""What the layers of each network are called in files of weights."""

import functools
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from ._names import NameTable, Source
from ._network import IMAGENET_SCALING, PixelScaling

_HALVES = PixelScaling(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5))
_LITE = PixelScaling(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))

_TENSORFLOW_EPSILON = 1e-3

_COUNTERS = r".+\.num_batches_tracked"
# What cirtorch keeps beside the network: its pooling's power and its whitening.
_DESCRIPTOR = ("pool.p", "whiten.weight", "whiten.bias")

_VGG16_BLOCKS = (2, 2, 3, 3, 3)
_LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)


@functools.cache
def name_tables() -> Mapping[str, tuple[NameTable, ...]]:
    """Lists the namings that are known of each architecture.

    No two of an architecture share the names of all their layers, except where all that
    differs is what a file may have besides; the first that fits then counts.
    """
    return MappingProxyType(
        {
            "vgg16": vgg16_tables(),
            "resnet50": resnet_tables((3, 4, 6, 3)),
            "resnet101": resnet_tables((3, 4, 23, 3)),
            "efficientnet-lite0": efficientnet_lite0_tables(),
        }
    )


def vgg16_tables() -> tuple[NameTable, ...]:
    """Names the convolutions of VGG16.

    In torch's files they are numbered among all that stands in a row: convolutions,
    ReLUs and poolings.

    References:
        torchvision/models/vgg.py, https://github.com/pytorch/vision;
        timm/models/vgg.py, https://github.com/huggingface/pytorch-image-models;
        cirtorch/networks/imageretrievalnet.py,
        https://github.com/filipradenovic/cnnimageretrieval-pytorch.
    """
    numbers = tuple(_vgg16_numbers())

    def in_torch(prefix: str) -> Mapping[str, Source]:
        return {
            layer: Source(f"{prefix}{number}.weight", f"{prefix}{number}.bias")
            for layer, number in numbers
        }

    own = {layer: Source(f"{layer}.weight", f"{layer}.bias") for layer, _ in numbers}
    return (
        # Before torchvision's: without a classifier it is theirs.
        NameTable(
            "cirtorch", in_torch("features."), IMAGENET_SCALING, beside=_DESCRIPTOR
        ),
        NameTable(
            "torchvision",
            in_torch("features."),
            IMAGENET_SCALING,
            unused=(r"classifier\.[036]\.(weight|bias)",),
        ),
        NameTable(
            "timm",
            in_torch("features."),
            IMAGENET_SCALING,
            unused=(r"(pre_logits\.fc[12]|head\.fc)\.(weight|bias)",),
        ),
        NameTable("cirtorch-features", in_torch(""), IMAGENET_SCALING),
        NameTable("matconvnet", own, None, unused=(r"fc[678]\.(weight|bias)",)),
    )


def _vgg16_numbers() -> Iterator[tuple[str, int]]:
    """Gives each convolution's name and its place among all that stands in a row."""
    place = 0
    for block, size in enumerate(_VGG16_BLOCKS, start=1):
        for number in range(1, size + 1):
            yield f"conv{block}_{number}", place
            place += 2  # A ReLU follows.
        place += 1  # A pooling follows.


def resnet_tables(depths: tuple[int, ...]) -> tuple[NameTable, ...]:
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

    def prefixed(prefix: str) -> Mapping[str, Source]:
        return _resnet_layers(depths, {k: prefix + v for k, v in numbered.items()})

    counted = (_COUNTERS,)
    return (
        NameTable(
            "torchvision",
            _resnet_layers(depths, {name: name for name in numbered}),
            IMAGENET_SCALING,
            unused=(r"fc\.(weight|bias)", *counted),
        ),
        NameTable(
            "cirtorch",
            prefixed("features."),
            IMAGENET_SCALING,
            beside=_DESCRIPTOR,
            unused=counted,
        ),
        NameTable("cirtorch-features", prefixed(""), IMAGENET_SCALING, unused=counted),
    )


def _resnet_layers(
    depths: tuple[int, ...], called: Mapping[str, str]
) -> Mapping[str, Source]:
    """Names the convolutions, given what the children of the network are called."""
    found = {"conv1": Source(f"{called['conv1']}.weight", batch_norm=called["bn1"])}
    for number, depth in enumerate(depths, start=1):
        for block in range(depth):
            ours = f"layer{number}.{block}"
            theirs = f"{called[f'layer{number}']}.{block}"
            for step in (1, 2, 3):
                found[f"{ours}.conv{step}"] = Source(
                    f"{theirs}.conv{step}.weight", batch_norm=f"{theirs}.bn{step}"
                )
            if block == 0:
                found[f"{ours}.downsample"] = Source(
                    f"{theirs}.downsample.0.weight", batch_norm=f"{theirs}.downsample.1"
                )
    return found


def efficientnet_lite0_tables() -> tuple[NameTable, ...]:
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
        NameTable(
            "lukemelas",
            _lukemelas_layers(),
            _LITE,
            epsilon=_TENSORFLOW_EPSILON,
            unused=(_COUNTERS,),
        ),
        NameTable(
            "timm",
            _timm_lite0_layers(),
            _HALVES,
            epsilon=_TENSORFLOW_EPSILON,
            unused=(_COUNTERS,),
        ),
    )


def _lukemelas_layers() -> Mapping[str, Source]:
    found = {"stem": Source("_conv_stem.weight", batch_norm="_bn0")}
    for block in range(sum(_LITE0_STAGES)):
        steps = {"expand": "0", "depthwise": "1", "project": "2"}
        if block == 0:
            del steps["expand"]
        for step, number in steps.items():
            theirs = f"_blocks.{block}."
            found[f"blocks.{block}.{step}"] = Source(
                f"{theirs}_{step}_conv.weight", batch_norm=f"{theirs}_bn{number}"
            )
    found["head"] = Source("_conv_head.weight", batch_norm="_bn1")
    found["classifier"] = Source("_fc.weight", "_fc.bias")
    return found


def _timm_lite0_layers() -> Mapping[str, Source]:
    found = {"stem": Source("conv_stem.weight", batch_norm="bn1")}
    places = [(s, r) for s, size in enumerate(_LITE0_STAGES) for r in range(size)]
    for block, (stage, repeat) in enumerate(places):
        steps = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
        if block == 0:  # It does not widen: another kind of block, with other names.
            steps = {"depthwise": "conv_dw", "project": "conv_pw"}
        for number, (step, convolution) in enumerate(steps.items(), start=1):
            theirs = f"blocks.{stage}.{repeat}."
            found[f"blocks.{block}.{step}"] = Source(
                f"{theirs}{convolution}.weight", batch_norm=f"{theirs}bn{number}"
            )
    found["head"] = Source("conv_head.weight", batch_norm="bn2")
    found["classifier"] = Source("classifier.weight", "classifier.bias")
    return found
