"""Exact nearest neighbours by comparing all vectors, with faiss and in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from diffjax.types import Neighbors

# Numbers that are gathered at a time: 128 MiB in double precision.
_MAX_GATHERED_NUMBERS = 2**24


def rank_candidates(
    vectors: Float[np.ndarray, "n d"],
    nodes: Int[np.ndarray, " r"],
    candidates: Int[np.ndarray, "r c"],
    k: int,
    *,
    include_self: bool,
) -> tuple[Int[np.ndarray, "r k"], Float[np.ndarray, "r k"]]:
    """Computes the similarities of candidates and keeps the k best, in order.

    Every product is summed in the same order, so that duplicates have exactly equal
    similarities, which BLAS does not promise.

    Args:
        vectors: All vectors.
        nodes: The vectors whose neighbours are looked for.
        candidates: Candidates of each, in any order; -1 is none, and a number given
            twice counts once.
        k: Neighbours kept.
        include_self: Whether each of `nodes` is among its own k, candidate or not, and
            however small its similarity.

    Returns:
        Indices and similarities by descending similarity, ties by lower index; -1 and
        0 where there are fewer candidates.
    """
    missing = max(k - candidates.shape[1], 0)
    candidates = np.pad(candidates, ((0, 0), (0, missing)), constant_values=-1)
    indices = np.empty((len(nodes), k), np.int32)
    similarities = np.empty((len(nodes), k), vectors.dtype)
    step = max(
        _MAX_GATHERED_NUMBERS // (candidates.shape[1] * max(vectors.shape[1], 1)), 1
    )
    for start in range(0, len(nodes), step):
        rows = slice(start, start + step)
        found = _rank_candidate_block(
            vectors, nodes[rows], candidates[rows], k, include_self=include_self
        )
        indices[rows], similarities[rows] = found
    return indices, similarities


def _rank_candidate_block(vectors, nodes, candidates, k, *, include_self):
    if include_self:
        candidates = np.concatenate([nodes[:, None], candidates], axis=1)
    candidates = np.sort(candidates, axis=1)
    candidates[:, 1:][candidates[:, 1:] == candidates[:, :-1]] = -1
    products = np.einsum("rcd,rd->rc", vectors[candidates], vectors[nodes])
    products[candidates < 0] = -np.inf
    worth = products.copy()
    if include_self:
        worth[candidates == nodes[:, None]] = np.inf
    kept = np.argsort(-worth, axis=1, kind="stable")[:, :k]
    # Back in the order of their numbers, which a stable sort keeps among equals.
    kept = np.sort(kept, axis=1)
    order = np.argsort(-np.take_along_axis(products, kept, 1), axis=1, kind="stable")
    kept = np.take_along_axis(kept, order, axis=1)
    indices = np.take_along_axis(candidates, kept, axis=1)
    similarities = np.take_along_axis(products, kept, axis=1)
    return indices, np.where(indices >= 0, similarities, 0)


_FLOAT64_BLOCK_ROWS = 256


def brute_force_search(
    vectors: Float[np.ndarray, "n d"], k: int
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Compares all pairs: in single precision by faiss, which has no other.

    In double precision faiss finds somewhat more than k candidates, whose similarities
    are computed in double precision. The k best of them are the true ones where the
    last is ahead of all that was left out by more than single precision can be wrong;
    the few other rows are searched again. Ties go by lower index.

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
    candidates, near = faiss_flat_search(single, min(n, k + max(k // 4, 16)))
    indices, similarities = rank_candidates(
        vectors, nodes, candidates, k, include_self=False
    )
    if candidates.shape[1] == n:
        return indices, similarities
    wrong = _rounding_bounds(vectors / scale, np.float32)
    ahead = similarities[:, -1] / scale / scale - near[:, -1]
    doubtful = np.flatnonzero(~(ahead > wrong))
    indices[doubtful], similarities[doubtful] = _float64_block_search(
        vectors, doubtful, k
    )
    return indices, similarities


def faiss_flat_search(
    vectors: Float[np.ndarray, "n d"], k: int
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Compares all pairs in single precision; duplicates come in any order."""
    import faiss  # noqa: PLC0415  # Slow to import, and only new neighbours need it.

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
    wrong = _rounding_bounds(vectors, vectors.dtype)
    for start in range(0, len(nodes), _FLOAT64_BLOCK_ROWS):
        rows = slice(start, start + _FLOAT64_BLOCK_ROWS)
        products = vectors[nodes[rows]] @ vectors.T
        least = np.partition(products, n - k, axis=1)[:, n - k]
        close = products >= (least - 2 * wrong[nodes[rows]])[:, None]
        # The candidates of each row before the others, and as many for all rows.
        most = close.sum(1).max()
        candidates = np.argsort(~close, axis=1, kind="stable")[:, :most]
        candidates[~np.take_along_axis(close, candidates, axis=1)] = -1
        found = rank_candidates(vectors, nodes[rows], candidates, k, include_self=False)
        indices[rows], similarities[rows] = found
    return indices, similarities


def _rounding_bounds(vectors, dtype):
    """Bounds the error of each vector's products, computed in `dtype`.

    |fl(x'y) - x'y| <= (d + 2) u |x| |y|, u = eps / 2, both vectors rounded first; what
    underflows adds less than the smallest normal number a coordinate.
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
    """Finds the k of `vectors` that are nearest to each of `rows`.

    Args:
        rows: Whose neighbours are looked for.
        vectors: Among what.
        mask: Which of them count.
        k: How many, 1 to n.
        block: Rows compared at a time.

    Returns:
        Neighbours, ties by lower index; those that do not count have similarity -inf.
    """

    def find(row):
        products = jnp.matmul(vectors, row, precision=jax.lax.Precision.HIGHEST)
        return jax.lax.top_k(jnp.where(mask, products, -jnp.inf), k)

    batch = min(block, max(rows.shape[0], 1))
    similarities, indices = jax.lax.map(find, rows, batch_size=batch)
    return Neighbors(indices, similarities)
