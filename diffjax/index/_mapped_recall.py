"""How good neighbour lists on the disk are, on a sample of the vectors."""

import numpy as np
from jaxtyping import Float

from diffjax.graph import CLUSTER_BLOCK_ROWS

# Vectors on which recall is measured.
_SAMPLE = 200


def measure_recall(
    vectors: Float[np.ndarray, "n p"],
    similarities: Float[np.ndarray, "n k"],
    *,
    seed: int,
) -> float:
    """Measures the share of the true neighbours in lists, as `recall` does, by block.

    Args:
        vectors: All vectors, mapped.
        similarities: Of the lists.
        seed: Of the sample.
    """
    import faiss  # noqa: PLC0415  # Slow to import, and only a build needs it.

    n, k = similarities.shape
    drawn = np.random.default_rng(seed).choice(n, min(_SAMPLE, n), replace=False)
    drawn.sort()
    queries = np.ascontiguousarray(vectors[drawn])
    best = np.full((len(drawn), 0), -np.inf, np.float32)
    step = max(CLUSTER_BLOCK_ROWS * 4, k)
    for start in range(0, n, step):
        block = np.ascontiguousarray(vectors[start : start + step])
        near, _ = faiss.knn(
            queries, block, min(k, len(block)), faiss.METRIC_INNER_PRODUCT
        )
        both = np.concatenate([best, near], axis=1)
        best = -np.sort(-both, axis=1)[:, :k]
    # Unit vectors: rounding is that of a product of length 1.
    rounding = np.sqrt(vectors.shape[1]) * np.finfo(np.float32).eps
    return float((similarities[drawn] >= best[:, -1:] - rounding).mean())
