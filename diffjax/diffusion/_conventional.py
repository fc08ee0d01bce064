"""Conventional diffusion: the regions of a query become nodes of the graph."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_ids, check_in_range, count_ids, max_rows_per_id
from diffjax.graph import affinity, insert, normalize
from diffjax.types import Neighbors, Scalar, Solution

from ._solve import diffuse


def diffuse_conventional(
    vectors: Float[Array, "n d"],
    neighbors: Neighbors,
    queries: Float[Array, "r d"],
    query_ids: Int[Array | np.ndarray, " r"] | None = None,
    *,
    gamma: Scalar = 3.0,
    alpha: Scalar = 0.99,
    rtol: float = 1e-6,
    max_steps: int = 20,
    num_queries: int | None = None,
    max_regions: int | None = None,
) -> Solution:
    r"""Diffuses queries that are inserted into the graph: f = (I - alpha S_q)^-1 y.

    S_q is the graph on database and query regions, built for each query: reciprocity
    changes in both directions, and degrees with it (see `insert`); y is 1 on the
    query's regions and 0 elsewhere. This is the baseline of the paper, whose method,
    `query_vectors` and `diffuse`, leaves the graph unchanged and is faster and better.

    By eq. 10 the scores of the database are f_d = alpha (I - alpha S_d)^-1 B f_q, where
    S_d is the block of S_q between database regions and B the block from query to
    database regions: up to a factor per region, a normalised `query_vectors`.

    Args:
        vectors: Database vectors, unit length.
        neighbors: Their k nearest neighbours, complete lists.
        queries: Query vectors, the regions of one query after those of another.
        query_ids: Query of each row of `queries`, ascending from 0; None if every row
            is a query.
        gamma: Exponent of the kernel, above 0; may be traced and differentiated.
        alpha: How far scores spread, in [0, 1); may be traced and differentiated.
        rtol: Relative residual at which a query stops.
        max_steps: Largest number of iterations.
        num_queries: Number of queries q; needed where `query_ids` is traced.
        max_regions: Largest number of regions of any query; needed where `query_ids` is
            traced. Further regions are left out.

    Returns:
        Scores of the n database regions, one column per query, and diagnostics.

    Raises:
        ValueError: If an argument is outside its range, sizes do not match, ids go back
            or skip, or a count is missing under jit or too small.

    References:
        Iscen et al., CVPR 2017, section 4.1 and eq. 9 to 12,
        https://arxiv.org/abs/1611.05113; Zhou et al., NIPS 2003.
    """
    check_in_range("gamma", gamma, low=0, high=float("inf"))
    check_in_range("alpha", alpha, low=0, high=1, closed_low=True)
    rows = queries.shape[0]
    ids = np.arange(rows, dtype=np.int32) if query_ids is None else query_ids
    check_ids("query_ids", ids, rows=rows)
    count = count_ids("query_ids", ids, count=num_queries, count_name="num_queries")
    region_count = max_rows_per_id(
        "query_ids", ids, limit=max_regions, limit_name="max_regions"
    )
    return _diffuse_conventional(
        vectors,
        neighbors,
        queries,
        jnp.asarray(ids, jnp.int32),
        gamma=gamma,
        alpha=alpha,
        rtol=rtol,
        max_steps=max_steps,
        num_queries=count,
        max_regions=region_count,
    )


@functools.partial(
    jax.jit, static_argnames=("rtol", "max_steps", "num_queries", "max_regions")
)
def _diffuse_conventional(
    vectors,
    neighbors,
    queries,
    ids,
    *,
    gamma,
    alpha,
    rtol,
    max_steps,
    num_queries,
    max_regions,
):
    n, rows = vectors.shape[0], queries.shape[0]
    slots = jnp.arange(max_regions, dtype=jnp.int32)

    def solve_query(query):
        first, last = (
            jnp.searchsorted(ids, query, side=side).astype(jnp.int32)
            for side in ("left", "right")
        )
        is_region = first + slots < last
        regions = queries[jnp.minimum(first + slots, max(rows - 1, 0))]
        extended = insert(neighbors, vectors, regions, where=is_region)
        database_y = jnp.zeros(n, vectors.dtype)
        y = jnp.concatenate([database_y, is_region.astype(vectors.dtype)])
        graph = normalize(affinity(extended, gamma=gamma))
        solution = diffuse(
            graph, y[:, None], alpha=alpha, rtol=rtol, max_steps=max_steps
        )
        return solution._replace(value=solution.value[:n])

    solutions = jax.lax.map(solve_query, jnp.arange(num_queries, dtype=jnp.int32))
    value, *diagnostics = (field[..., 0] for field in solutions)
    return Solution(value.T, *diagnostics)
