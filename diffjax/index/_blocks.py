"""Queries in blocks of a few shapes, so that programs are compiled a few times."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from diffjax.ranking import rank
from diffjax.regions import l2_normalize, whiten
from diffjax.types import SearchResult, Solution, Whitening

_QUERIES_AT_ONCE = 64


class Block(NamedTuple):
    """Some queries, filled up with zero rows to one of a few shapes.

    Attributes:
        vectors: Their regions as given; the filling is zero.
        real: Whether a row is no filling.
        query_ids: Query of every row, from 0; the filling belongs to the last.
        size: Number of queries.
        columns: Number of queries after filling up.
    """

    vectors: Float[np.ndarray, "r c"]
    real: Bool[np.ndarray, " r"]
    query_ids: Int[np.ndarray, " r"]
    size: int
    columns: int


class Answers(NamedTuple):
    """Answers to a block of queries, one per column; the filling comes last.

    Attributes:
        images: Image numbers, best first.
        scores: Their scores.
        solution: The diffusion behind them.
        regions: Region of each image that adds most to its score; -1 for none.
    """

    images: Int[Array, "t q"]
    scores: Float[Array, "t q"]
    solution: Solution
    regions: Int[Array, "t q"]


def split_queries(
    vectors: Float[np.ndarray, "r c"], query_ids: Int[np.ndarray, " r"]
) -> list[Block]:
    """Splits queries into blocks; no queries are one block of none.

    Args:
        vectors: Their regions.
        query_ids: Query of every row, from 0 upwards.

    Returns:
        Blocks of at most 64 queries each: of 16, 32, 64, ... rows and of 8, 16, 24,
        ..., 64 columns.
    """
    count = int(query_ids[-1]) + 1 if query_ids.size else 0
    edges = [*range(0, max(count, 1), _QUERIES_AT_ONCE), count]
    rows = np.searchsorted(query_ids, edges)
    return [
        _fill(
            vectors[rows[i] : rows[i + 1]],
            query_ids[rows[i] : rows[i + 1]] - edges[i],
            count=edges[i + 1] - edges[i],
        )
        for i in range(len(edges) - 1)
    ]


def _fill(
    vectors: Float[np.ndarray, "r c"], query_ids: Int[np.ndarray, " r"], *, count: int
) -> Block:
    rows = vectors.shape[0]
    missing = max(16, 1 << (rows - 1).bit_length()) - rows
    return Block(
        vectors=np.pad(vectors, ((0, missing), (0, 0))),
        real=np.arange(rows + missing) < rows,
        query_ids=np.pad(query_ids, (0, missing), constant_values=max(count - 1, 0)),
        size=count,
        columns=max(-(-count // 8) * 8, 8),
    )


@jax.jit
def prepare(
    vectors: Float[Array | np.ndarray, "r c"],
    real: Bool[Array | np.ndarray, " r"],
    whitening: Whitening | None,
) -> Float[Array, "r p"]:
    """Normalises and whitens; rows that are not real become zero and add nothing."""
    units = l2_normalize(jnp.asarray(vectors))
    units = units if whitening is None else whiten(units, whitening)
    return jnp.where(real[:, None], units, jnp.zeros_like(units))


@functools.partial(jax.jit, static_argnames="top")
def best_images(
    scores: Float[Array, "m q"],
    solution: Solution,
    image_ids: Int[Array, " n"],
    weights: Float[Array, " n"] | None,
    *,
    top: int,
) -> Answers:
    """Ranks the images; gives all of them if there are fewer than `top`."""
    images = rank(scores)[:top]
    values = solution.value
    added = values if weights is None else weights[:, None] * values
    segments = {"num_segments": scores.shape[0], "indices_are_sorted": True}
    most = jax.ops.segment_max(added, image_ids, **segments)
    # The first of the regions that add the most; those that add nothing explain it not.
    rows = jnp.arange(added.shape[0], dtype=jnp.int32)[:, None]
    chosen = jnp.where((added == most[image_ids]) & (added > 0), rows, rows.size)
    first = jax.ops.segment_min(chosen, image_ids, **segments)
    regions = jnp.take_along_axis(first, images, axis=0)
    return Answers(
        images=images,
        scores=jnp.take_along_axis(scores, images, axis=0),
        regions=jnp.where(regions < rows.size, regions, -1),
        solution=solution,
    )


def join_answers(answers: Sequence[Answers], blocks: Sequence[Block]) -> SearchResult:
    """Drops the filling and puts the blocks side by side.

    It happens on the host, where no program is compiled for each number of queries.
    """

    def join(*parts: Array) -> np.ndarray:
        cut = [
            np.asarray(part)[..., : block.size]
            for part, block in zip(parts, blocks, strict=True)
        ]
        return np.concatenate(cut, axis=-1)

    images, scores, solution, regions = jax.tree.map(join, *answers)
    joined = SearchResult(images.T, scores.T, solution, regions.T)
    return jax.tree.map(jnp.asarray, joined)
