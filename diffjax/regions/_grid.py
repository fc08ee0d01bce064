"""The R-MAC grid: overlapping squares at three scales, and the whole map."""

import numpy as np
from jaxtyping import Int

_OVERLAP = 0.4  # Of neighbouring squares at scale 1, in parts of their area.
_STEPS = np.arange(2, 8)  # Numbers of squares tried along the longer side.


def rmac_grid(
    height: int, width: int, *, scales: int = 3
) -> Int[np.ndarray, "regions 4"]:
    r"""Lays the R-MAC grid on a feature map.

    At scale l = 1, 2, ... the regions are squares of side
    floor(2 min(height, width) / (l + 1)), l of them along the shorter side and l + e
    along the longer one, from edge to edge in even steps that are rounded down. On a
    square map e = 0. Else 1 + e, from 2 to 7, is the number of squares at scale 1
    whose overlap with their neighbours, 1 - step / side, is nearest to 0.4.

    A scale whose squares have no cell is left out, and a region that would come twice
    comes once: on a square map scale 1 is the whole map, and on maps of few cells
    squares fall together. So a map of 3:4 has 1 + 20 regions, a square one of 10 by 10
    cells 14. More scales are a finer grid: with four or five of them a map of 30 by 40
    cells has 41 or 71 regions, one of 30 by 30 cells 30 or 55.

    Args:
        height: Rows of the map in cells, at least 1.
        width: Columns of the map in cells, at least 1.
        scales: Number of scales, at least 0; 0 gives the whole map alone.

    Returns:
        Boxes (y0, x0, y1, x1) in cells, the last row and column not included: the whole
        map, then scale by scale, each from top to bottom and left to right. Different
        from each other.

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
            for y in _starts(height, side, scale + more_rows)
            for x in _starts(width, side, scale + more_columns)
            if side > 0
        ]
    return np.array(list(dict.fromkeys(boxes)), np.int32)


def _extra_squares(height: int, width: int) -> tuple[int, int]:
    """The e of either direction; at most one of them is above 0."""
    short, long = min(height, width), max(height, width)
    if short == long:
        return 0, 0
    step = (long - short) / (_STEPS - 1)
    overlap = (short**2 - short * step) / short**2
    extra = int(_STEPS[np.argmin(np.abs(overlap - _OVERLAP))]) - 1
    return (extra, 0) if height > width else (0, extra)


def _starts(length: int, side: int, count: int) -> list[int]:
    """Spreads `count` squares from edge to edge."""
    return [i * (length - side) // max(count - 1, 1) for i in range(count)]
