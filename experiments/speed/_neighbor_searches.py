"""One search for neighbours, measured in the process that calls it.

Few imports, since memory is that of the whole process.
"""

import importlib
import pathlib
import resource
import sys
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffjax.graph import knn, recall
from diffjax.types import Neighbors

_STATUS = pathlib.Path("/proc/self/status")
_WARM_UP_VECTORS = 2_000  # Vectors of the search that everything is compiled by.
_ROWS = 4_096  # Vectors drawn at a time.


def draw_clustered_vectors(
    n: int, dim: int, *, seed: int, spread: int = 24, noise: float = 1.0
) -> Float[np.ndarray, "n d"]:
    """Draws unit vectors in clusters, about 100 in each, of very different sizes.

    A cluster is a centre, some directions along which its members spread, and noise in
    all directions; sizes follow a power law (Pareto, exponent 1.2).

    Args:
        n: How many vectors.
        dim: Their dimensions.
        seed: Of the drawing.
        spread: Directions of a cluster; with few of them, and little noise, it is a
            manifold on which vectors have near neighbours.
        noise: Standard deviation of the noise in every direction, where that of the
            centres is 1.

    Returns:
        Vectors of float32.
    """
    rng = np.random.default_rng(seed)
    clusters, spread = max(n // 100, 1), min(spread, dim)
    share = rng.pareto(1.2, size=clusters) + 0.05
    owner = rng.choice(clusters, size=n, p=share / share.sum())

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    centres, directions = normal(clusters, dim), normal(clusters, spread, dim)
    vectors = normal(n, dim) * np.float32(noise)
    for start in range(0, n, _ROWS):
        own = owner[start : start + _ROWS]
        along = np.einsum("ns,nsd->nd", normal(len(own), spread), directions[own])
        vectors[start : start + _ROWS] += centres[own] + along / np.sqrt(
            spread, dtype=np.float32
        )
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def measure_neighbor_search(
    search: str, n: int, *, dim: int, k: int, sample: int, seed: int
) -> dict[str, Any]:
    """Searches the neighbours of a mixture and says what that took.

    Args:
        search: A name of `configs.neighbors.Search`.
        n: Number of vectors.
        dim: Their dimensions.
        k: Neighbours of each.
        sample: Vectors on which recall is measured.
        seed: Of everything random.

    Returns:
        An entry of a record's results.
    """
    vectors = draw_clustered_vectors(n, dim, seed=seed)
    begun = time.process_time()
    _search(search, vectors[:_WARM_UP_VECTORS], k, seed=seed)
    start, wall = time.process_time(), time.perf_counter()
    lists = _search(search, vectors, k, seed=seed)
    wall, end = time.perf_counter() - wall, time.process_time()
    memory = _peak_memory()
    return {
        "method": search,
        "vectors": n,
        "k": k,
        "recall": recall(lists, vectors, sample=sample, seed=seed),
        "seconds": wall,
        "processor_seconds": end - start,
        "processor_seconds_before": start - begun,
        "largest_memory_mib": memory / 2**20,
    }


def _search(
    search: str, vectors: Float[np.ndarray, "n d"], k: int, *, seed: int
) -> Neighbors:
    if search == "exact":
        return knn(vectors, k)
    if search == "nn-descent, faiss":
        return knn(vectors, k, method="nn-descent", seed=seed)
    # Not among the project's own packages: looked for when it is needed.
    other = importlib.import_module("pynndescent")
    index = other.NNDescent(vectors, metric="cosine", n_neighbors=k, random_state=seed)
    indices, distances = index.neighbor_graph
    return Neighbors(jnp.asarray(indices), 1 - jnp.asarray(distances))


def _peak_memory() -> int:
    """The most memory that this process has held at a time, in bytes."""
    if _STATUS.is_file():
        # Linux counts the parent's memory in what getrusage says of a child.
        text = _STATUS.read_text(encoding="ascii", errors="replace")
        line = next(line for line in text.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
