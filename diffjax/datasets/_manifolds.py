"""Toy manifolds: spiral arms in the plane, which show the effect of diffusion."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

# Number, inner radius and turns of the spiral arms, which are 0.30 to 0.34 apart.
_NUM_ARMS, _INNER_RADIUS, _TURNS = 3, 0.28, 0.7
# Half side of the square of clutter, and its distance from the arms.
_HALF_SIDE, _CLEARANCE = 1.15, 0.15
# Radius of a query relative to that of the middle of its arm.
_QUERY_OFFSET = 1.06


class ToyManifolds(NamedTuple):
    """Points on three curves and between them, in random order.

    Attributes:
        points: Coordinates, within about [-1.2, 1.2].
        labels: Number of the curve of each point, 0 to 2; -1 for clutter.
        queries: A point beside the middle of each curve, independent of the seed.
    """

    points: Float[np.ndarray, "n 2"]
    labels: Int[np.ndarray, " n"]
    queries: Float[np.ndarray, "r 2"]


def toy_manifolds(
    *,
    points_per_manifold: int = 200,
    clutter: int = 150,
    noise: float = 0.02,
    seed: int = 0,
) -> ToyManifolds:
    r"""Draws three spiral arms, and clutter away from them.

    Arm c is r(t) = 0.28 + 0.72 t at the angle 2 pi (c / 3 + 0.7 t), 0 <= t <= 1. The
    nearest neighbours of a point are on the same arm, but the ends of the arm are
    further away than large parts of the other arms and of the clutter.

    Args:
        points_per_manifold: Points on each arm, evenly spaced before noise is added.
        clutter: Points in the square, at least 0.15 from every arm.
        noise: Standard deviation of the noise in both coordinates of points on arms.
        seed: Random seed, at least 0.

    Returns:
        Points in single precision, their labels, and one query per arm.

    Raises:
        ValueError: If `points_per_manifold` is below 1, `clutter` or `seed` below 0, or
            `noise` is negative or not finite.
    """
    limits = {
        "points_per_manifold": (points_per_manifold, 1),
        "clutter": (clutter, 0),
        "noise": (noise, 0),
        "seed": (seed, 0),
    }
    for name, (value, low) in limits.items():
        if not low <= value < np.inf:
            raise ValueError(f"{name} must be finite and at least {low}, got {value}.")
    rng = np.random.default_rng(seed)
    fractions = (np.arange(points_per_manifold) + 0.5) / points_per_manifold
    on_arms = np.concatenate([_spiral_arm(arm, fractions) for arm in range(_NUM_ARMS)])
    middles = np.concatenate(
        [_spiral_arm(arm, np.array([0.5])) for arm in range(_NUM_ARMS)]
    )
    # Shuffled, because ties in a ranking are broken by index.
    order = rng.permutation(_NUM_ARMS * points_per_manifold + clutter)
    points = np.concatenate(
        [_add_noise(rng, on_arms, noise), _draw_clutter(rng, clutter)]
    )
    labels = np.repeat(
        [*range(_NUM_ARMS), -1], [points_per_manifold] * _NUM_ARMS + [clutter]
    )
    return ToyManifolds(
        points=points[order].astype(np.float32),
        labels=labels[order],
        queries=(_QUERY_OFFSET * middles).astype(np.float32),
    )


def _spiral_arm(arm, fractions):
    """Points [n, 2] of an arm at fractions `along` [n] of its length."""
    t = np.linspace(0, 1, 1001)
    angle = 2 * np.pi * (arm / _NUM_ARMS + _TURNS * t)
    radius = _INNER_RADIUS + (1 - _INNER_RADIUS) * t
    curve = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    steps = np.linalg.norm(np.diff(curve, axis=0), axis=1)
    length = np.concatenate([[0], np.cumsum(steps)])
    return np.stack(
        [np.interp(fractions * length[-1], length, axis) for axis in curve.T], axis=1
    )


def _add_noise(rng, points, noise):
    return points + rng.normal(0, noise, points.shape)


def _draw_clutter(rng, count):
    """Draws points [count, 2] uniformly, rejecting those near an arm."""
    fractions = np.linspace(0, 1, 301)
    arms = np.concatenate([_spiral_arm(arm, fractions) for arm in range(_NUM_ARMS)])
    accepted = []
    while len(accepted) < count:
        point = rng.uniform(-_HALF_SIDE, _HALF_SIDE, 2)
        if np.linalg.norm(arms - point, axis=1).min() >= _CLEARANCE:
            accepted.append(point)
    return np.array(accepted).reshape(-1, 2)
