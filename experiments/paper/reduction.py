"""Mixtures in place of all regions: `python -m experiments reduction scenes`."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from configs import reduction as card
from configs.reduction import ReductionConfig
from diffjax.index import Index
from diffjax.pooling import pool
from diffjax.regions import CovarianceType, reduce_regions
from diffjax.report import append_record, make_record
from experiments._collections import Collection, load_collection
from experiments._runner import print_record, run_from_command_line
from experiments._timing import time_calls

_BATCH = 8  # Queries that are timed together.


class _NodeVectors(NamedTuple):
    """Vectors of the nodes of a graph.

    Attributes:
        name: Number of vectors of an image, and their kind.
        vectors: Unit vectors.
        image_ids: Image of every vector.
        facts: Measurements for the record.
    """

    name: str
    vectors: Float[Array, "g d"]
    image_ids: Int[np.ndarray, " g"]
    facts: dict[str, Any]


class _SearchedGraph(NamedTuple):
    """Graph with its answers.

    Attributes:
        name: Name of the vectors, with k.
        scores: Scores of all images for all queries.
        facts: Size and times for the record.
    """

    name: str
    scores: Float[Array, "m q"]
    facts: dict[str, Any]


def run(
    config: ReductionConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Searches with all regions and with means, and adds to `reduction_NAME.jsonl`.

    Args:
        config: Mixtures and graphs.
        workdir: Caches pictures and index.
        records: Folder of the record files.

    Returns:
        The record: regional diffusion by GMP on each graph, with its `nodes`, `edges`
        and `seconds_per_query`, and the `seconds_reduction` of all images together.
    """
    collection = load_collection(config.benchmark, config.folder, workdir)
    base = collection.index
    regions = _NodeVectors("all regions", base.vectors, base.image_ids, {})
    reference = _search(collection, regions, k=base.config.graph.k)
    against = [(reference.name, collection.precision(reference.scores))]
    results = [
        collection.make_entry(reference.name, reference.scores, **reference.facts),
        *(
            collection.make_entry(
                searched.name, searched.scores, against=against, **searched.facts
            )
            for searched in _search_others(collection, config, regions)
        ),
    ]
    name = collection.truth.name
    record = make_record(
        f"reduction, {name}",
        settings={
            **collection.settings,
            **config.folder.index.by_name(),
            "restarts": config.restarts,
            "steps": config.steps,
            "regularization": config.regularization,
        },
        results=results,
        seed=config.seed,
    )
    records.mkdir(parents=True, exist_ok=True)
    append_record(records / f"reduction_{name}.jsonl", record)
    return record


def _search_others(
    collection: Collection, config: ReductionConfig, regions: _NodeVectors
) -> Iterator[_SearchedGraph]:
    """Searches all regions with other values of k, then every kind of means."""
    for k in config.all_k:
        yield _search(collection, regions, k=k)
    for components in config.components:
        for covariance in config.covariances:
            means = _reduce(regions, components, covariance, config)
            for k in config.k:
                yield _search(collection, means, k=k)


def _reduce(
    regions: _NodeVectors,
    components: int,
    covariance: CovarianceType,
    config: ReductionConfig,
) -> _NodeVectors:
    def reduce():
        return reduce_regions(
            regions.vectors,
            regions.image_ids,
            components=components,
            key=jax.random.key(config.seed),
            covariance=covariance,
            restarts=config.restarts,
            steps=config.steps,
            regularization=config.regularization,
        )

    means = reduce()
    return _NodeVectors(
        name=f"{components} {covariance} means",
        vectors=means.vectors,
        image_ids=np.asarray(means.image_ids),
        facts={"seconds_reduction": time_calls(reduce)[0]},
    )


def _search(collection: Collection, nodes: _NodeVectors, *, k: int) -> _SearchedGraph:
    settings = collection.index.config.replace(
        dim=None,  # The vectors are whitened already.
        k=k,
        query_k=k,
        warn_residual=np.inf,  # Residuals are in the record.
    )
    index = Index.build(nodes.vectors, nodes.image_ids, config=settings)
    regions, ids = collection.regions, collection.query_ids
    solution = index.search(regions, ids, top=1).solution
    is_in_batch = ids < _BATCH
    batch = regions[is_in_batch], ids[is_in_batch]
    (seconds,) = time_calls(lambda: index.search(*batch, top=10).scores)
    return _SearchedGraph(
        name=f"{nodes.name}, k {k}",
        scores=pool(
            solution.value,
            index.image_ids,
            weights=index.weights,
            num_images=collection.index.num_images,
        ),
        facts={
            "nodes": index.graph.num_nodes,
            "edges": index.graph.indices.shape[0] // 2,
            "largest_residual": float(np.max(np.asarray(solution.residual))),
            **nodes.facts,
            "seconds_per_query": seconds / int(batch[1][-1] + 1),
        },
    )


def _print_with_sizes(record: Mapping[str, Any]) -> None:
    print_record(record)
    for entry in record["results"]:
        names = "nodes", "edges", "seconds_reduction", "seconds_per_query"
        facts = [f"{name} {entry[name]:.4g}" for name in names if name in entry]
        print(f"{entry['method']}: {', '.join(facts)}")


def main() -> None:
    """Reads the command line, reduces, searches and records."""
    run_from_command_line("reduction", card, run, show=_print_with_sizes)
