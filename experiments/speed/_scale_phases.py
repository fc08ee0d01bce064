"""Phases of the scale experiment, each to be called in a new process."""

import dataclasses
import pathlib
import time
from typing import Any, NamedTuple

import faiss
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from diffjax.index import Index, IndexConfig
from diffjax.types import Graph
from experiments._cost import peak_memory

from ._neighbor_searches import draw_clustered_vectors

# First task that each phase reports, in the order of the phases.
BUILD_PHASES = {
    "prepare": "finding clusters",
    "neighbours": "finding neighbours",
    "graph": "mutual edges",
    "store": "measuring recall",
}
_REGIONS_PER_IMAGE = 20
_SAMPLE = 100  # Vectors whose true edges are computed.
_BLOCK_ROWS = 2**17  # Vectors that queries are compared with at a time.


class _ExactNeighbors(NamedTuple):
    """True neighbours of some vectors: similarities, best first, and indices."""

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
        sample: Number of vectors whose edges are checked.
        seed: Seed of the sample.

    Returns:
        The share, 1 if no edge is true.
    """
    n = len(vectors)
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.choice(n, min(sample, n), replace=False))
    lists = _exact_neighbors(vectors, drawn, k)
    neighbors = np.unique(lists.indices)
    kth = _exact_neighbors(vectors, neighbors, k).similarities[:, -1]
    rounding = np.sqrt(vectors.shape[1]) * np.finfo(np.float32).eps
    positions = np.searchsorted(neighbors, lists.indices)
    mutual = lists.similarities >= kth[positions] - rounding
    mutual &= (lists.indices != drawn[:, None]) & (lists.similarities > 0)
    columns, starts = np.asarray(graph.indices), np.asarray(graph.starts)
    is_stored = [
        np.isin(row, columns[starts[node] : starts[node + 1]])
        for node, row in zip(drawn, lists.indices, strict=True)
    ]
    return float(np.stack(is_stored)[mutual].mean()) if mutual.any() else 1.0


def _exact_neighbors(vectors, rows, k) -> _ExactNeighbors:
    queries = np.ascontiguousarray(vectors[rows])
    similarities = np.zeros((len(rows), 0), np.float32)
    indices = np.zeros((len(rows), 0), np.int64)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = np.ascontiguousarray(vectors[start : start + _BLOCK_ROWS])
        block_similarities, block_indices = faiss.knn(
            queries, block, min(k, len(block)), faiss.METRIC_INNER_PRODUCT
        )
        similarities = np.concatenate([similarities, block_similarities], axis=1)
        indices = np.concatenate([indices, block_indices + start], axis=1)
        best = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
        similarities = np.take_along_axis(similarities, best, axis=1)
        indices = np.take_along_axis(indices, best, axis=1)
    return _ExactNeighbors(similarities, indices)


class _EndOfPhaseError(Exception):
    """Signal that the next phase begins, which another process computes."""


def write_vectors(path: pathlib.Path, n: int, *, dim: int, seed: int) -> float:
    """Draws and writes the vectors of the experiment, clusters of few directions.

    Args:
        path: File to write (.npy).
        n: Number of vectors.
        dim: Dimensions of the vectors.
        seed: Seed of the generator.

    Returns:
        Seconds that it took.
    """
    start = time.perf_counter()
    np.save(path, draw_clustered_vectors(n, dim, seed=seed, spread=6, noise=0.33))
    return time.perf_counter() - start


def index_settings(k: int, local_nodes: int, max_steps: int) -> IndexConfig:
    """Settings of the index."""
    return IndexConfig.of(
        k=k,
        query_k=k,
        method="clusters",
        local_nodes=local_nodes,
        max_steps=max_steps,
        warn_residual=float("inf"),
    )


def measure_build_phase(
    phase: str, vectors: pathlib.Path, index: pathlib.Path, *, k: int, reach: int
) -> dict[str, Any]:
    """Resumes a build, ends it after one phase, and measures time and memory.

    Args:
        phase: Name of the phase.
        vectors: File of the vectors.
        index: Folder of the index, with the files of the earlier phases.
        k: Neighbours of each vector.
        reach: Regions that a query expands to.

    Returns:
        `seconds`, without those of reading and checking the files of earlier phases,
        and `peak_bytes`, beyond the peak after imports.
    """
    rows = np.load(vectors, mmap_mode="r")
    later = list(BUILD_PHASES.values())[list(BUILD_PHASES).index(phase) + 1 :]
    start = [time.perf_counter()]

    def progress(task: str, done: int, of: int) -> None:
        if task in later:
            raise _EndOfPhaseError
        if task == "reading vectors" and done == of and phase != "prepare":
            start[0] = time.perf_counter()

    ids = np.arange(len(rows), dtype=np.int32) // _REGIONS_PER_IMAGE
    base = _peak_bytes()
    try:
        config = index_settings(k, reach, 10)
        Index.build(rows, ids, config=config, path=index, progress=progress)
    except _EndOfPhaseError:
        pass
    return {
        "seconds": time.perf_counter() - start[0],
        "peak_bytes": _peak_bytes() - base,
    }


def measure_queries(
    vectors: pathlib.Path, index: pathlib.Path, *, queries: int, steps: int, seed: int
) -> dict[str, Any]:
    """Searches an index by local solves, then on the whole graph.

    Args:
        vectors: File of the vectors; queries are some of them with noise.
        index: Folder of the index.
        queries: Number of timed queries.
        steps: Iterations on the whole graph.
        seed: Seed of the queries.

    Returns:
        Seconds, memory and recall, and the overlap of both answers.
    """
    database = np.load(vectors, mmap_mode="r")
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(database), queries + 1, replace=False))
    noise = rng.standard_normal((queries + 1, database.shape[1]), dtype=np.float32)
    query_vectors = database[rows] + noise * np.float32(0.2 / database.shape[1] ** 0.5)
    base, times, local_results = _peak_bytes(), [], []
    start = time.perf_counter()
    opened = Index.open(index, mmap=True)
    arrays = opened.store.arrays
    opening = time.perf_counter() - start
    for query in query_vectors:
        start = time.perf_counter()
        local_results.append(opened.search(query[None]))
        times.append(time.perf_counter() - start)
    return {
        "stored_edges": arrays["graph_columns"].size,
        "recall": opened.recall,
        "open_seconds": opening,
        "first_query_seconds": times[0],
        "query_seconds": float(np.median(times[1:])),
        "slowest_query_seconds": max(times[1:]),
        "query_peak_bytes": _peak_bytes() - base,
        "reached": float(
            np.median(
                [(np.asarray(r.solution.nodes) >= 0).sum() for r in local_results]
            )
        ),
        "missed": float(
            np.median([np.asarray(r.solution.unreached_mass)[0] for r in local_results])
        ),
        **_measure_full_solve(index, query_vectors, local_results, steps),
        # Last, since its memory is no cost of a query.
        "edge_recall": edge_recall(
            arrays["vectors"],
            Graph(
                indices=jnp.asarray(arrays["graph_columns"]),
                weights=jnp.asarray(arrays["graph_weights"]),
                starts=jnp.asarray(arrays["graph_starts"]),
            ),
            arrays["indices"].shape[1],
            sample=_SAMPLE,
            seed=seed,
        ),
    }


def _measure_full_solve(index, query_vectors, local_results, steps) -> dict[str, Any]:
    """Solves on the whole graph; the first query compiles, and maps all of it."""
    opened = Index.open(index, mmap=True)
    whole = dataclasses.replace(
        opened.config.search, local_nodes=0, max_steps=steps, warn_residual=np.inf
    )
    times, overlaps, residuals = [], [], []
    base = _peak_bytes()
    for query, local in list(zip(query_vectors, local_results, strict=True))[:4]:
        start = time.perf_counter()
        result = opened.search(query[None], config=whole)
        times.append(time.perf_counter() - start)
        common = np.intersect1d(np.asarray(result.images), np.asarray(local.images))
        overlaps.append(len(common) / result.images.size)
        residuals.append(float(np.asarray(result.solution.residual)[0]))
    return {
        "whole_graph_seconds": float(np.median(times[1:])),
        "whole_graph_residual": float(np.median(residuals)),
        "whole_graph_more_bytes": _peak_bytes() - base,
        "overlap": float(np.mean(overlaps)),
    }


def _peak_bytes() -> int:
    return peak_memory() or 0
