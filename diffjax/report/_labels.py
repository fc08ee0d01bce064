"""Finding room for labels beside points: clear of lines, points and one another."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

# Where a label may stand, seen from its point; the first that is free is taken.
_SIDES = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))


class Space(NamedTuple):
    """The part of a drawing that labels share, in pixels; y grows upwards.

    Attributes:
        bounds: Its corners (x0, y0, x1, y1).
        drawn: Points that the lines of the drawing pass through, a few pixels apart.
        markers: Points that are marked.
        gap: From a point to its label.
    """

    bounds: tuple[float, float, float, float]
    drawn: Float[np.ndarray, "p 2"]
    markers: Float[np.ndarray, "m 2"]
    gap: float


def place_labels(
    points: Float[np.ndarray, "n 2"], sizes: Float[np.ndarray, "n 2"], space: Space
) -> Int[np.ndarray, "n 2"]:
    """Chooses the side of its point that each label stands on, one after the other.

    Args:
        points: What the labels belong to, in pixels.
        sizes: Widths and heights of the labels, in pixels.
        space: What they have to keep clear of.

    Returns:
        For each label -1, 0 or 1 along x and along y: left, centred or right; below,
        level or above.
    """
    taken: list[tuple[float, float, float, float]] = []
    sides = []
    for point, size in zip(points, sizes, strict=True):
        boxes = [_box(point, size, side, gap=space.gap) for side in _SIDES]
        best = int(np.argmin([_trouble(box, space, taken) for box in boxes]))
        taken.append(boxes[best])
        sides.append(_SIDES[best])
    return np.array(sides, dtype=np.int64).reshape(-1, 2)


def trace(path: Float[np.ndarray, "n 2"], *, step: float) -> Float[np.ndarray, "p 2"]:
    """Points along a line through `path`, at most `step` apart."""
    parts = [path[:1]]
    for start, end in itertools.pairwise(path):
        count = max(1, int(np.ceil(np.abs(end - start).max() / step)))
        share = np.arange(1, count + 1)[:, None] / count
        parts.append(start + share * (end - start))
    return np.concatenate(parts)


def _box(
    point: Float[np.ndarray, "2"],
    size: Float[np.ndarray, "2"],
    side: tuple[int, int],
    *,
    gap: float,
) -> tuple[float, float, float, float]:
    """Corners of a label at one side of its point."""
    away = np.array(side)
    low = point + away * gap - (1 - away) * size / 2
    x0, y0, x1, y1 = (*low, *(low + size))
    return x0, y0, x1, y1


def _trouble(
    box: tuple[float, float, float, float],
    space: Space,
    taken: Sequence[tuple[float, float, float, float]],
) -> float:
    """How bad a place is: off the drawing, on a label, on points, on lines."""
    x0, y0, x1, y1 = space.bounds
    off = box[0] < x0 or box[1] < y0 or box[2] > x1 or box[3] > y1
    on_labels = sum(
        box[0] < right and left < box[2] and box[1] < upper and lower < box[3]
        for left, lower, right, upper in taken
    )
    on_points = _inside(space.markers, box, margin=space.gap / 2)
    return 1e6 * off + 1e4 * on_labels + 1e2 * on_points + _inside(space.drawn, box)


def _inside(
    points: Float[np.ndarray, "p 2"],
    box: tuple[float, float, float, float],
    *,
    margin: float = 0.0,
) -> int:
    """How many points lie in a box or nearer to it than `margin`."""
    low, high = np.array(box[:2]) - margin, np.array(box[2:]) + margin
    return int(((low < points) & (points < high)).all(1).sum())
