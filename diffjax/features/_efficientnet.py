"""EfficientNet-Lite0 on pictures of several sizes in one canvas."""

import functools
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Float, Int, UInt8

from ._convolution import (
    Convolution,
    depthwise_convolution,
    full_convolution,
    pointwise_convolution,
)

_NUM_CLASSES = 1000
_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280
_HE_NORMAL = nnx.initializers.he_normal()


class _Stage(NamedTuple):
    """Blocks of one resolution.

    Attributes:
        repeats: Number of blocks.
        size: Side of the depthwise kernel in cells.
        stride: Step of the first block; the others have 1.
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


class ConvolutionLayer(nnx.Module):
    """A convolution and a bias, with the batch norm that followed folded into both."""

    def __init__(
        self,
        convolve: Convolution,
        shape: tuple[int, ...],
        *,
        stride: int = 1,
        kernel_init: nnx.Initializer,
        rngs: nnx.Rngs,
    ) -> None:
        """Draws the weights of a kernel of shape [height, width, inputs, outputs]."""
        self.convolve = convolve
        self.stride = stride
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(shape[-1:]))

    def __call__(self, maps: Float[Array, "b h w i"]) -> Float[Array, "b y x o"]:
        """Convolves and adds the bias."""
        convolved = self.convolve(maps, self.kernel[...], stride=self.stride)
        return convolved + self.bias[None, None, None]


class _Block(nnx.Module):
    """The inverted residual: wider channels, a depthwise step, narrow channels."""

    def __init__(
        self,
        inputs: int,
        stage: _Stage,
        *,
        stride: int,
        kernel_init: nnx.Initializer,
        rngs: nnx.Rngs,
    ) -> None:
        """Draws the weights for maps of so many channels."""
        layer = functools.partial(ConvolutionLayer, kernel_init=kernel_init, rngs=rngs)
        inner = inputs * stage.expansion
        self.expand = (
            layer(pointwise_convolution, (1, 1, inputs, inner))
            if stage.expansion > 1
            else None
        )
        self.depthwise = layer(
            depthwise_convolution, (stage.size, stage.size, 1, inner), stride=stride
        )
        self.project = layer(pointwise_convolution, (1, 1, inner, stage.channels))
        self.residual = stride == 1 and inputs == stage.channels

    def __call__(
        self, maps: Float[Array, "b h w i"], sizes: Int[Array, "b 2"]
    ) -> Float[Array, "b y x o"]:
        """Transforms maps of which the first `sizes` cells are real."""
        inner = maps if self.expand is None else jax.nn.relu6(self.expand(maps))
        inner = jax.nn.relu6(self.depthwise(_masked(inner, sizes)))
        outputs = self.project(inner)
        return maps + outputs if self.residual else outputs


class EfficientNetLite0(nnx.Module):
    """EfficientNet-Lite0: seven stages of inverted residuals between a stem and a head.

    ReLU6, no squeeze-and-excite, TensorFlow's `SAME` padding, batch norm folded into
    the convolutions. A picture may lie at the top left of a larger canvas: what is
    beyond its true size is set to zero before every convolution that looks at
    neighbours, so the answer is the one that the picture gets alone.

    Attributes:
        strides: For each named map, pixels per cell. The real part of a map has the
            picture's size over the stride; beyond it maps are 0.

    References:
        Tan and Le, EfficientNet, ICML 2019, https://arxiv.org/abs/1905.11946, for the
        blocks. The "lite" variant is described by code alone:
        https://github.com/tensorflow/tpu,
        models/official/efficientnet/lite/efficientnet_lite_builder.py.
    """

    strides: ClassVar[dict[str, int]] = {
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

    def __init__(
        self, *, kernel_init: nnx.Initializer = _HE_NORMAL, rngs: nnx.Rngs
    ) -> None:
        """Draws random weights; `load_efficientnet_lite0` has trained ones.

        Args:
            kernel_init: Draws a kernel [height, width, inputs, outputs]; biases are 0.
            rngs: Random keys of the stream `params`.
        """
        settings = {"kernel_init": kernel_init, "rngs": rngs}
        layer = functools.partial(ConvolutionLayer, **settings)
        channels = _STEM_CHANNELS
        self.stem = layer(full_convolution, (3, 3, 3, channels), stride=2)
        blocks = []
        for stage in _STAGES:
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(_Block(channels, stage, stride=stride, **settings))
                channels = stage.channels
        self.blocks = nnx.List(blocks)
        self.head = layer(pointwise_convolution, (1, 1, channels, _HEAD_CHANNELS))
        self.classifier = layer(
            pointwise_convolution, (1, 1, _HEAD_CHANNELS, _NUM_CLASSES)
        )

    def __call__(
        self,
        images: Float[Array, "b h w 3"] | UInt8[Array, "b h w 3"],
        sizes: Int[Array, "b 2"],
    ) -> dict[str, Float[Array, "b _ _ _"]]:
        """Computes every inner map.

        Args:
            images: Red, green and blue from 0 to 255, each picture at the top left of
                its canvas; both sides of the canvas are multiples of 32 pixels.
            sizes: True (height, width) of each picture in pixels, multiples of 32 from
                32 to the canvas. Whether they are is not checked here: see `forward`.

        Returns:
            Maps by the names of `strides`, channels last.

        Raises:
            ValueError: If the canvas is not a multiple of 32 pixels.
        """
        height, width = images.shape[1:3]
        if not height or not width or height % 32 or width % 32:
            raise ValueError(
                "images must have sides that are multiples of 32 px, got "
                f"{height} x {width}."
            )
        pixels = (images.astype(jnp.float32) - 127) / 128
        maps = jax.nn.relu6(self.stem(_masked(pixels, sizes)))
        named = {"stem": maps}
        blocks = iter(self.blocks)
        cells = sizes // self.strides["stem"]
        for number, stage in enumerate(_STAGES, start=1):
            for _ in range(stage.repeats):
                maps = next(blocks)(maps, cells)
                cells = sizes // self.strides[f"stage{number}"]
            named[f"stage{number}"] = maps
        named["head"] = jax.nn.relu6(self.head(maps))
        return {
            name: _masked(found, sizes // self.strides[name])
            for name, found in named.items()
        }

    def logits(
        self,
        images: Float[Array, "b h w 3"] | UInt8[Array, "b h w 3"],
        sizes: Int[Array, "b 2"],
    ) -> Float[Array, "b classes"]:
        """Scores the classes of ImageNet: classifier on the mean of the head's cells.

        Args:
            images: As for calling the network.
            sizes: As for calling the network.

        Returns:
            One logit per class, in ImageNet's order.
        """
        head = self(images, sizes)["head"]
        cells = jnp.prod(sizes // self.strides["head"], axis=1).astype(head.dtype)
        means = jnp.sum(head, axis=(1, 2), keepdims=True) / cells[:, None, None, None]
        return self.classifier(means)[:, 0, 0]


def _masked(
    maps: Float[Array, "b h w c"], sizes: Int[Array, "b 2"]
) -> Float[Array, "b h w c"]:
    """Sets to zero what is beyond the first (height, width) cells of each map."""
    rows = jnp.arange(maps.shape[1])[None] < sizes[:, :1]
    columns = jnp.arange(maps.shape[2])[None] < sizes[:, 1:]
    inside = rows[:, :, None, None] & columns[:, None, :, None]
    return jnp.where(inside, maps, 0)


def forward(
    network: EfficientNetLite0,
    images: Float[Array, "b h w 3"] | UInt8[Array, "b h w 3"],
    sizes: Int[Array, "b 2"],
    *,
    names: tuple[str, ...] = ("head",),
) -> dict[str, Float[Array, "b _ _ _"]]:
    """Computes the named maps of a batch, compiled once per shape and choice of names.

    A picture's maps do not depend on the others of the batch.

    Args:
        network: The network; its weights are arguments of the compiled program.
        images: Red, green and blue from 0 to 255, each picture at the top left of its
            canvas; both sides of the canvas are multiples of 32 pixels.
        sizes: True (height, width) of each picture in pixels, multiples of 32 from 32
            to the canvas.
        names: Which of the maps named in `EfficientNetLite0.strides`.

    Returns:
        Those maps; the part beyond a picture's true size is 0.

    Raises:
        ValueError: If canvas, sizes or names are not as above. Sizes are checked only
            where they are concrete, outside `jax.jit`.
    """
    strides = EfficientNetLite0.strides
    if unknown := [name for name in names if name not in strides]:
        raise ValueError(f"names must be among {', '.join(strides)}, got {unknown}.")
    if not isinstance(sizes, Tracer):
        _check_sizes(np.asarray(sizes), images.shape[1:3])
    return _forward(network, images, sizes, names=names)


@functools.partial(jax.jit, static_argnames="names")
def _forward(network, images, sizes, *, names):
    maps = network(images, sizes)
    return {name: maps[name] for name in names}


def _check_sizes(sizes: Int[np.ndarray, "b 2"], canvas: tuple[int, ...]) -> None:
    wrong = (sizes < 32) | (sizes % 32 != 0) | (sizes > np.array(canvas))
    if wrong.any():
        height, width = sizes[wrong.any(axis=1)][0]
        raise ValueError(
            f"sizes must be multiples of 32 px from 32 px to the canvas, {canvas[0]} x "
            f"{canvas[1]}, got {height} x {width}."
        )
