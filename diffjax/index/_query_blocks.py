"""Queries in blocks of a few shapes, so that few programs are compiled."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from diffjax.regions import l2_normalize, whiten
from diffjax.types import SearchResult, Solution, Whitening

_QUERIES_PER_BLOCK = 64


class QueryBlock(NamedTuple):
    """Regions of some queries, padded with zero rows to one of a few shapes.

    Attributes:
        vectors: Regions as they were given; padding is zero.
        mask: Whether a row is a region, not padding.
        query_ids: Query of every row, from 0; padding belongs to the last.
        num_queries: Number of queries.
        num_columns: Number of queries after padding.
    """

    vectors: Float[np.ndarray, "r c"]
    mask: Bool[np.ndarray, " r"]
    query_ids: Int[np.ndarray, " r"]
    num_queries: int
    num_columns: int


def split_queries(
    vectors: Float[np.ndarray, "r c"], query_ids: Int[np.ndarray, " r"]
) -> list[QueryBlock]:
    """Splits queries into blocks of a few shapes; no queries give one empty block.

    Args:
        vectors: Regions of the queries.
        query_ids: Query of every row, from 0 upwards.

    Returns:
        Blocks of at most 64 queries each: of 16, 32, 64, ... rows and of 8, 16, 24,
        ..., 64 columns.
    """
    count = int(query_ids[-1]) + 1 if query_ids.size else 0
    firsts = [*range(0, max(count, 1), _QUERIES_PER_BLOCK), count]
    rows = np.searchsorted(query_ids, firsts)
    return [
        _pad_block(
            vectors[rows[i] : rows[i + 1]],
            query_ids[rows[i] : rows[i + 1]] - firsts[i],
            num_queries=firsts[i + 1] - firsts[i],
        )
        for i in range(len(firsts) - 1)
    ]


def _pad_block(
    vectors: Float[np.ndarray, "r c"],
    query_ids: Int[np.ndarray, " r"],
    *,
    num_queries: int,
) -> QueryBlock:
    rows = vectors.shape[0]
    padding = max(16, 1 << (rows - 1).bit_length()) - rows
    last = max(num_queries - 1, 0)
    return QueryBlock(
        vectors=np.pad(vectors, ((0, padding), (0, 0))),
        mask=np.arange(rows + padding) < rows,
        query_ids=np.pad(query_ids, (0, padding), constant_values=last),
        num_queries=num_queries,
        num_columns=max(-(-num_queries // 8) * 8, 8),
    )


@jax.jit
def prepare(
    vectors: Float[Array | np.ndarray, "r c"],
    mask: Bool[Array | np.ndarray, " r"],
    whitening: Whitening | None,
) -> Float[Array, "r p"]:
    """Normalises and whitens vectors; padding rows become zero."""
    units = l2_normalize(jnp.asarray(vectors))
    units = units if whitening is None else whiten(units, whitening)
    return jnp.where(mask[:, None], units, jnp.zeros_like(units))


def join_results(
    results: Sequence[SearchResult], blocks: Sequence[QueryBlock]
) -> SearchResult:
    """Joins the results of blocks, without their padding.

    Arrays are joined on the host: `jnp.asarray` of JAX 0.12 compiles a program for each
    shape, so for each number of queries.
    """

    def join_rows(*arrays: Array | np.ndarray) -> Any:
        unpadded = [
            np.asarray(array)[: block.num_queries]
            for array, block in zip(arrays, blocks, strict=True)
        ]
        return np.concatenate(unpadded)

    def join_columns(*arrays: Array | np.ndarray) -> Any:
        unpadded = [
            np.asarray(array)[..., : block.num_queries]
            for array, block in zip(arrays, blocks, strict=True)
        ]
        return np.concatenate(unpadded, axis=-1)

    # A `Solution` has a column per query, a `LocalSolution` a row.
    join = join_columns if isinstance(results[0].solution, Solution) else join_rows
    solution = jax.tree.map(join, *(result.solution for result in results))
    joined = SearchResult(
        join_rows(*(result.images for result in results)),
        join_rows(*(result.scores for result in results)),
        solution,
        join_rows(*(result.regions for result in results)),
    )
    return jax.device_put(joined)
