"""How many of the true mutual edges a graph holds, measured on a sample.

A vector in a cluster of fewer than k has neighbours that are near by chance, anywhere
in the collection. Lists miss many of those, which are seldom mutual; and what a
diffusion goes along is mutual.
"""

from typing import NamedTuple

import faiss
import numpy as np
from jaxtyping import Float, Int

from diffjax.types import Graph

_ROWS = 2**17  # Vectors that are compared with at a time.


class _Nearest(NamedTuple):
    """True neighbours: their similarities, best first, and numbers."""

    similarities: Float[np.ndarray, "r k"]
    indices: Int[np.ndarray, "r k"]


def edge_recall(
    vectors: Float[np.ndarray, "n d"], graph: Graph, k: int, *, sample: int, seed: int
) -> float:
    """Measures the share of the true mutual edges that a graph holds.

    Args:
        vectors: Unit vectors in the order of the graph's nodes; may be mapped.
        graph: The compressed graph.
        k: Neighbours of each vector in the true lists.
        sample: Vectors whose edges are looked at, and all their neighbours' lists.
        seed: Of the drawing.

    Returns:
        The share, 1 where there is no edge.
    """
    n = len(vectors)
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.choice(n, min(sample, n), replace=False))
    own = _nearest(vectors, drawn, k)
    others = np.unique(own.indices)
    least = _nearest(vectors, others, k).similarities[:, -1]
    rounding = np.sqrt(vectors.shape[1]) * np.finfo(np.float32).eps
    mutual = own.similarities >= least[np.searchsorted(others, own.indices)] - rounding
    mutual &= (own.indices != drawn[:, None]) & (own.similarities > 0)
    columns, starts = np.asarray(graph.indices), np.asarray(graph.starts)
    found = [
        np.isin(row, columns[starts[node] : starts[node + 1]])
        for node, row in zip(drawn, own.indices, strict=True)
    ]
    return float(np.stack(found)[mutual].mean()) if mutual.any() else 1.0


def _nearest(vectors, rows, k) -> _Nearest:
    queries = np.ascontiguousarray(vectors[rows])
    similarities = np.zeros((len(rows), 0), np.float32)
    indices = np.zeros((len(rows), 0), np.int64)
    for start in range(0, len(vectors), _ROWS):
        block = np.ascontiguousarray(vectors[start : start + _ROWS])
        near, places = faiss.knn(
            queries, block, min(k, len(block)), faiss.METRIC_INNER_PRODUCT
        )
        similarities = np.concatenate([similarities, near], axis=1)
        indices = np.concatenate([indices, places + start], axis=1)
        best = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
        similarities = np.take_along_axis(similarities, best, axis=1)
        indices = np.take_along_axis(indices, best, axis=1)
    return _Nearest(similarities, indices)
