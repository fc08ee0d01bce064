"""VGG16 for pictures of several sizes, padded to one canvas."""

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
from ._protocol import IMAGENET_SCALING, PixelScaling, Sizes

_KERNEL_INIT = nnx.initializers.he_normal()
# Output channels of the convolutions of each block; a pooling ends the block.
_BLOCKS = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)


def _map_strides() -> dict[str, int]:
    """Lists the pixels per cell of every map, in the order of computation."""
    strides = {}
    for block, channels in enumerate(_BLOCKS, start=1):
        for number in range(1, len(channels) + 1):
            strides[f"conv{block}_{number}"] = 2 ** (block - 1)
        strides[f"pool{block}"] = 2**block
    return strides


class VGG16(nnx.Module):
    """VGG16 without its classifier: five blocks of 3 x 3 convolutions and a pooling.

    Configuration D of the paper: a ReLU after every convolution, one zero on every side
    of a map, pooling of 2 x 2 cells. A picture may lie at the top left of a larger
    canvas: the padding is set to zero before every convolution, so the maps are those
    of the picture alone.

    Attributes:
        strides: Pixels per cell of each named map: the convolutions after their ReLU
            and the pooled maps.
        multiple: 1: pictures may have any size, and pooling drops an odd last row.
        scaling: Scaling of the pixels, applied first.

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
            scaling: Scaling of the pixels, applied first.
            kernel_init: Draws a kernel [height, width, inputs, outputs]; biases are 0.
            rngs: Random keys of the stream `params`.

        Raises:
            ValueError: If a number in `scaling` is not finite, or a std is not above 0.
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
        """Computes every named map.

        Args:
            images: Red, green and blue from 0 to 255, each picture at the top left of
                its canvas.
            sizes: True (height, width) of each picture in pixels. `forward` checks
                them, this method does not.

        Returns:
            Maps by their names in `strides`, channels last.
        """
        maps = mask_padding(self.scaling.apply(images), sizes)
        layers = self.layers()
        named_maps = {}
        for name in self.strides:
            if name in layers:
                maps = jax.nn.relu(layers[name](maps))
            else:
                maps = max_pool(maps, size=2, stride=2)
            # Pooled maps are masked, too: a window may reach over the picture's edge.
            maps = named_maps[name] = mask_padding(maps, self.cells(name, sizes))
        return named_maps
