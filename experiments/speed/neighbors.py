"""Neighbour searches side by side: `python -m experiments neighbors`."""

import dataclasses
import importlib.metadata
import pathlib
from typing import Any

import jax.numpy as jnp
import tyro
from jaxtyping import Array, Float

from configs import neighbors
from configs.neighbors import NeighborsConfig
from diffjax.caches import cache_folder, enable_compilation_cache
from diffjax.diffusion import diffuse, query_vectors
from diffjax.graph import affinity, compress, knn, normalize, recall
from diffjax.pooling import pool
from diffjax.progress import progress_bars
from diffjax.report import append_record, difference_table, make_record, text_table
from diffjax.types import Neighbors
from experiments._collections import Collection, load_collection
from experiments.paper.evaluate import RECORDS

from ._neighbor_searches import measure_neighbor_search
from ._timing import call_in_new_process

_PYNNDESCENT = "pynndescent"
_QUERIES = 64  # Queries that are solved together.


def run(
    config: NeighborsConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Measures every search and appends a record to `neighbors.jsonl`.

    Args:
        config: Which searches.
        workdir: Keeps pictures and index.
        records: Folder of the record files.

    Returns:
        The record.
    """
    results = _measure_all(config)
    settings: dict[str, Any] = {
        "vectors": list(config.sizes),
        "dim": config.dim,
        "k": config.k,
        "sample": config.sample,
        _PYNNDESCENT: _pynndescent_version(),
    }
    if config.benchmark is not None:
        collection = load_collection(config.benchmark, config.folder, workdir)
        results += _compare_graphs(collection, config)
        settings |= collection.sizes()
        settings |= {
            "benchmark": collection.truth.name,
            "index": dataclasses.asdict(config.folder.index),
        }
    record = make_record(
        "neighbours", settings=settings, results=results, seed=config.seed
    )
    append_record(records / "neighbors.jsonl", record)
    return record


def _measure_all(config: NeighborsConfig) -> list[dict[str, Any]]:
    """Measures each search of each number of vectors in a process of its own."""
    searches = [
        s for s in config.searches if _PYNNDESCENT not in s or _pynndescent_version()
    ]
    cases = [(search, n) for n in config.sizes for search in searches]
    results = []
    with progress_bars() as progress:
        for done, (search, n) in enumerate(cases):
            progress("searching neighbours", done, len(cases))
            found = call_in_new_process(
                measure_neighbor_search,
                search,
                n,
                dim=config.dim,
                k=config.k,
                sample=config.sample,
                seed=config.seed,
            )
            results.append(found)
        progress("searching neighbours", len(cases), len(cases))
    return results


def _compare_graphs(
    collection: Collection, config: NeighborsConfig
) -> list[dict[str, Any]]:
    """Evaluates regional diffusion on the exact lists and on those of NN-descent."""
    vectors, k = collection.index.vectors, collection.index.neighbors.indices.shape[1]
    exact = knn(vectors, k)
    near = knn(vectors, k, method="nn-descent", seed=config.seed)
    method = "diffusion on exact lists"
    scores = _diffuse(collection, exact)
    return [
        collection.make_entry(method, scores, recall=1.0),
        collection.make_entry(
            "diffusion on lists of nn-descent",
            _diffuse(collection, near),
            against=(method, collection.precision(scores)),
            recall=recall(near, vectors, sample=config.sample, seed=config.seed),
        ),
    ]


def _diffuse(collection: Collection, lists: Neighbors) -> Float[Array, "m q"]:
    """Scores all images for all queries on the graph of the lists."""
    index, ids = collection.index, collection.query_ids
    settings = index.config
    graph = normalize(compress(affinity(lists, gamma=settings.gamma)))
    k = min(settings.query_k, len(index.image_ids))
    parts = []
    for start in range(0, collection.num_queries, _QUERIES):
        own = (ids >= start) & (ids < start + _QUERIES)
        y = query_vectors(
            index.vectors,
            collection.regions[own],
            ids[own] - start,
            k=k,
            gamma=settings.gamma,
        )
        found = diffuse(
            graph,
            y,
            alpha=settings.alpha,
            rtol=settings.rtol,
            max_steps=settings.max_steps,
        )
        parts.append(pool(found.value, index.image_ids, weights=index.weights))
    return jnp.concatenate(parts, axis=1)


def _pynndescent_version() -> str | None:
    """The version of pynndescent, None where it is not installed."""
    # Not whether there is such a folder: one may stay behind with compiled leftovers.
    try:
        return importlib.metadata.version(_PYNNDESCENT)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Reads the command line and prints what was found."""
    enable_compilation_cache()
    config = tyro.cli(
        NeighborsConfig,
        default=neighbors.full(),
        description=neighbors.__doc__,
        prog="python -m experiments neighbors",
    )
    record = run(config, cache_folder() / "experiments", records=RECORDS)
    for kind in "vectors", "mean_ap":
        found = [result for result in record["results"] if kind in result]
        if found:
            names = [name for name in found[0] if name != "differences"]
            rows = [[_format_cell(result[name]) for name in names] for result in found]
            print(text_table(names, rows))
    print(text_table(*difference_table(record["results"])))


def _format_cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
