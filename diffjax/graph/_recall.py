"""How many of the true nearest neighbours a list holds, measured on a sample."""

import numpy as np
from jaxtyping import Array, Float

from diffjax.types import Neighbors

from ._validation import check_neighbors

# Vectors whose products with all others are held at a time.
_PRODUCT_ROWS = 128


def recall(
    neighbors: Neighbors,
    vectors: Float[Array | np.ndarray, "n d"],
    *,
    sample: int = 1000,
    seed: int = 0,
) -> float:
    """Measures the share of the true k nearest neighbours that lists hold.

    Args:
        neighbors: The lists of all vectors; their similarities are not looked at.
        vectors: The vectors.
        sample: Vectors whose true neighbours are searched for, drawn at random; all of
            them if there are fewer.
        seed: Of the drawing.

    Returns:
        The share, in [0, 1]. A listed vector counts where its similarity is at least
        that of the k-th true neighbour, whichever of several equals that is, or falls
        short of it by no more than rounding: sqrt(d) eps |x| |y|.

    Raises:
        ValueError: If `sample` is below 1, or the lists are none of these vectors; it
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
    found = 0
    for start in range(0, len(drawn), _PRODUCT_ROWS):
        rows = drawn[start : start + _PRODUCT_ROWS]
        products = host[rows] @ host.T
        least = np.partition(products, n - k, axis=1)[:, n - k] - rounding[rows]
        listed = np.take_along_axis(products, np.maximum(indices[rows], 0), axis=1)
        found += np.sum((listed >= least[:, None]) & (indices[rows] >= 0))
    return float(found / (len(drawn) * k))
