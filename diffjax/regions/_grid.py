"""R-MAC grid of region boxes, and boxes between cells and pixels."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_TARGET_OVERLAP = 0.4  # Of neighbouring squares at scale 1, as a share of their area.
_SQUARES_TRIED = np.arange(2, 8)  # Numbers of squares tried along the longer side.


class RegionBoxes(NamedTuple):
    """Region boxes of a batch of feature maps, padded to one number of slots.

    Attributes:
        boxes: (y0, x0, y1, x1) in cells, all zero in empty slots, which come last.
        counts: Number of regions of each map.
    """

    boxes: Int[np.ndarray, "b r 4"]
    counts: Int[np.ndarray, " b"]


def rmac_grid(
    height: int, width: int, *, scales: int = 3
) -> Int[np.ndarray, "regions 4"]:
    r"""Lays the R-MAC grid on a feature map.

    At scale l = 1, 2, ... the regions are squares of side
    floor(2 min(height, width) / (l + 1)), l of them along the shorter side and l + e
    along the longer one, from edge to edge in even steps that are rounded down. On a
    square map e = 0. Else 1 + e, from 2 to 7, is the number of squares at scale 1
    whose overlap with their neighbours, 1 - step / side, is nearest to 0.4.

    A scale whose squares have no cell is omitted, and duplicate regions are removed: on
    a square map scale 1 is the whole map, and on maps of few cells squares coincide. So
    a map of 3:4 has 1 + 20 regions, a square map of 10 by 10 cells 14. More scales make
    a finer grid: with four or five scales a map of 30 by 40 cells has 41 or 71 regions,
    a map of 30 by 30 cells 30 or 55.

    Args:
        height: Rows of the map in cells, at least 1.
        width: Columns of the map in cells, at least 1.
        scales: Number of scales, at least 0; 0 gives the whole map alone.

    Returns:
        Different boxes (y0, x0, y1, x1) in cells, the last row and column not included:
        the whole map, then scale by scale, each from top to bottom and left to right.

    Raises:
        ValueError: If `height` or `width` is below 1, or `scales` below 0.

    References:
        Tolias, Sicre and Jegou, Particular object retrieval with integral max-pooling
        of CNN activations, ICLR 2016, https://arxiv.org/abs/1511.05879. The number of
        squares tried and the rounding are those of the authors' program, except that
        whole numbers keep the last square at the edge where its division slips (only on
        maps 60 cells long).
    """
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be at least 1, got {height}, {width}.")
    if scales < 0:
        raise ValueError(f"scales must be at least 0, got {scales}.")
    more_rows, more_columns = _extra_squares(height, width)
    boxes = [(0, 0, height, width)]
    for scale in range(1, scales + 1):
        side = 2 * min(height, width) // (scale + 1)
        boxes += [
            (y, x, y + side, x + side)
            for y in _square_offsets(height, side, scale + more_rows)
            for x in _square_offsets(width, side, scale + more_columns)
            if side > 0
        ]
    return np.array(list(dict.fromkeys(boxes)), np.int32)


def _extra_squares(height: int, width: int) -> tuple[int, int]:
    """Numbers e of extra squares along rows and columns; at most one is above 0."""
    short, long = min(height, width), max(height, width)
    if short == long:
        return 0, 0
    step = (long - short) / (_SQUARES_TRIED - 1)
    overlap = (short**2 - short * step) / short**2
    extra = int(_SQUARES_TRIED[np.argmin(np.abs(overlap - _TARGET_OVERLAP))]) - 1
    return (extra, 0) if height > width else (0, extra)


def _square_offsets(length: int, side: int, count: int) -> list[int]:
    """Offsets of `count` squares that are spread evenly from edge to edge."""
    return [i * (length - side) // max(count - 1, 1) for i in range(count)]


def region_boxes(
    sizes: Int[np.ndarray, "b 2"], *, stride: int, max_regions: int, scales: int = 3
) -> RegionBoxes:
    """Lays the R-MAC grid on the feature maps of a batch of pictures.

    Args:
        sizes: (height, width) of each picture in pixels, without padding.
        stride: Pixels per cell of the feature map; cells are counted upwards. 1 where
            `sizes` are those of the maps.
        max_regions: Slots for each picture, see `max_regions`.
        scales: Scales of the grid, see `rmac_grid`.

    Returns:
        The boxes, and the number of regions of each map.

    Raises:
        ValueError: If a picture has more than `max_regions` regions.
    """
    boxes = np.zeros((len(sizes), max_regions, 4), np.int32)
    counts = np.zeros(len(sizes), np.int32)
    for i, (height, width) in enumerate(sizes):
        grid = _cached_grid(-(-int(height) // stride), -(-int(width) // stride), scales)
        if len(grid) > max_regions:
            raise ValueError(
                f"max_regions must be at least {len(grid)} for a picture of {height} x "
                f"{width} px at stride {stride}, got {max_regions}."
            )
        boxes[i, : len(grid)] = grid
        counts[i] = len(grid)
    return RegionBoxes(boxes, counts)


def max_regions(sizes: Int[np.ndarray, "s 2"], *, stride: int, scales: int = 3) -> int:
    """Counts the regions of the picture that has the most regions.

    Args:
        sizes: (height, width) in pixels of every possible picture; at least one.
        stride: Pixels per cell of the feature map; 1 where `sizes` are those of maps.
        scales: Scales of the grid, see `rmac_grid`.

    Returns:
        The number of slots that `region_boxes` needs.
    """
    return max(
        len(_cached_grid(-(-int(h) // stride), -(-int(w) // stride), scales))
        for h, w in sizes
    )


@functools.lru_cache(maxsize=1024)
def _cached_grid(height: int, width: int, scales: int) -> Int[np.ndarray, "regions 4"]:
    return rmac_grid(height, width, scales=scales)


def boxes_to_cells(
    boxes: Float[np.ndarray, "r 4"],
    size: tuple[int, int],
    *,
    stride: int,
    cells: tuple[int, int] | None = None,
) -> Int[np.ndarray, "r 4"]:
    """Converts boxes in pixels to cells of the feature map, rounded outwards.

    A box that extends beyond the picture is clipped to its edge, and every box has at
    least one cell: a box of 3 pixels inside a cell becomes that cell.

    Args:
        boxes: (x0, y0, x1, y1) in pixels of the picture as it enters the network.
        size: (height, width) of that picture in pixels, without padding.
        stride: Pixels per cell of the feature map.
        cells: Rows and columns of the map; None divides `size` by the stride and rounds
            up.

    Returns:
        (y0, x0, y1, x1) in cells, the last row and column not included, as
        `pool_regions` takes them.

    Raises:
        ValueError: If a box is not finite, has no area or lies outside the picture;
            names the row of the box.
    """
    height, width = size
    rows, columns = cells or (-(-height // stride), -(-width // stride))
    is_finite = np.all(np.isfinite(boxes), axis=1)
    x0, y0, x1, y1 = np.where(is_finite[:, None], boxes, 0).astype(np.float64).T
    faults = (
        (~is_finite, "be finite"),
        ((x1 <= x0) | (y1 <= y0), "have an area, x0 < x1 and y0 < y1"),
        (
            (x1 <= 0) | (y1 <= 0) | (x0 >= width) | (y0 >= height),
            f"share pixels with the picture of {height} x {width} px (height x width)",
        ),
    )
    for is_faulty, rule in faults:
        if is_faulty.any():
            row = int(is_faulty.argmax())
            raise ValueError(
                f"boxes must {rule}, got {boxes[row].tolist()} in row {row}."
            )
    starts = np.floor(np.stack([y0, x0], 1) / stride).astype(np.int64)
    ends = np.ceil(np.stack([y1, x1], 1) / stride).astype(np.int64)
    starts = np.clip(starts, 0, [rows - 1, columns - 1])
    ends = np.clip(ends, starts + 1, [rows, columns])
    return np.concatenate([starts, ends], 1).astype(np.int32)


def cells_to_boxes(
    cells: Int[np.ndarray, "r 4"], size: tuple[int, int], *, stride: int
) -> Float[np.ndarray, "r 4"]:
    """Converts boxes in cells to the pixels of the picture that they cover.

    Args:
        cells: (y0, x0, y1, x1) in cells, as `pool_regions` takes them.
        size: (height, width) of the picture in pixels, to which boxes are clipped.
        stride: Pixels per cell of the feature map.

    Returns:
        (x0, y0, x1, y1) in pixels; zeros for an empty slot.
    """
    height, width = size
    pixels = cells[:, [1, 0, 3, 2]].astype(np.float32) * stride
    return np.minimum(pixels, np.array([width, height] * 2, np.float32))
