"""Figure 1: diffusion in the plane, from one query and from several.

Paper: three curved manifolds, the queries' nearest neighbours, and contour lines of the
ranking score at any point of the plane; several queries capture
several manifolds at no extra cost. No numbers are given.
Data: `toy_manifolds`, three arms of a spiral among clutter. Our own choices, where the
paper gives none: the Gaussian similarity exp(-|x - z|^2 / 2 h^2), since inner products
mean nothing in the plane, and the score between the points,
f(z) = sum_i s(x_i, z) f_i / (1 + sum_i s(x_i, z)): the mean of the scores around z, to
which z itself adds a score of 0, so that the score vanishes far from all points.
Expected: average precision of the queried manifolds, from one query and from three, by
diffusion 1.00 and 1.00, by distance to the nearest query 0.58 and 0.86; solved to a
residual of 1e-6 in fewer than 100 steps.
Cost: seconds.
Command: python -m experiments figure1
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Figure1Config:
    """Points of the plane, graph and solver.

    Attributes:
        points_per_manifold: Points on each of the three manifolds.
        clutter: Points that lie on no manifold.
        noise: Standard deviation of the distance from the manifold.
        seed: Seed of everything random.
        bandwidth: h of the Gaussian similarity.
        k: Neighbours per point, itself included.
        query_k: Neighbours per query.
        alpha: Share of the score that spreads along edges, in [0, 1).
        rtol: Relative residual at which the solver stops.
        max_steps: Most iterations; 20, the paper's number, cover 20 edges from the
            query, less than a whole curve.
        grid: Points along each side at which the plane's score is computed.
    """

    points_per_manifold: int = 200
    clutter: int = 150
    noise: float = 0.02
    seed: int = 0
    bandwidth: float = 0.05
    k: int = 10
    query_k: int = 10
    alpha: float = 0.99
    rtol: float = 1e-6
    max_steps: int = 500
    grid: int = 500


def full() -> Figure1Config:
    """Settings of the records."""
    return Figure1Config()


def quick() -> Figure1Config:
    """Fewer points on a coarser grid, in seconds."""
    return Figure1Config(
        points_per_manifold=120, clutter=80, noise=0.015, k=8, query_k=6, grid=80
    )
