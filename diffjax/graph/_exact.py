"""Exact nearest neighbours on the host."""

import numpy as np
from jaxtyping import Float, Int

from ._candidates import rank_candidates

_BLOCK_ROWS = 256


def exact_search(
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
        return faiss_search(vectors, k)
    n = len(vectors)
    nodes = np.arange(n)
    single, scale = to_single(vectors)
    candidates, near = faiss_search(single, min(n, k + max(k // 4, 16)))
    indices, similarities = rank_candidates(vectors, nodes, candidates, k, own=False)
    if candidates.shape[1] == n:
        return indices, similarities
    wrong = _rounding(vectors / scale, np.float32)
    ahead = similarities[:, -1] / scale / scale - near[:, -1]
    doubtful = np.flatnonzero(~(ahead > wrong))
    indices[doubtful], similarities[doubtful] = _block_search(vectors, doubtful, k)
    return indices, similarities


def faiss_search(
    vectors: Float[np.ndarray, "n d"], k: int
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Compares all pairs in single precision; duplicates come in any order."""
    import faiss  # noqa: PLC0415  # Slow to import, and only new neighbours need it.

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)  # pyright: ignore[reportCallIssue]  # faiss patches its classes.
    similarities, indices = index.search(vectors, k)  # pyright: ignore[reportCallIssue]
    return indices.astype(np.int32), similarities


def to_single(
    vectors: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, "n d"], float]:
    """Rounds vectors to single precision, divided by their largest coordinate.

    Returns:
        The vectors, in the range of single precision, and the divisor.
    """
    scale = float(np.abs(vectors).max(initial=0)) or 1.0
    return (vectors / scale).astype(np.float32), scale


def _block_search(vectors, nodes, k):
    """Compares some vectors with all, in double precision throughout."""
    n = len(vectors)
    indices = np.empty((len(nodes), k), np.int32)
    similarities = np.empty((len(nodes), k), vectors.dtype)
    wrong = _rounding(vectors, vectors.dtype)
    for start in range(0, len(nodes), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        products = vectors[nodes[rows]] @ vectors.T
        least = np.partition(products, n - k, axis=1)[:, n - k]
        close = products >= (least - 2 * wrong[nodes[rows]])[:, None]
        # The candidates of each row before the others, and as many for all rows.
        most = close.sum(1).max()
        candidates = np.argsort(~close, axis=1, kind="stable")[:, :most]
        candidates[~np.take_along_axis(close, candidates, axis=1)] = -1
        found = rank_candidates(vectors, nodes[rows], candidates, k, own=False)
        indices[rows], similarities[rows] = found
    return indices, similarities


def _rounding(vectors, dtype):
    """Bounds the error of each vector's products, computed in `dtype`.

    |fl(x'y) - x'y| <= (d + 2) u |x| |y|, u = eps / 2, both vectors rounded first; what
    underflows adds less than the smallest normal number a coordinate.
    """
    d, info = vectors.shape[1], np.finfo(dtype)
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    return (d + 4) * (info.eps / 2) * lengths * lengths.max() + d * info.tiny
