"""Exact nearest neighbours by inner product, on the host."""

from typing import Literal, get_args

import faiss
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffjax._arguments import check_not_halved
from diffjax.types import Neighbors

Method = Literal["exact"]

_BLOCK_ROWS = 1024


def knn(
    vectors: Float[Array | np.ndarray, "n d"], k: int, *, method: Method = "exact"
) -> Neighbors:
    """Finds the k vectors of largest inner product with every vector.

    A vector is counted among its own k. Of exact duplicates any may come first.

    Args:
        vectors: Database vectors; float32 is searched by faiss, float64 in blocks of
            NumPy products, since faiss has single precision only.
        k: Neighbours per vector, 1 to n.
        method: "exact" compares all pairs.

    Returns:
        Neighbours, most similar first.

    Raises:
        ValueError: If `k` is outside 1..n, `method` is unknown or `vectors` are float64
            while JAX computes in float32.
    """
    check_not_halved("vectors", vectors)
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {get_args(Method)}, got {method!r}.")
    if not 1 <= k <= vectors.shape[0]:
        raise ValueError(f"k must be in 1..{vectors.shape[0]} (n), got {k}.")
    host = np.ascontiguousarray(vectors)
    search = _faiss_search if host.dtype == np.float32 else _block_search
    indices, similarities = search(host, k)
    return Neighbors(jnp.asarray(indices), jnp.asarray(similarities))


def _faiss_search(vectors, k):
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)  # pyright: ignore[reportCallIssue]  # faiss patches its classes.
    similarities, indices = index.search(vectors, k)  # pyright: ignore[reportCallIssue]
    return indices.astype(np.int32), similarities


def _block_search(vectors, k):
    indices = np.empty((len(vectors), k), np.int32)
    similarities = np.empty((len(vectors), k), vectors.dtype)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        products = vectors[rows] @ vectors.T
        nearest = np.argsort(-products, axis=1, kind="stable")[:, :k]
        indices[rows] = nearest
        similarities[rows] = np.take_along_axis(products, nearest, axis=1)
    return indices, similarities
