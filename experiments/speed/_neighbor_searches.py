"""Neighbour searches of synthetic vectors, measured in the calling process.

Few imports, since memory is that of the whole process.
"""

import importlib
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffjax.graph import knn, recall
from diffjax.types import Neighbors
from experiments._cost import peak_memory

_WARM_UP_VECTORS = 2_000  # Vectors of the first search, which compiles everything.
_BLOCK_ROWS = 4_096  # Vectors drawn at a time.


def draw_clustered_vectors(
    n: int, dim: int, *, seed: int, spread: int = 24, noise: float = 1.0
) -> Float[np.ndarray, "n d"]:
    """Draws unit vectors in clusters, about 100 in each, of very different sizes.

    A cluster is a centre, some directions along which its members spread, and noise in
    all directions; sizes follow a power law (Pareto, exponent 1.2).

    Args:
        n: Number of vectors.
        dim: Dimensions of the vectors.
        seed: Seed of the generator.
        spread: Directions of a cluster; few of them and little noise make it a manifold
            on which vectors have near neighbours.
        noise: Standard deviation of the noise in every direction, where that of the
            centres is 1.

    Returns:
        The vectors, float32.
    """
    rng = np.random.default_rng(seed)
    clusters, spread = max(n // 100, 1), min(spread, dim)
    share = rng.pareto(1.2, size=clusters) + 0.05
    cluster_of_row = rng.choice(clusters, size=n, p=share / share.sum())

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    centres, directions = normal(clusters, dim), normal(clusters, spread, dim)
    vectors = normal(n, dim) * np.float32(noise)
    for start in range(0, n, _BLOCK_ROWS):
        cluster = cluster_of_row[start : start + _BLOCK_ROWS]
        weights = normal(len(cluster), spread)
        along = np.einsum("ns,nsd->nd", weights, directions[cluster])
        vectors[start : start + _BLOCK_ROWS] += centres[cluster] + along / np.sqrt(
            spread, dtype=np.float32
        )
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def measure_neighbor_search(
    search: str, n: int, *, dim: int, k: int, sample: int, seed: int
) -> dict[str, Any]:
    """Searches neighbours of clustered vectors and measures recall, time and memory.

    Args:
        search: One of `configs.neighbors.Search`.
        n: Number of vectors.
        dim: Dimensions of the vectors.
        k: Neighbours of each vector.
        sample: Number of vectors on which recall is measured.
        seed: Seed of everything random.

    Returns:
        An entry of a record's results.
    """
    vectors = draw_clustered_vectors(n, dim, seed=seed)
    warm_up_start = time.process_time()
    _search(search, vectors[:_WARM_UP_VECTORS], k, seed=seed)
    start, wall = time.process_time(), time.perf_counter()
    lists = _search(search, vectors, k, seed=seed)
    wall, end = time.perf_counter() - wall, time.process_time()
    memory = peak_memory() or 0
    return {
        "method": search,
        "vectors": n,
        "k": k,
        "recall": recall(lists, vectors, sample=sample, seed=seed),
        "seconds": wall,
        "processor_seconds": end - start,
        "processor_seconds_before": start - warm_up_start,
        "largest_memory_mib": memory / 2**20,
    }


def _search(
    search: str, vectors: Float[np.ndarray, "n d"], k: int, *, seed: int
) -> Neighbors:
    if search == "exact":
        return knn(vectors, k)
    if search == "nn-descent, faiss":
        return knn(vectors, k, method="nn-descent", seed=seed)
    # No dependency of the project: imported only for this search.
    pynndescent = importlib.import_module("pynndescent")
    index = pynndescent.NNDescent(
        vectors, metric="cosine", n_neighbors=k, random_state=seed
    )
    indices, distances = index.neighbor_graph
    return Neighbors(jnp.asarray(indices), 1 - jnp.asarray(distances))
