"""Phases of the scale experiment, each in a process of its own."""

import dataclasses
import pathlib
import time
from typing import Any, NamedTuple

import faiss
import numpy as np
from jaxtyping import Float, Int

from diffjax.index import IndexConfig, MappedConfig, MappedIndex
from diffjax.types import Graph
from experiments.reporting._cost import measure_cost

from ._neighbor_searches import draw_clustered_vectors

_ROWS = 2**17  # Vectors that are compared with at a time.


class _ExactNeighbors(NamedTuple):
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
    own = _exact_neighbors(vectors, drawn, k)
    others = np.unique(own.indices)
    least = _exact_neighbors(vectors, others, k).similarities[:, -1]
    rounding = np.sqrt(vectors.shape[1]) * np.finfo(np.float32).eps
    mutual = own.similarities >= least[np.searchsorted(others, own.indices)] - rounding
    mutual &= (own.indices != drawn[:, None]) & (own.similarities > 0)
    columns, starts = np.asarray(graph.indices), np.asarray(graph.starts)
    found = [
        np.isin(row, columns[starts[node] : starts[node + 1]])
        for node, row in zip(drawn, own.indices, strict=True)
    ]
    return float(np.stack(found)[mutual].mean()) if mutual.any() else 1.0


def _exact_neighbors(vectors, rows, k) -> _ExactNeighbors:
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
    return _ExactNeighbors(similarities, indices)


# What a phase says first, when it begins; in the order of the phases.
BUILD_PHASES = {
    "prepare": "finding clusters",
    "neighbours": "finding neighbours",
    "graph": "mutual edges",
    "store": "measuring recall",
}
_PER_IMAGE = 20
_SAMPLE = 100  # Vectors whose true edges are looked for.


class _EndOfPhaseError(Exception):
    """The next phase begins: this process has done its part."""


def write_vectors(path: pathlib.Path, n: int, *, dim: int, seed: int) -> float:
    """Writes the vectors of the experiment, clusters of few directions.

    Args:
        path: Where to.
        n: How many.
        dim: Their dimensions.
        seed: Of the drawing.

    Returns:
        The seconds that it took.
    """
    start = time.perf_counter()
    np.save(path, draw_clustered_vectors(n, dim, seed=seed, spread=6, noise=0.33))
    return time.perf_counter() - start


def index_settings(k: int, reach: int | None, max_steps: int) -> MappedConfig:
    """The settings of the index."""
    own = IndexConfig(
        k=k,
        query_k=k,
        neighbors="clusters",
        reach=reach,
        max_steps=max_steps,
        warn_residual=float("inf"),
    )
    return MappedConfig(index=own)


def measure_build_phase(
    phase: str, vectors: pathlib.Path, index: pathlib.Path, *, k: int, reach: int
) -> dict[str, Any]:
    """Goes on with a build until a phase of it is done.

    Args:
        phase: Its name.
        vectors: The file of the vectors.
        index: Folder of the index, where the phases before have left their files.
        k: Neighbours of each vector.
        reach: Regions that a query goes to.

    Returns:
        Seconds, without those of reading what is there and checking that it is the
        same; and the most memory beyond that of a process that has only imported.
    """
    given = np.load(vectors, mmap_mode="r")
    later = list(BUILD_PHASES.values())[list(BUILD_PHASES).index(phase) + 1 :]
    begun = [time.perf_counter()]

    def progress(task: str, done: int, of: int) -> None:
        if task in later:
            raise _EndOfPhaseError
        if task == "reading vectors" and done == of and phase != "prepare":
            begun[0] = time.perf_counter()

    ids = np.arange(len(given), dtype=np.int32) // _PER_IMAGE
    base = _peak_bytes()
    try:
        config = index_settings(k, reach, 10)
        MappedIndex.build(index, given, ids, config=config, progress=progress)
    except _EndOfPhaseError:
        pass
    return {
        "seconds": time.perf_counter() - begun[0],
        "peak_bytes": _peak_bytes() - base,
    }


def measure_queries(
    vectors: pathlib.Path, index: pathlib.Path, *, queries: int, steps: int, seed: int
) -> dict[str, Any]:
    """Asks an index: around each query, then on the whole graph.

    Args:
        vectors: The file of the vectors; queries are some of them with noise.
        index: The index.
        queries: How many are asked.
        steps: Iterations on the whole graph.
        seed: Of the drawing.

    Returns:
        What it took, and how far both agree.
    """
    given = np.load(vectors, mmap_mode="r")
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(given), queries + 1, replace=False))
    noise = rng.standard_normal((queries + 1, given.shape[1]), dtype=np.float32)
    asked = given[rows] + noise * np.float32(0.2 / given.shape[1] ** 0.5)
    base, times, local = _peak_bytes(), [], []
    start = time.perf_counter()
    opened = MappedIndex.open(index)
    opening = time.perf_counter() - start
    for query in asked:
        start = time.perf_counter()
        local.append(opened.search(query[None]))
        times.append(time.perf_counter() - start)
    return {
        "stored_edges": int(opened.graph.weights.size),
        "recall": opened.recall,
        "open_seconds": opening,
        "first_query_seconds": times[0],
        "query_seconds": float(np.median(times[1:])),
        "slowest_query_seconds": max(times[1:]),
        "query_peak_bytes": _peak_bytes() - base,
        "reached": float(np.median([found.reached[0] for found in local])),
        "missed": float(np.median([found.missed[0] for found in local])),
        **_measure_full_solve(index, asked, local, steps),
        # The last: what it takes is no cost of a query.
        "edge_recall": edge_recall(
            opened.vectors.rows,
            opened.graph,
            opened.neighbors.indices.shape[1],
            sample=_SAMPLE,
            seed=seed,
        ),
    }


def _measure_full_solve(index, asked, local, steps) -> dict[str, Any]:
    """Solves on the whole graph; the first query compiles, and maps all of it."""
    opened = MappedIndex.open(index)
    k = opened.config.index.query_k
    whole = dataclasses.replace(opened, config=index_settings(k, None, steps))
    times, same, residuals = [], [], []
    base = _peak_bytes()
    for query, near in list(zip(asked, local, strict=True))[:4]:
        start = time.perf_counter()
        found = whole.search(query[None])
        times.append(time.perf_counter() - start)
        common = np.intersect1d(found.images, near.images)
        same.append(len(common) / found.images.size)
        residuals.append(float(found.residual[0]))
    return {
        "whole_graph_seconds": float(np.median(times[1:])),
        "whole_graph_residual": float(np.median(residuals)),
        "whole_graph_more_bytes": _peak_bytes() - base,
        "overlap": float(np.mean(same)),
    }


def _peak_bytes() -> int:
    with measure_cost() as cost:
        pass
    return cost.peak_bytes or 0
