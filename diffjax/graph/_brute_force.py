"""Exact nearest neighbours by comparing all vectors, with faiss and in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from diffjax.types import Neighbors

# Numbers that are gathered at a time: 128 MiB in double precision.
_MAX_GATHERED_NUMBERS = 2**24
# Rows whose products with all vectors are in memory at a time.
_FLOAT64_BLOCK_ROWS = 256


def rank_candidates(
    vectors: Float[np.ndarray, "n d"],
    nodes: Int[np.ndarray, " r"],
    candidates: Int[np.ndarray, "r c"],
    k: int,
    *,
    include_self: bool,
) -> tuple[Int[np.ndarray, "r k"], Float[np.ndarray, "r k"]]:
    """Ranks candidates by their similarities, computed here, and keeps the k best.

    Every product is summed in the same order, so that duplicates have exactly equal
    similarities, which BLAS does not promise.

    Args:
        vectors: All vectors.
        nodes: Numbers of the vectors whose neighbours are searched.
        candidates: Candidates of each node, in any order, padded with -1; a repeated
            number counts once.
        k: Neighbours kept.
        include_self: Whether a node is always among its own k, even if it is not a
            candidate or has a small similarity.

    Returns:
        Indices and similarities by descending similarity, ties by lower index; -1 and
        0 where there are fewer candidates.
    """
    num_padding = max(k - candidates.shape[1], 0)
    candidates = np.pad(candidates, ((0, 0), (0, num_padding)), constant_values=-1)
    indices = np.empty((len(nodes), k), np.int32)
    similarities = np.empty((len(nodes), k), vectors.dtype)
    step = max(
        _MAX_GATHERED_NUMBERS // (candidates.shape[1] * max(vectors.shape[1], 1)), 1
    )
    for start in range(0, len(nodes), step):
        rows = slice(start, start + step)
        indices[rows], similarities[rows] = _rank_candidate_block(
            vectors, nodes[rows], candidates[rows], k, include_self=include_self
        )
    return indices, similarities


def _rank_candidate_block(vectors, nodes, candidates, k, *, include_self):
    if include_self:
        candidates = np.concatenate([nodes[:, None], candidates], axis=1)
    candidates = np.sort(candidates, axis=1)
    candidates[:, 1:][candidates[:, 1:] == candidates[:, :-1]] = -1
    products = np.einsum("rcd,rd->rc", vectors[candidates], vectors[nodes])
    products[candidates < 0] = -np.inf
    priorities = products.copy()
    if include_self:
        priorities[candidates == nodes[:, None]] = np.inf
    best = np.argsort(-priorities, axis=1, kind="stable")[:, :k]
    # Back in the order of their numbers, which a stable sort keeps among equals.
    best = np.sort(best, axis=1)
    order = np.argsort(-np.take_along_axis(products, best, 1), axis=1, kind="stable")
    best = np.take_along_axis(best, order, axis=1)
    indices = np.take_along_axis(candidates, best, axis=1)
    similarities = np.take_along_axis(products, best, axis=1)
    return indices, np.where(indices >= 0, similarities, 0)


def brute_force_neighbors(
    vectors: Float[np.ndarray, "n d"], k: int
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Compares all pairs of vectors, exactly also in double precision.

    Single precision is faiss's. In double precision faiss, which computes in single
    precision, finds somewhat more than k candidates, whose similarities are then
    computed in double precision. The k best of them are the true neighbours if the last
    one is ahead of all other vectors by more than the rounding error of single
    precision; the few rows where it is not are searched again. Ties go by lower index.

    Args:
        vectors: Vectors, C-contiguous.
        k: Neighbours per vector, 1 to n.

    Returns:
        Indices and similarities, most similar first.
    """
    if vectors.dtype == np.float32:
        return faiss_flat_search(vectors, k)
    n = len(vectors)
    nodes = np.arange(n)
    single, scale = scale_to_float32(vectors)
    candidates, coarse = faiss_flat_search(single, min(n, k + max(k // 4, 16)))
    indices, similarities = rank_candidates(
        vectors, nodes, candidates, k, include_self=False
    )
    if candidates.shape[1] == n:
        return indices, similarities
    errors = _rounding_bounds(vectors / scale, np.float32)
    margins = similarities[:, -1] / scale / scale - coarse[:, -1]
    uncertain = np.flatnonzero(~(margins > errors))
    indices[uncertain], similarities[uncertain] = _float64_block_search(
        vectors, uncertain, k
    )
    return indices, similarities


def faiss_flat_search(
    vectors: Float[np.ndarray, "n d"], k: int
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Compares all pairs in single precision by faiss; duplicates come in any order."""
    import faiss  # noqa: PLC0415  # Slow to import, and not needed by a search.

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)  # pyright: ignore[reportCallIssue]  # faiss patches its classes.
    similarities, indices = index.search(vectors, k)  # pyright: ignore[reportCallIssue]
    return indices.astype(np.int32), similarities


def scale_to_float32(
    vectors: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, "n d"], float]:
    """Rounds vectors to single precision, divided by their largest coordinate.

    Returns:
        The vectors, in the range of single precision, and the divisor.
    """
    scale = float(np.abs(vectors).max(initial=0)) or 1.0
    return (vectors / scale).astype(np.float32), scale


def _float64_block_search(vectors, nodes, k):
    """Compares some vectors with all, in double precision throughout."""
    n = len(vectors)
    indices = np.empty((len(nodes), k), np.int32)
    similarities = np.empty((len(nodes), k), vectors.dtype)
    errors = _rounding_bounds(vectors, vectors.dtype)
    for start in range(0, len(nodes), _FLOAT64_BLOCK_ROWS):
        rows = slice(start, start + _FLOAT64_BLOCK_ROWS)
        products = vectors[nodes[rows]] @ vectors.T
        kth_largest = np.partition(products, n - k, axis=1)[:, n - k]
        close = products >= (kth_largest - 2 * errors[nodes[rows]])[:, None]
        # Close vectors first, padded to the same number in all rows.
        max_close = close.sum(1).max()
        candidates = np.argsort(~close, axis=1, kind="stable")[:, :max_close]
        candidates[~np.take_along_axis(close, candidates, axis=1)] = -1
        indices[rows], similarities[rows] = rank_candidates(
            vectors, nodes[rows], candidates, k, include_self=False
        )
    return indices, similarities


def _rounding_bounds(vectors, dtype):
    """Bounds the error of each vector's products, computed in `dtype`.

    |fl(x'y) - x'y| <= (d + 2) u |x| |y|, u = eps / 2, with both vectors rounded first;
    underflow adds less than the smallest normal number per coordinate.
    """
    d, info = vectors.shape[1], np.finfo(dtype)
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    return (d + 4) * (info.eps / 2) * lengths * lengths.max() + d * info.tiny


def blockwise_search(
    rows: Float[Array, "r d"],
    vectors: Float[Array, "n d"],
    mask: Bool[Array, " n"],
    *,
    k: int,
    block: int,
) -> Neighbors:
    """Finds the k of `vectors` that are nearest to each of `rows`, in JAX.

    Args:
        rows: Vectors whose neighbours are searched.
        vectors: Vectors that may be neighbours.
        mask: Which of `vectors` are no padding.
        k: Neighbours per row, 1 to n.
        block: Rows compared at a time.

    Returns:
        Neighbours, ties by lower index; padding has similarity -inf.
    """

    def find_row_neighbors(row):
        products = jnp.matmul(vectors, row, precision=jax.lax.Precision.HIGHEST)
        return jax.lax.top_k(jnp.where(mask, products, -jnp.inf), k)

    batch = min(block, max(rows.shape[0], 1))
    similarities, indices = jax.lax.map(find_row_neighbors, rows, batch_size=batch)
    return Neighbors(indices, similarities)
