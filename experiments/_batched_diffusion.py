"""Diffusion of many queries, a batch at a time, and pooling of their scores."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.diffusion import diffuse
from diffjax.index import Index
from diffjax.pooling import pool
from diffjax.types import Graph


class DiffusedScores(NamedTuple):
    """Scores of all images for all queries by diffusion.

    Attributes:
        scores: Pooled scores.
        residual: Largest relative residual of all queries.
    """

    scores: Float[Array, "m q"]
    residual: float


def diffuse_in_batches(
    index: Index,
    y: Float[Array, "n q"],
    *,
    graph: Graph | None = None,
    batch_size: int = 64,
    **solver_settings: Any,
) -> DiffusedScores:
    """Diffuses right-hand sides in batches of one shape and pools by image.

    Args:
        index: Index whose images are scored.
        y: Right-hand sides, one query per column.
        graph: Normalised graph; None is that of the index.
        batch_size: Queries that are solved together.
        solver_settings: Settings of `diffuse`.

    Returns:
        Scores of all images, and the largest residual.
    """
    num_queries = y.shape[1]
    size = min(batch_size, num_queries)
    batches, residual = [], 0.0
    for start in range(0, num_queries, size):
        solution = diffuse(
            index.graph if graph is None else graph,
            pad_columns(y[:, start : start + size], size),
            **solver_settings,
        )
        scores = pool(solution.value, index.image_ids, weights=index.weights)
        batches.append(scores[:, : num_queries - start])
        residual = max(residual, float(solution.residual.max()))
    return DiffusedScores(jnp.concatenate(batches, axis=1), residual)


def pad_columns(y: Float[Array, "n q"], count: int) -> Float[Array, "n c"]:
    """Appends columns of zeros up to `count`, so that one program serves all batches.

    Args:
        y: Right-hand sides, one query per column.
        count: Number of columns, at least q.
    """
    return jnp.pad(y, ((0, 0), (0, count - y.shape[1])))
