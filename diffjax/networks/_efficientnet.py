"""EfficientNet-Lite0 for pictures of several sizes, padded to one canvas."""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from ._layers import (
    ConvolutionLayer,
    depthwise_convolution,
    mask_padding,
    pointwise_convolution,
    same_padding_convolution,
)
from ._protocol import PixelScaling, Sizes

_NUM_CLASSES = 1000
_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280
_KERNEL_INIT = nnx.initializers.he_normal()
_LITE_SCALING = PixelScaling(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))


class _Stage(NamedTuple):
    """Row of the architecture table: consecutive blocks of one width.

    Attributes:
        repeats: Number of blocks.
        size: Side of the depthwise kernel in cells.
        stride: Stride of the first block; the others have stride 1.
        expansion: Inner channels over input channels.
        channels: Output channels.
    """

    repeats: int
    size: int
    stride: int
    expansion: int
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


class _InvertedResidualBlock(nnx.Module):
    """Inverted residual block: expansion, depthwise convolution, projection."""

    def __init__(
        self,
        inputs: int,
        stage: _Stage,
        *,
        stride: int,
        kernel_init: nnx.Initializer,
        rngs: nnx.Rngs,
    ) -> None:
        """Draws the weights for maps of `inputs` channels."""
        layer = functools.partial(ConvolutionLayer, kernel_init=kernel_init, rngs=rngs)
        width = inputs * stage.expansion
        self.expand = (
            layer(pointwise_convolution, (1, 1, inputs, width))
            if stage.expansion > 1
            else None
        )
        self.depthwise = layer(
            depthwise_convolution, (stage.size, stage.size, 1, width), stride=stride
        )
        self.project = layer(pointwise_convolution, (1, 1, width, stage.channels))
        self.residual = stride == 1 and inputs == stage.channels

    def layers(self) -> dict[str, ConvolutionLayer]:
        """Lists the convolutions in the order in which they are applied."""
        layers = {"depthwise": self.depthwise, "project": self.project}
        return layers if self.expand is None else {"expand": self.expand, **layers}

    def __call__(
        self, maps: Float[Array, "b h w i"], sizes: Int[Array, "b 2"]
    ) -> Float[Array, "b y x o"]:
        """Computes the output maps; the first `sizes` cells of each input are real."""
        expanded = maps if self.expand is None else jax.nn.relu6(self.expand(maps))
        filtered = jax.nn.relu6(self.depthwise(mask_padding(expanded, sizes)))
        outputs = self.project(filtered)
        return maps + outputs if self.residual else outputs


