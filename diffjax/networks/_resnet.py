"""ResNet of bottleneck blocks for pictures of several sizes, padded to one canvas."""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from ._layers import (
    ConvolutionLayer,
    mask_padding,
    max_pool,
    pointwise_convolution,
    symmetric_padding_convolution,
)
from ._protocol import IMAGENET_SCALING, PixelScaling, Sizes

_KERNEL_INIT = nnx.initializers.he_normal()
_EXPANSION = 4  # Output channels of a block over its bottleneck channels.


class _BottleneckBlock(nnx.Module):
    """Bottleneck block: a reduction, a 3 x 3 convolution, an expansion, a shortcut."""

    def __init__(
        self,
        inputs: int,
        inner: int,
        *,
        stride: int,
        kernel_init: nnx.Initializer,
        rngs: nnx.Rngs,
    ) -> None:
        """Draws the weights for `inputs` channels and a bottleneck of `inner`."""
        layer = functools.partial(ConvolutionLayer, kernel_init=kernel_init, rngs=rngs)
        outputs = _EXPANSION * inner
        self.conv1 = layer(pointwise_convolution, (1, 1, inputs, inner))
        self.conv2 = layer(
            symmetric_padding_convolution, (3, 3, inner, inner), stride=stride
        )
        self.conv3 = layer(pointwise_convolution, (1, 1, inner, outputs))
        self.downsample = (
            layer(pointwise_convolution, (1, 1, inputs, outputs), stride=stride)
            if stride != 1 or inputs != outputs
            else None
        )

    def layers(self) -> dict[str, ConvolutionLayer]:
        """Lists the convolutions by name."""
        layers = {"conv1": self.conv1, "conv2": self.conv2, "conv3": self.conv3}
        if self.downsample is not None:
            layers["downsample"] = self.downsample
        return layers

    def __call__(
        self, maps: Float[Array, "b h w i"], sizes: Int[Array, "b 2"]
    ) -> Float[Array, "b y x o"]:
        """Computes the output maps; the first `sizes` cells of each input are real."""
        reduced = jax.nn.relu(self.conv1(maps))
        # Only this convolution looks at neighbours.
        filtered = jax.nn.relu(self.conv2(mask_padding(reduced, sizes)))
        shortcut = maps if self.downsample is None else self.downsample(maps)
        return jax.nn.relu(self.conv3(filtered) + shortcut)


class ResNet(nnx.Module):
    """ResNet without its classifier: a 7 x 7 stem and four layers of bottlenecks.

    Batch norms are folded into the convolutions. A block that halves the resolution
    has its stride in the 3 x 3 convolution (the "v1.5" of torchvision), not in the
    first one as in the paper. A picture may lie at the top left of a larger canvas: the
    padding is set to zero before every convolution and pooling that looks at
    neighbours, so the maps are those of the picture alone.

    Attributes:
        strides: Pixels per cell of each named map: the stem after its ReLU, the pooled
            stem, and the four layers.
        multiple: 1: pictures may have any size, and an odd last row makes a cell.
        scaling: Scaling of the pixels, applied first.

    References:
        He et al., Deep Residual Learning, CVPR 2016, table 1,
        https://arxiv.org/abs/1512.03385. The position of the stride is described by
        code alone: https://github.com/pytorch/vision, torchvision/models/resnet.py.
    """

    strides: ClassVar[Mapping[str, int]] = MappingProxyType(
        {"conv1": 2, "pool1": 4, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
    )
    multiple: ClassVar[int] = 1

    def __init__(
        self,
        *,
        depths: tuple[int, int, int, int] = (3, 4, 23, 3),
        width: int = 64,
        scaling: PixelScaling = IMAGENET_SCALING,
        kernel_init: nnx.Initializer = _KERNEL_INIT,
        rngs: nnx.Rngs,
    ) -> None:
        """Draws random weights.

        Args:
            depths: Blocks of each of the four layers; the default is ResNet101.
            width: Channels of the stem; the layers have 4, 8, 16 and 32 times as many.
            scaling: Scaling of the pixels, applied first.
            kernel_init: Draws a kernel [height, width, inputs, outputs]; biases are 0.
            rngs: Random keys of the stream `params`.

        Raises:
            ValueError: If `depths` are not four numbers of at least 1, `width` is below
                1, a number in `scaling` is not finite, or a std is not above 0.
        """
        if len(depths) != 4 or min(depths) < 1:
            raise ValueError(
                f"depths must be four numbers of at least 1, got {depths}."
            )
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}.")
        settings = {"kernel_init": kernel_init, "rngs": rngs}
        self.scaling = scaling.validated()
        self.conv1 = ConvolutionLayer(
            symmetric_padding_convolution, (7, 7, 3, width), stride=2, **settings
        )
        channels, layers = width, []
        for number, depth in enumerate(depths):
            inner, blocks = width * 2**number, []
            for repeat in range(depth):
                stride = 2 if number > 0 and repeat == 0 else 1
                blocks.append(
                    _BottleneckBlock(channels, inner, stride=stride, **settings)
                )
                channels = _EXPANSION * inner
            layers.append(nnx.List(blocks))
        self.blocks = nnx.List(layers)

    def layers(self) -> dict[str, ConvolutionLayer]:
        """Lists every layer that has weights, by its dotted name."""
        return {"conv1": self.conv1} | {
            f"layer{number}.{position}.{name}": layer
            for number, blocks in enumerate(self.blocks, start=1)
            for position, block in enumerate(blocks)
            for name, layer in block.layers().items()
        }

    def cells(self, name: str, sizes: Sizes) -> Sizes:
        """Counts the real cells of a map: sizes over its stride, rounded up."""
        return -(-sizes // self.strides[name])

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
        pixels = mask_padding(self.scaling.apply(images), sizes)
        stem = jax.nn.relu(self.conv1(pixels))
        stem = mask_padding(stem, self.cells("conv1", sizes))
        # Zeros around the picture do not change the maximum: no cell is below 0.
        maps = max_pool(stem, size=3, stride=2, padding=1)
        named_maps = {"conv1": stem, "pool1": maps}
        cells = self.cells("pool1", sizes)
        for number, blocks in enumerate(self.blocks, start=1):
            for block in blocks:
                maps = block(maps, cells)
                cells = self.cells(f"layer{number}", sizes)
            named_maps[f"layer{number}"] = maps
        return {
            name: mask_padding(maps, self.cells(name, sizes))
            for name, maps in named_maps.items()
        }


def resnet50(**settings: Any) -> ResNet:
    """Makes a ResNet of 50 layers; settings are those of `ResNet` but `depths`."""
    return ResNet(depths=(3, 4, 6, 3), **settings)


def resnet101(**settings: Any) -> ResNet:
    """Makes a ResNet of 101 layers; settings are those of `ResNet` but `depths`."""
    return ResNet(depths=(3, 4, 23, 3), **settings)
