"""A network of two convolutions, for tests of what happens around a network."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import jax
from flax import nnx

from diffjax.networks import ConvolutionLayer, PixelScaling
from diffjax.networks._layers import (
    mask_padding,
    max_pool,
    symmetric_padding_convolution,
)

CHANNELS = 16


class TinyNetwork(nnx.Module):
    """A `Network` that is compiled fast: two convolutions and a pooling."""

    strides: ClassVar[Mapping[str, int]] = MappingProxyType(
        {"first": 2, "second": 16, "pool": 32}
    )
    multiple: ClassVar[int] = 1

    def __init__(self, *, rngs):
        self.scaling = PixelScaling((120.0, 110.0, 100.0), (50.0, 60.0, 70.0))
        self.first, self.second = (
            ConvolutionLayer(
                symmetric_padding_convolution,
                (3, 3, inputs, outputs),
                stride=stride,
                kernel_init=nnx.initializers.he_normal(),
                rngs=rngs,
            )
            for inputs, outputs, stride in ((3, 4, 2), (4, CHANNELS, 8))
        )
        # Some number of every cell is above 0.
        self.second.bias.set_value(self.second.bias + 0.1)

    def layers(self):
        return {"first": self.first, "second": self.second}

    def cells(self, name, sizes):
        return -(-sizes // self.strides[name])

    def __call__(self, images, sizes):
        def layer(convolution, maps, name):
            maps = jax.nn.relu(convolution(maps))
            return mask_padding(maps, self.cells(name, sizes))

        pixels = mask_padding(self.scaling.apply(images), sizes)
        first = layer(self.first, pixels, "first")
        second = layer(self.second, first, "second")
        pool = max_pool(second, size=3, stride=2, padding=1)
        pool = mask_padding(pool, self.cells("pool", sizes))
        return {"first": first, "second": second, "pool": pool}
