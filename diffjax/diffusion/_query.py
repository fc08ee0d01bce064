"""The right-hand side that a query gives to the diffusion."""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax._arguments import (
    check_ids,
    check_in_range,
    check_not_halved,
    count_ids,
)
from diffjax.graph import kernel
from diffjax.types import Scalar

Rule = Literal["paper", "official"]

# Query regions whose similarities to the whole database are held at a time.
_REGIONS_AT_ONCE = 64


def query_vectors(
    vectors: Float[Array, "n d"],
    queries: Float[Array, "r d"],
    query_ids: Int[Array | np.ndarray, " r"] | None = None,
    *,
    k: int,
    gamma: Scalar = 3.0,
    rule: Rule = "paper",
    num_queries: int | None = None,
) -> Float[Array, "n q"]:
    r"""Builds the right-hand sides Y of queries that are not in the database.

    "paper": y_i = sum over the query's regions z of s(x_i, z) for x_i among the k
    nearest of z, s(x, z) = max(x'z, 0)^gamma; then only the k largest y_i are kept.
    "official": the raw similarities x_i'z are summed over the same regions and
    neighbours, the k largest sums kept, and only those raised to gamma. With one region
    per query the two agree.

    Args:
        vectors: Database vectors.
        queries: Query vectors, the regions of one query after those of another.
        query_ids: Which query each row of `queries` belongs to, from 0 upwards; None if
            each is a query of its own.
        k: Neighbours per region, and entries kept per query, 1 to n. A Python number.
        gamma: Exponent of the kernel, above 0; may be traced and differentiated.
        rule: See above.
        num_queries: Number of queries q; needed where `query_ids` is traced. A query
            without rows gets an all-zero column.

    Returns:
        One column per query, at most k entries above zero each.

    Raises:
        ValueError: If an argument is outside its range, dimensions differ, ids go back
            or skip, or `num_queries` is missing under jit.

    References:
        Iscen et al., CVPR 2017, eq. 7 and 8 and section 5.1 (the cut to k),
        https://arxiv.org/abs/1611.05113. "official" is what the authors' release does.
    """
    check_in_range("gamma", gamma, low=0, high=float("inf"))
    check_not_halved("vectors", vectors)
    check_not_halved("queries", queries)
    if queries.shape[1] != vectors.shape[1]:
        raise ValueError(
            f"queries must have the database's {vectors.shape[1]} dimensions, got "
            f"{queries.shape[1]}."
        )
    if not 1 <= k <= vectors.shape[0]:
        raise ValueError(f"k must be in 1..{vectors.shape[0]} (n), got {k}.")
    if rule not in get_args(Rule):
        raise ValueError(f"rule must be one of {get_args(Rule)}, got {rule!r}.")
    rows = queries.shape[0]
    ids = np.arange(rows, dtype=np.int32) if query_ids is None else query_ids
    check_ids("query_ids", ids, rows=rows)
    count = count_ids("query_ids", ids, count=num_queries, count_name="num_queries")
    return _query_vectors(
        vectors,
        queries,
        jnp.asarray(ids, jnp.int32),
        gamma,
        k=k,
        rule=rule,
        num_queries=count,
    )


@functools.partial(jax.jit, static_argnames=("k", "rule", "num_queries"))
def _query_vectors(vectors, queries, ids, gamma, *, k, rule, num_queries):
    def similarity(products):
        return kernel(products, gamma)

    early, late = (_same, similarity) if rule == "official" else (similarity, _same)
    sums = _sum_over_regions(vectors, queries, ids, early, k=k, num_queries=num_queries)
    return late(_keep_largest(sums, k)).T


def _same(values):
    return values


def _sum_over_regions(vectors, queries, ids, similarity, *, k, num_queries):
    """Sums similarities to the k nearest of each region per query: [q, n]."""
    n, d = vectors.shape
    rows = max(min(_REGIONS_AT_ONCE, queries.shape[0]), 1)
    missing = -queries.shape[0] % rows
    # Padding belongs to a query past the last, which the scatter drops.
    ids = jnp.pad(ids, (0, missing), constant_values=num_queries)
    blocks = jnp.pad(queries, ((0, missing), (0, 0))).reshape(-1, rows, d)

    def add_block(total, block):
        regions, owner = block
        products = jnp.matmul(regions, vectors.T, precision=jax.lax.Precision.HIGHEST)
        values, nodes = jax.lax.top_k(products, k)
        total = total.at[owner[:, None], nodes].add(similarity(values), mode="drop")
        return total, None

    total = jnp.zeros((num_queries, n), vectors.dtype)
    return jax.lax.scan(add_block, total, (blocks, ids.reshape(-1, rows)))[0]


def _keep_largest(y, k):
    """Keeps the k largest entries of every row, among equals those of lower index."""
    values, nodes = jax.lax.top_k(y, k)
    rows = jnp.arange(y.shape[0])[:, None]
    return jnp.zeros_like(y).at[rows, nodes].set(values)
