"""Nearest neighbours out of a faiss index that the user has."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from ._candidates import rank_candidates

if TYPE_CHECKING:
    import faiss


def given_search(
    vectors: Float[np.ndarray, "n d"], k: int, *, index: "faiss.Index"
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Takes an index's answers as candidates and computes their similarities anew.

    Args:
        vectors: Vectors, C-contiguous.
        k: Neighbours per vector, the vector itself counted.
        index: Holds the same vectors, numbered in the same order.

    Returns:
        Indices and similarities, most similar first, ties by lower index; the vector
        itself is always among them.

    Raises:
        ValueError: If the index has other vectors, as far as sizes and numbers tell.
    """
    n, d = vectors.shape
    if (index.ntotal, index.d) != (n, d):
        raise ValueError(
            f"index must hold the {n} vectors of {d} dimensions, got {index.ntotal} of "
            f"{index.d}."
        )
    single = vectors.astype(np.float32)
    _, found = index.search(single, k)  # pyright: ignore[reportCallIssue]
    if found.max() >= n:
        raise ValueError(
            f"index must number the vectors from 0 to {n - 1}, got {found.max()}."
        )
    return rank_candidates(vectors, np.arange(n), found, k, own=True)