class EfficientNetLite0(nnx.Module):
    """EfficientNet-Lite0: a stem, seven stages of inverted residual blocks, a head.

    The activation is ReLU6, there is no squeeze-and-excite, padding is TensorFlow's
    `SAME`, and batch norms are folded into the convolutions. A picture may lie at the
    top left of a larger canvas: the padding is set to zero before every convolution
    that looks at neighbours, so the maps are those of the picture alone.

    Attributes:
        strides: Pixels per cell of each named map. The real part of a map has the
            picture's size over the stride; the rest is 0.
        multiple: 32: the side on which `SAME` padding adds its zeros depends on the
            parity of a map's sides, so the sides of canvas and picture must stay even.
        scaling: Scaling of the pixels, applied first.

    References:
        Tan and Le, EfficientNet, ICML 2019, https://arxiv.org/abs/1905.11946, for the
        blocks. The "lite" variant is described by code alone:
        https://github.com/tensorflow/tpu,
        models/official/efficientnet/lite/efficientnet_lite_builder.py.
    """

    strides: ClassVar[Mapping[str, int]] = MappingProxyType(
        {
            "stem": 2,
            "stage1": 2,
            "stage2": 4,
            "stage3": 8,
            "stage4": 16,
            "stage5": 16,
            "stage6": 32,
            "stage7": 32,
            "head": 32,
        }
    )
    multiple: ClassVar[int] = 32

    def __init__(
        self,
        *,
        scaling: PixelScaling = _LITE_SCALING,
        kernel_init: nnx.Initializer = _KERNEL_INIT,
        rngs: nnx.Rngs,
    ) -> None:
        """Draws random weights; `load_efficientnet_lite0` loads trained ones.

        Args:
            scaling: Scaling of the pixels, applied first.
            kernel_init: Draws a kernel [height, width, inputs, outputs]; biases are 0.
            rngs: Random keys of the stream `params`.

        Raises:
            ValueError: If a number in `scaling` is not finite, or a std is not above 0.
        """
        self.scaling = scaling.validated()
        settings = {"kernel_init": kernel_init, "rngs": rngs}
        layer = functools.partial(ConvolutionLayer, **settings)
        channels = _STEM_CHANNELS
        self.stem = layer(same_padding_convolution, (3, 3, 3, channels), stride=2)
        blocks = []
        for stage in _STAGES:
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(
                    _InvertedResidualBlock(channels, stage, stride=stride, **settings)
                )
                channels = stage.channels
        self.blocks = nnx.List(blocks)
        self.head = layer(pointwise_convolution, (1, 1, channels, _HEAD_CHANNELS))
        self.classifier = layer(
            pointwise_convolution, (1, 1, _HEAD_CHANNELS, _NUM_CLASSES)
        )

    def layers(self) -> dict[str, ConvolutionLayer]:
        """Lists every layer that has weights, by its dotted name."""
        layers = {"stem": self.stem}
        for number, block in enumerate(self.blocks):
            layers |= {
                f"blocks.{number}.{name}": layer
                for name, layer in block.layers().items()
            }
        return layers | {"head": self.head, "classifier": self.classifier}

    def cells(self, name: str, sizes: Sizes) -> Sizes:
        """Counts the real cells of a map: true sizes over its stride."""
        return sizes // self.strides[name]

    def __call__(
        self,
        images: Float[Array, "b h w 3"] | UInt8[Array, "b h w 3"],
        sizes: Int[Array, "b 2"],
    ) -> dict[str, Float[Array, "b _ _ _"]]:
        """Computes every named map.

        Args:
            images: Red, green and blue from 0 to 255, each picture at the top left of
                its canvas; both sides of the canvas are multiples of 32 pixels.
            sizes: True (height, width) of each picture in pixels, multiples of 32 from
                32 to the canvas. `forward` checks them, this method does not.

        Returns:
            Maps by their names in `strides`, channels last.

        Raises:
            ValueError: If the canvas is not a multiple of 32 pixels.
        """
        height, width = images.shape[1:3]
        if not height or not width or height % 32 or width % 32:
            raise ValueError(
                "images must have sides that are multiples of 32 px, got "
                f"{height} x {width}."
            )
        pixels = self.scaling.apply(images)
        maps = jax.nn.relu6(self.stem(mask_padding(pixels, sizes)))
        named_maps = {"stem": maps}
        blocks = iter(self.blocks)
        cells = self.cells("stem", sizes)
        for number, stage in enumerate(_STAGES, start=1):
            for _ in range(stage.repeats):
                maps = next(blocks)(maps, cells)
                cells = self.cells(f"stage{number}", sizes)
            named_maps[f"stage{number}"] = maps
        named_maps["head"] = jax.nn.relu6(self.head(maps))
        return {
            name: mask_padding(maps, self.cells(name, sizes))
            for name, maps in named_maps.items()
        }

    def logits(
        self,
        images: Float[Array, "b h w 3"] | UInt8[Array, "b h w 3"],
        sizes: Int[Array, "b 2"],
    ) -> Float[Array, "b classes"]:
        """Computes ImageNet logits: the classifier on the mean of the head map.

        Args:
            images: Pictures on their canvas, as for `__call__`.
            sizes: True sizes of the pictures, as for `__call__`.

        Returns:
            One logit per class, in ImageNet's order.
        """
        head = self(images, sizes)["head"]
        cells = jnp.prod(self.cells("head", sizes), axis=1).astype(head.dtype)
        means = jnp.sum(head, axis=(1, 2), keepdims=True) / cells[:, None, None, None]
        return self.classifier(means)[:, 0, 0]
