"""Neighbour searches side by side: `python -m experiments neighbors`."""

import importlib.metadata
import pathlib
from typing import Any

from jaxtyping import Array, Float

from configs import neighbors as card
from configs.neighbors import NeighborsConfig
from diffjax.diffusion import query_vectors
from diffjax.graph import affinity, compress, knn, normalize, recall
from diffjax.progress import progress_bars
from diffjax.report import append_record, make_record
from diffjax.types import Neighbors
from experiments._batched_diffusion import diffuse_in_batches
from experiments._collections import Collection, load_collection
from experiments._runner import run_from_command_line
from experiments._timing import call_in_new_process

from ._neighbor_searches import measure_neighbor_search

_PYNNDESCENT = "pynndescent"


def run(
    config: NeighborsConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Measures every search and appends a record to `neighbors.jsonl`.

    Args:
        config: Searches and numbers of vectors.
        workdir: Caches pictures and index.
        records: Folder of the record files.

    Returns:
        The record.
    """
    results = _measure_all(config)
    settings: dict[str, Any] = {
        "vectors": list(config.sizes),
        "vector_dim": config.dim,
        "k": config.k,
        "sample": config.sample,
        _PYNNDESCENT: _pynndescent_version(),
    }
    if config.benchmark is not None:
        collection = load_collection(config.benchmark, config.folder, workdir)
        results += _compare_graphs(collection, config)
        settings |= collection.settings
        settings |= {
            "benchmark": collection.truth.name,
            "index": config.folder.index.by_name(),
        }
    record = make_record(
        "neighbours", settings=settings, results=results, seed=config.seed
    )
    append_record(records / "neighbors.jsonl", record)
    return record


def _measure_all(config: NeighborsConfig) -> list[dict[str, Any]]:
    """Measures each search on each number of vectors in a new process."""
    searches = [
        s for s in config.searches if _PYNNDESCENT not in s or _pynndescent_version()
    ]
    cases = [(search, n) for n in config.sizes for search in searches]
    results = []
    with progress_bars() as progress:
        for done, (search, n) in enumerate(cases):
            progress("searching neighbours", done, len(cases))
            entry = call_in_new_process(
                measure_neighbor_search,
                search,
                n,
                dim=config.dim,
                k=config.k,
                sample=config.sample,
                seed=config.seed,
            )
            results.append(entry)
        progress("searching neighbours", len(cases), len(cases))
    return results


def _compare_graphs(
    collection: Collection, config: NeighborsConfig
) -> list[dict[str, Any]]:
    """Evaluates regional diffusion on exact lists and on those of NN-descent."""
    vectors, k = collection.index.vectors, collection.index.neighbors.indices.shape[1]
    exact = knn(vectors, k)
    approximate = knn(vectors, k, method="nn-descent", seed=config.seed)
    method = "diffusion on exact lists"
    scores = _diffuse(collection, exact)
    return [
        collection.make_entry(method, scores, recall=1.0),
        collection.make_entry(
            "diffusion on lists of nn-descent",
            _diffuse(collection, approximate),
            against=[(method, collection.precision(scores))],
            recall=recall(approximate, vectors, sample=config.sample, seed=config.seed),
        ),
    ]


def _diffuse(collection: Collection, lists: Neighbors) -> Float[Array, "m q"]:
    """Scores all images for all queries on the graph of the lists."""
    index, settings = collection.index, collection.index.config
    y = query_vectors(
        index.vectors,
        collection.regions,
        collection.query_ids,
        k=min(settings.search.query_k, len(index.image_ids)),
        gamma=settings.graph.gamma,
    )
    return diffuse_in_batches(
        index,
        y,
        graph=normalize(compress(affinity(lists, gamma=settings.graph.gamma))),
        alpha=settings.search.alpha,
        rtol=settings.search.rtol,
        max_steps=settings.search.max_steps,
    ).scores


def _pynndescent_version() -> str | None:
    """Looks up the version of pynndescent; None where it is not installed."""
    # A folder of that name may stay behind after it was uninstalled.
    try:
        return importlib.metadata.version(_PYNNDESCENT)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Reads the command line, searches and records."""
    run_from_command_line("neighbors", card, run)
