"""Phases of an index on the disk, each measured in the process that calls it.

Few imports, since memory is that of the whole process.
"""

import dataclasses
import pathlib
import time
from typing import Any

import numpy as np

from diffjax.index import IndexConfig, MappedConfig, MappedIndex
from diffjax.report import measured
from experiments._edge_recall import edge_recall
from experiments._neighbor_searches import mixture

# What a phase says first, when it begins; in the order of the phases.
PHASES = {
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
    np.save(path, mixture(n, dim, seed=seed, spread=6, noise=0.33))
    return time.perf_counter() - start


def settings(k: int, reach: int | None, max_steps: int) -> MappedConfig:
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


def build_phase(
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
    later = list(PHASES.values())[list(PHASES).index(phase) + 1 :]
    begun = [time.perf_counter()]

    def progress(task: str, done: int, of: int) -> None:
        if task in later:
            raise _EndOfPhaseError
        if task == "reading vectors" and done == of and phase != "prepare":
            begun[0] = time.perf_counter()

    ids = np.arange(len(given), dtype=np.int32) // _PER_IMAGE
    base = _peak()
    try:
        config = settings(k, reach, 10)
        MappedIndex.build(index, given, ids, config=config, progress=progress)
    except _EndOfPhaseError:
        pass
    return {"seconds": time.perf_counter() - begun[0], "peak_bytes": _peak() - base}


def ask(
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
    base, times, local = _peak(), [], []
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
        "query_peak_bytes": _peak() - base,
        "reached": float(np.median([found.reached[0] for found in local])),
        "missed": float(np.median([found.missed[0] for found in local])),
        **_ask_everywhere(index, asked, local, steps),
        # The last: what it takes is no cost of a query.
        "edge_recall": edge_recall(
            opened.vectors.rows,
            opened.graph,
            opened.neighbors.indices.shape[1],
            sample=_SAMPLE,
            seed=seed,
        ),
    }


def _ask_everywhere(index, asked, local, steps) -> dict[str, Any]:
    """Solves on the whole graph; the first query compiles, and maps all of it."""
    opened = MappedIndex.open(index)
    k = opened.config.index.query_k
    whole = dataclasses.replace(opened, config=settings(k, None, steps))
    times, same, residuals = [], [], []
    base = _peak()
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
        "whole_graph_more_bytes": _peak() - base,
        "overlap": float(np.mean(same)),
    }


def _peak() -> int:
    with measured() as cost:
        pass
    return cost.peak_bytes or 0
