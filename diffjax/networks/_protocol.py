"""Network protocol, pixel scaling, and the compiled forward pass."""

import functools
import math
from collections.abc import Mapping
from typing import (
    TYPE_CHECKING,
    ClassVar,
    NamedTuple,
    Protocol,
    TypeVar,
    runtime_checkable,
)

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from diffjax._arguments import is_concrete

if TYPE_CHECKING:  # Flax takes long to import; an exported network needs none of it.
    from ._layers import ConvolutionLayer

# Sizes on the device or on the host; results stay on the same side.
Sizes = TypeVar("Sizes", Int[Array, "b 2"], Int[np.ndarray, "b 2"])


class PixelScaling(NamedTuple):
    """Pixel scaling of a network: x becomes (x - mean) / std, channel by channel.

    Attributes:
        mean: Of red, green and blue, in units of 0..255.
        std: Of red, green and blue, in units of 0..255, above 0.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def validated(self) -> "PixelScaling":
        """Returns the same numbers as plain floats.

        Raises:
            ValueError: If mean or std has not three finite numbers, or a std is not
                above 0.
        """
        numbers = [*map(float, self.mean), *map(float, self.std)]
        complete = len(self.mean) == len(self.std) == 3
        finite = all(map(math.isfinite, numbers))
        if not (complete and finite and min(numbers[3:]) > 0):
            raise ValueError(
                "scaling must have three finite means and three finite std above 0, "
                f"got mean {self.mean} and std {self.std}."
            )
        r, g, b, *std = numbers
        return PixelScaling((r, g, b), (std[0], std[1], std[2]))

    def apply(
        self, images: Float[Array, "b h w 3"] | UInt8[Array, "b h w 3"]
    ) -> Float[Array, "b h w 3"]:
        """Scales pixels from 0 to 255, in float32."""
        mean, std = (
            np.array(numbers, np.float32)[None, None, None] for numbers in self
        )
        return (images.astype(jnp.float32) - mean) / std


# The scaling that torchvision's ImageNet weights were trained with.
IMAGENET_SCALING = PixelScaling(
    mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
    std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
)


@runtime_checkable
class Network(Protocol):
    """Convolutional network that computes named feature maps.

    A picture may lie at the top left of a larger canvas: its maps are those of the
    picture alone, and 0 in the padding.

    Attributes:
        strides: Pixels per cell of each named map; the deepest map is the last.
        multiple: The sides of canvases and pictures must be multiples of it, in pixels.
        scaling: Scaling of the pixels, applied first. Static: part of the compiled
            program.
    """

    strides: ClassVar[Mapping[str, int]]
    multiple: ClassVar[int]
    scaling: PixelScaling

    def layers(self) -> "dict[str, ConvolutionLayer]":
        """Lists every layer that has weights, by its dotted name."""
        ...

    def cells(self, name: str, sizes: Sizes) -> Sizes:
        """Counts the real cells of a map.

        Args:
            name: Name of the map, as in `strides`.
            sizes: True (height, width) of each picture in pixels.

        Returns:
            (rows, columns) of the map that belong to each picture.
        """
        ...

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
        ...


def forward(
    network: Network,
    images: Float[Array, "b h w 3"] | UInt8[Array, "b h w 3"],
    sizes: Int[Array, "b 2"],
    *,
    names: tuple[str, ...] | None = None,
) -> dict[str, Float[Array, "b _ _ _"]]:
    """Computes the named maps of a batch, compiled once per shape and choice of names.

    The maps of a picture do not depend on the other pictures of the batch. Layers
    deeper than the named maps are not computed.

    Args:
        network: The network; its weights are arguments of the compiled program.
        images: Red, green and blue from 0 to 255, each picture at the top left of its
            canvas; both sides of the canvas are multiples of `network.multiple`.
        sizes: True (height, width) of each picture in pixels, multiples of
            `network.multiple`, from the stride of the coarsest named map to the canvas.
        names: Names of maps, as in `network.strides`; None is the deepest.

    Returns:
        The maps by name; the part beyond a picture's true size is 0.

    Raises:
        ValueError: If canvas, sizes or names break these rules. Sizes are checked only
            where they are concrete, outside `jax.jit`.
    """
    strides = network.strides
    names = (list(strides)[-1],) if names is None else tuple(names)
    if unknown := [name for name in names if name not in strides]:
        raise ValueError(f"names must be among {', '.join(strides)}, got {unknown}.")
    if images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images must have shape [b, h, w, 3], got {images.shape}.")
    canvas, multiple = images.shape[1:3], network.multiple
    if any(side % multiple for side in canvas):
        raise ValueError(
            f"images must have sides that are multiples of {multiple} px, got "
            f"{canvas[0]} x {canvas[1]}."
        )
    if sizes.shape != (images.shape[0], 2):
        raise ValueError(
            f"sizes must have shape ({images.shape[0]}, 2), one (height, width) per "
            f"picture, got {sizes.shape}."
        )
    if is_concrete(sizes):
        _check_sizes(np.asarray(sizes), canvas, network, names)
    return _forward(network, images, sizes, names=names)


@functools.partial(jax.jit, static_argnames="names")
def _forward(network, images, sizes, *, names):
    maps = network(images, sizes)
    return {name: maps[name] for name in names}


def _check_sizes(
    sizes: Int[np.ndarray, "b 2"],
    canvas: tuple[int, ...],
    network: Network,
    names: tuple[str, ...],
) -> None:
    multiple = network.multiple
    least = max((network.strides[name] for name in names), default=1)
    invalid = (sizes < least) | (sizes % multiple != 0) | (sizes > np.array(canvas))
    if invalid.any():
        height, width = sizes[invalid.any(axis=1)][0]
        rule = f"multiples of {multiple} px " if multiple > 1 else ""
        coarsest = max(names, key=network.strides.__getitem__)
        raise ValueError(
            f"sizes must be {rule}from {least} px, one cell of {coarsest!r}, to the "
            f"canvas, {canvas[0]} x {canvas[1]}, got {height} x {width}."
        )
