"""VGG16 on pictures of several sizes in one canvas."""

import itertools
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import jax
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from ._layers import (
    ConvolutionLayer,
    mask_padding,
    max_pool,
    symmetric_padding_convolution,
)
from ._network import IMAGENET_SCALING, PixelScaling, Sizes

_KERNEL_INIT = nnx.initializers.he_normal()
# Output channels of the convolutions of each block; a pooling ends the block.
_BLOCKS = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)


def _map_strides() -> dict[str, int]:
    """Pixels per cell of every map, in the order of computing."""
    named = {}
    for block, channels in enumerate(_BLOCKS, start=1):
        for number in range(1, len(channels) + 1):
            named[f"conv{block}_{number}"] = 2 ** (block - 1)
        named[f"pool{block}"] = 2**block
    return named


class VGG16(nnx.Module):
    """VGG16 without its classifier: five blocks of 3 x 3 convolutions and a pooling.

    Configuration D of the paper; ReLU behind every convolution, one zero on every side
    of a map, pooling of 2 x 2 cells. A picture may lie at the top left of a larger
    canvas: what is beyond its true size is set to zero before every convolution, so the
    answer is the one that the picture gets alone.

    Attributes:
        strides: For each named map, pixels per cell: the convolutions after their ReLU
            and the pooled maps.
        multiple: 1, pictures may have any size: a pooling leaves out an odd last row.
        scaling: How pixels are scaled first.

    References:
        Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015, table 1,
        https://arxiv.org/abs/1409.1556.
    """

    strides: ClassVar[Mapping[str, int]] = MappingProxyType(_map_strides())
    multiple: ClassVar[int] = 1

    def __init__(
        self,
        *,
        scaling: PixelScaling = IMAGENET_SCALING,
        kernel_init: nnx.Initializer = _KERNEL_INIT,
        rngs: nnx.Rngs,
    ) -> None:
        """Draws random weights.

        Args:
            scaling: How pixels are scaled first.
            kernel_init: Draws a kernel [height, width, inputs, outputs]; biases are 0.
            rngs: Random keys of the stream `params`.

        Raises:
            ValueError: If `scaling` is not of finite numbers, or a std not above 0.
        """
        self.scaling = scaling.validated()
        channels = [3, *itertools.chain.from_iterable(_BLOCKS)]
        self.convolutions = nnx.List(
            ConvolutionLayer(
                symmetric_padding_convolution,
                (3, 3, inputs, outputs),
                kernel_init=kernel_init,
                rngs=rngs,
            )
            for inputs, outputs in itertools.pairwise(channels)
        )

    def layers(self) -> dict[str, ConvolutionLayer]:
        """Lists every layer that has weights, by its name."""
        names = [name for name in self.strides if name.startswith("conv")]
        return dict(zip(names, self.convolutions, strict=True))

    def cells(self, name: str, sizes: Sizes) -> Sizes:
        """Counts the real cells of a map: sizes over its stride, rounded down."""
        return sizes // self.strides[name]

    def __call__(
        self,
        images: Float[Array, "b h w 3"] | UInt8[Array, "b h w 3"],
        sizes: Int[Array, "b 2"],
    ) -> dict[str, Float[Array, "b _ _ _"]]:
        """Computes every inner map.

        Args:
            images: Red, green and blue from 0 to 255, each picture at the top left of
                its canvas.
            sizes: True (height, width) of each picture in pixels. Whether they fit is
                not checked here: see `forward`.

        Returns:
            Maps by the names of `strides`, channels last.
        """
        maps = mask_padding(self.scaling.apply(images), sizes)
        layers = self.layers()
        named = {}
        for name in self.strides:
            if name in layers:
                maps = jax.nn.relu(layers[name](maps))
            else:
                maps = max_pool(maps, size=2, stride=2)
            # A pooled map needs it, too: a window may reach over the picture's edge.
            maps = named[name] = mask_padding(maps, self.cells(name, sizes))
        return named
