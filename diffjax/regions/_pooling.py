"""Maximum over each region of a feature map, and the unit length."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ._grid import rmac_grid


class RegionBoxes(NamedTuple):
    """The regions of a batch of maps.

    Attributes:
        boxes: (y0, x0, y1, x1) in cells, all zero in empty slots, which come last.
        counts: Number of regions of each map.
    """

    boxes: Int[np.ndarray, "b r 4"]
    counts: Int[np.ndarray, " b"]


def region_boxes(
    sizes: Int[np.ndarray, "b 2"], *, stride: int, max_regions: int
) -> RegionBoxes:
    """Lays the R-MAC grid on the feature maps of a batch of pictures.

    Args:
        sizes: (height, width) of each picture in pixels, without padding.
        stride: Pixels per cell of the feature map; a cell begun is a cell.
        max_regions: Slots for each picture, see `max_regions`.

    Returns:
        The boxes and their numbers.

    Raises:
        ValueError: If a picture has more than `max_regions` regions.
    """
    boxes = np.zeros((len(sizes), max_regions, 4), np.int32)
    counts = np.zeros(len(sizes), np.int32)
    for i, (height, width) in enumerate(sizes):
        grid = _grid(-(-int(height) // stride), -(-int(width) // stride))
        if len(grid) > max_regions:
            raise ValueError(
                f"max_regions must be at least {len(grid)} for a picture of {height} x "
                f"{width} px at stride {stride}, got {max_regions}."
            )
        boxes[i, : len(grid)] = grid
        counts[i] = len(grid)
    return RegionBoxes(boxes, counts)


def max_regions(sizes: Int[np.ndarray, "s 2"], *, stride: int) -> int:
    """Counts the regions of the picture that has most of them.

    Args:
        sizes: (height, width) in pixels of every picture that may come; at least one.
        stride: Pixels per cell of the feature map.

    Returns:
        The number of slots that `region_boxes` needs.
    """
    return max(len(_grid(-(-int(h) // stride), -(-int(w) // stride))) for h, w in sizes)


@functools.lru_cache(maxsize=1024)
def _grid(height: int, width: int) -> Int[np.ndarray, "regions 4"]:
    return rmac_grid(height, width)


@jax.jit
def max_pool_regions(
    maps: Float[Array, "b h w c"], boxes: Int[Array, "b r 4"]
) -> Float[Array, "b r c"]:
    """Takes the maximum of every channel over every region.

    One region of all maps at a time, so memory is a few copies of `maps`, whatever the
    number of regions, also for gradients.

    Args:
        maps: Feature maps; what lies outside the boxes is never used.
        boxes: (y0, x0, y1, x1) in cells, the last row and column not included. A box
            without a cell is an empty slot.

    Returns:
        One vector per box; zeros for an empty slot.
    """
    rows = jnp.arange(maps.shape[1])[None, :]
    columns = jnp.arange(maps.shape[2])[None, :]

    @jax.checkpoint
    def pool(box: Int[Array, "b 4"]) -> Float[Array, "b c"]:
        y0, x0, y1, x1 = (box[:, i, None] for i in range(4))
        in_rows = (rows >= y0) & (rows < y1)
        in_columns = (columns >= x0) & (columns < x1)
        some = in_rows.any(1) & in_columns.any(1)
        line = jnp.where(in_rows[:, :, None, None], maps, -jnp.inf).max(1)
        top = jnp.where(in_columns[:, :, None], line, -jnp.inf).max(1)
        return jnp.where(some[:, None], top, 0)

    return jnp.moveaxis(jax.lax.map(pool, jnp.moveaxis(boxes, 1, 0)), 0, 1)


def l2_normalize(vectors: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """Scales vectors to unit length: x / |x|.

    A zero vector stays zero, with a zero gradient; NaN and infinity come out as NaN.

    Args:
        vectors: Any vectors along the last axis, of any length: one whose square is
            below or above the range of the type is normalised, too.

    Returns:
        Vectors of length 1 or 0.
    """
    # |x| does not change with x / size: no gradient needs to pass through size.
    size = jax.lax.stop_gradient(jnp.abs(vectors).max(-1, keepdims=True, initial=0))
    zero = size == 0
    scaled = vectors / jnp.where(zero, 1, size)
    square = jnp.sum(scaled**2, axis=-1, keepdims=True)
    return jnp.where(zero, 0, scaled / jnp.sqrt(jnp.where(zero, 1, square)))
