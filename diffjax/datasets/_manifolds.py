"""Curved manifolds in the plane, to see what diffusion does."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

# The arms of a spiral of three: how far from the middle they begin, and how far
# around it they wind. Between two of them lies 0.30 to 0.34.
_ARMS, _INNER, _TURNS = 3, 0.28, 0.7
# Clutter fills a square of this half side and stays this far from the arms.
_HALF_SIDE, _CLEARANCE = 1.15, 0.15
# Queries lie outside the middle of their arm, this much further from the origin.
_QUERY_OFFSET = 1.06


class ToyManifolds(NamedTuple):
    """Points of the plane on three curves and around them, in random order.

    Attributes:
        points: Where they are, within about 1.2 of the origin either way.
        labels: Which curve each was drawn from, 0 to 2; -1 for clutter.
        queries: A place beside the middle of each curve, whatever the seed.
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
    r"""Draws three arms of a spiral, and clutter that keeps away from them.

    Arm c is r(t) = 0.28 + 0.72 t at the angle 2 pi (c / 3 + 0.7 t), 0 <= t <= 1. A
    point's nearest points lie on its own arm, but the ends of its arm are further away
    than much of the other arms and of the clutter.

    Args:
        points_per_manifold: Points on each arm, evenly spaced before the noise.
        clutter: Points all over the square, at least 0.15 from every arm.
        noise: Standard deviation of what is added to both coordinates of the points on
            the arms.
        seed: Of everything random, at least 0.

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
    along = (np.arange(points_per_manifold) + 0.5) / points_per_manifold
    on_arms = np.concatenate([_spiral_arm(arm, along) for arm in range(_ARMS)])
    middles = np.concatenate(
        [_spiral_arm(arm, np.array([0.5])) for arm in range(_ARMS)]
    )
    # Shuffled, since ties in a ranking are broken by index.
    order = rng.permutation(_ARMS * points_per_manifold + clutter)
    points = np.concatenate(
        [_add_noise(rng, on_arms, noise), _draw_clutter(rng, clutter)]
    )
    labels = np.repeat([*range(_ARMS), -1], [points_per_manifold] * _ARMS + [clutter])
    return ToyManifolds(
        points=points[order].astype(np.float32),
        labels=labels[order],
        queries=(_QUERY_OFFSET * middles).astype(np.float32),
    )


def _spiral_arm(arm, along):
    """Points [n, 2] of an arm at fractions [n] of its length."""
    t = np.linspace(0, 1, 1001)
    angle = 2 * np.pi * (arm / _ARMS + _TURNS * t)
    radius = _INNER + (1 - _INNER) * t
    curve = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    steps = np.linalg.norm(np.diff(curve, axis=0), axis=1)
    length = np.concatenate([[0], np.cumsum(steps)])
    at = along * length[-1]
    return np.stack([np.interp(at, length, axis) for axis in curve.T], axis=1)


def _add_noise(rng, points, noise):
    return points + rng.normal(0, noise, points.shape)


def _draw_clutter(rng, count):
    """Draws places [count, 2] one by one, those too near to an arm again."""
    along = np.linspace(0, 1, 301)
    arms = np.concatenate([_spiral_arm(arm, along) for arm in range(_ARMS)])
    places = []
    while len(places) < count:
        place = rng.uniform(-_HALF_SIDE, _HALF_SIDE, 2)
        if np.linalg.norm(arms - place, axis=1).min() >= _CLEARANCE:
            places.append(place)
    return np.array(places).reshape(-1, 2)
