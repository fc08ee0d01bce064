"""Figure 1: diffusion in the plane, from one query and from several.

Paper: three curved manifolds, the queries' nearest neighbours, and contour lines of the
ranking score that any point of the plane would be given; several queries capture
several manifolds at no extra cost. No numbers are given.
Data: `toy_manifolds`, three arms of a spiral among clutter; ours, as is all that the
paper leaves open: the Gaussian similarity exp(-|x - z|^2 / 2 h^2), since inner products
mean nothing in the plane, and the score between the points,
f(z) = sum_i s(x_i, z) f_i / (1 + sum_i s(x_i, z)): the mean of the scores around z, to
which z itself adds one of 0, so that far from all points nothing is left.
Expected: average precision of the queried manifolds, from one query and from three, by
diffusion 1.00 and 1.00, by distance to the nearest query 0.58 and 0.86; solved to a
residual of 1e-6 in fewer than 100 steps.
Cost: seconds.
Command: python -m experiments figure1
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Figure1Config:
    """What is drawn, and how it is searched.

    Attributes:
        points_per_manifold: Points on each of the three manifolds.
        clutter: Points that lie on none.
        noise: How far points lie off their manifold (standard deviation).
        seed: Of everything random.
        bandwidth: The h of the Gaussian similarity.
        k: Neighbours per point, itself among them.
        query_k: Neighbours per query.
        alpha: How far scores spread, in [0, 1).
        rtol: Relative residual to solve to.
        max_steps: Most iterations; 20, the paper's number, reach 20 edges from the
            query, which is not the whole of a curve.
        grid: Places along each side at which the plane's score is computed.
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
    """The figure of the records."""
    return Figure1Config()


def quick() -> Figure1Config:
    """The same with fewer points on a coarser grid, in seconds."""
    return Figure1Config(
        points_per_manifold=120, clutter=80, noise=0.015, k=8, query_k=6, grid=80
    )
