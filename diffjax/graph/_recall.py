"""Recall of neighbour lists, measured on a sample of vectors."""

import numpy as np
from jaxtyping import Array, Float

from diffjax.types import Neighbors

from ._validation import check_neighbors

# Vectors whose products with all others are in memory at a time.
_PRODUCT_ROWS = 128


def recall(
    neighbors: Neighbors,
    vectors: Float[Array | np.ndarray, "n d"],
    *,
    sample: int = 1000,
    seed: int = 0,
) -> float:
    """Measures the recall of neighbour lists: their share of the true k nearest.

    Args:
        neighbors: The lists of all vectors; their similarities are not used.
        vectors: The vectors.
        sample: Number of vectors whose true neighbours are searched, drawn at random;
            all vectors if there are fewer.
        seed: Seed of the sample.

    Returns:
        The share, in [0, 1]. A listed vector counts if its similarity is at least that
        of the k-th true neighbour, so ties count, or below it by no more than rounding:
        sqrt(d) eps |x| |y|.

    Raises:
        ValueError: If `sample` is below 1, or the lists are not of these vectors; it
            names the first bad row.
    """
    n, d = vectors.shape
    if sample < 1:
        raise ValueError(f"sample must be at least 1, got {sample}.")
    check_neighbors("neighbors", neighbors, n=n)
    host, indices = np.asarray(vectors), np.asarray(neighbors.indices)
    k = min(indices.shape[1], n)
    drawn = np.random.default_rng(seed).choice(n, size=min(sample, n), replace=False)
    lengths = np.linalg.norm(host, axis=1)
    rounding = np.sqrt(d) * np.finfo(host.dtype).eps * lengths * lengths.max()
    num_correct = 0
    for start in range(0, len(drawn), _PRODUCT_ROWS):
        rows = drawn[start : start + _PRODUCT_ROWS]
        products = host[rows] @ host.T
        threshold = np.partition(products, n - k, axis=1)[:, n - k] - rounding[rows]
        listed = np.take_along_axis(products, np.maximum(indices[rows], 0), axis=1)
        num_correct += np.sum((listed >= threshold[:, None]) & (indices[rows] >= 0))
    return float(num_correct / (len(drawn) * k))
