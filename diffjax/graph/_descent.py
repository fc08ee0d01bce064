"""Approximate nearest neighbours by NN-descent."""

import numpy as np
from jaxtyping import Float, Int

from ._candidates import rank_candidates
from ._exact import exact_search, to_single

# Fewer are compared in a fraction of a second, and faiss can't start on a few.
_FEW = 1024
# After one round a node has met more nodes than this, so that all lists are full:
# faiss reads beyond the end of one that is not.
_MOST = 500
# Settings by measurement, see configs/neighbors.py: new neighbours joined in each
# round, and how many more than k are remembered meanwhile.
_SAMPLED, _SPARE, _REMEMBERED = 30, 10, 60


def descent_search(
    vectors: Float[np.ndarray, "n d"], k: int, *, seed: int
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Compares neighbours of neighbours, from a random start, with faiss.

    Args:
        vectors: Vectors, C-contiguous.
        k: Neighbours per vector, the vector itself counted.
        seed: Of the random start.

    Returns:
        Indices and similarities, most similar first, ties by lower index; the vector
        itself is always among them.

    Raises:
        ValueError: If `k` is above 500 where there are more than 1,024 vectors.
    """
    n, d = vectors.shape
    if n <= _FEW:
        return exact_search(vectors, k)
    if k > _MOST:
        raise ValueError(
            f"k must be at most {_MOST} for 'nn-descent', got {k}: search exactly."
        )
    import faiss  # noqa: PLC0415  # See `_exact.faiss_search`.

    single = vectors if vectors.dtype == np.float32 else to_single(vectors)[0]
    others = max(k - 1, 1)
    index = faiss.IndexNNDescentFlat(d, others, faiss.METRIC_INNER_PRODUCT)
    index.nndescent.S = _SAMPLED
    index.nndescent.L = max(k + _SPARE, _REMEMBERED)
    index.nndescent.random_seed = seed
    index.add(single)  # pyright: ignore[reportCallIssue]  # faiss patches its classes.
    graph = faiss.vector_to_array(index.nndescent.final_graph).reshape(n, others)
    return rank_candidates(vectors, np.arange(n), graph, k, own=True)
