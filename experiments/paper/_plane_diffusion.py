"""Diffusion in the plane: similarities of distances, and scores between the points."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from configs.figure1 import Figure1Config
from diffjax.datasets import ToyManifolds
from diffjax.diffusion import diffuse
from diffjax.evaluation import average_precision
from diffjax.ranking import rank
from diffjax.types import Graph, Neighbors


class PlaneSearch(NamedTuple):
    """Search from one or several query points.

    Attributes:
        queries: Query points, which form one query.
        nearest_points: Data points that are neighbours of a query point.
        scores: Scores of the data points, after diffusion.
        results: Entries of the record, by diffusion and by distance.
    """

    queries: Float[np.ndarray, "r 2"]
    nearest_points: Int[np.ndarray, " _"]
    scores: Float[np.ndarray, " n"]
    results: tuple[dict[str, Any], dict[str, Any]]


def nearest_points(
    points: Float[np.ndarray, "n 2"],
    centres: Float[np.ndarray, "p 2"],
    k: int,
    *,
    bandwidth: float,
) -> Neighbors:
    """Finds k nearest points, with similarities exp(-|x - z|^2 / 2 h^2).

    Args:
        points: Data points x.
        centres: Points z to search for: the data points themselves, or query points.
        k: Number of neighbours, 1 to n.
        bandwidth: h, above 0.

    Returns:
        Neighbours of every centre, nearest first, and their similarities.

    Raises:
        ValueError: If `k` or `bandwidth` is out of range.
    """
    if not 1 <= k <= len(points):
        raise ValueError(f"k must be in 1..{len(points)} (n), got {k}.")
    if not 0 < bandwidth < np.inf:
        raise ValueError(f"bandwidth must be finite and above 0, got {bandwidth}.")
    squares = _square_distances(centres, points)
    indices = np.argsort(squares, axis=1, kind="stable")[:, :k]
    exponents = np.take_along_axis(squares, indices, axis=1) / (2 * bandwidth**2)
    return Neighbors(jnp.asarray(indices, jnp.int32), jnp.asarray(np.exp(-exponents)))


def search_plane(
    toy: ToyManifolds, graph: Graph, count: int, *, config: Figure1Config
) -> PlaneSearch:
    """Searches from the first query points, y_i = sum_q s_k(x_i | q) (eq. 7, 8).

    y is not truncated to its k largest entries after the sum, as in section 5.1: these
    could all be neighbours of one query point.

    Args:
        toy: Data and query points.
        graph: The normalised graph of the data points.
        count: Number of query points, 1 to 3.
        config: The other settings.

    Returns:
        Scores, and average precision on the manifolds of those query points.

    Raises:
        ValueError: If a setting is out of range, or the bandwidth so small that every
            similarity to the query points is 0.
    """
    queries = toy.queries[:count]
    neighbors = nearest_points(
        toy.points, queries, config.query_k, bandwidth=config.bandwidth
    )
    y = np.zeros((len(toy.points), 1), np.float32)
    np.add.at(y[:, 0], *map(np.asarray, neighbors))
    if not y.any():
        raise ValueError(
            "bandwidth must give a data point near a query point a similarity above 0, "
            f"got {config.bandwidth}."
        )
    solution = diffuse(
        graph,
        jnp.asarray(y),
        alpha=config.alpha,
        rtol=config.rtol,
        max_steps=config.max_steps,
    )
    by_diffusion = np.asarray(rank(solution.value))[:, 0]
    by_distance = np.argsort(_square_distances(toy.points, queries).min(axis=1))
    positives = np.flatnonzero(np.isin(toy.labels, np.arange(count)))
    return PlaneSearch(
        queries=queries,
        nearest_points=np.unique(neighbors.indices),
        scores=np.asarray(solution.value)[:, 0],
        results=(
            {
                "method": "diffusion",
                "queries": count,
                "average_precision": average_precision(by_diffusion, positives),
                "residual": float(np.asarray(solution.residual)[0]),
                "num_steps": int(np.asarray(solution.num_steps)[0]),
            },
            {
                "method": "distance",
                "queries": count,
                "average_precision": average_precision(by_distance, positives),
            },
        ),
    )


def score_plane(
    points: Float[np.ndarray, "n 2"],
    scores: Float[np.ndarray, " n"],
    x: Float[np.ndarray, " w"],
    y: Float[np.ndarray, " h"],
    *,
    bandwidth: float,
) -> Float[np.ndarray, "h w"]:
    r"""Interpolates scores between the data points (our choice, not the paper's).

    f(z) = sum_i s(x_i, z) f_i / (1 + sum_i s(x_i, z)): the mean of the scores around z,
    to which z itself adds a score of 0. Among points it follows their scores, at any
    density; away from them it decays like the similarity.

    Args:
        points: Data points x_i.
        scores: Scores f_i of the data points.
        x: First coordinates of the grid z.
        y: Second coordinates; every x is paired with every y.
        bandwidth: h of s(x, z) = exp(-|x - z|^2 / 2 h^2).

    Returns:
        Scores of the grid, a row per y.
    """
    # A Gaussian of the plane is one of x times one of y: two small factors [., n].
    by_x, by_y = (
        np.exp(-((side[:, None] - points[:, axis]) ** 2) / (2 * bandwidth**2))
        for axis, side in enumerate((x, y))
    )
    return (by_y * scores) @ by_x.T / (1 + by_y @ by_x.T)


def _square_distances(
    centres: Float[np.ndarray, "p 2"], points: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "p n"]:
    return np.sum((centres[:, None] - points[None]) ** 2, axis=-1)
