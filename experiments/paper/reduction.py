"""Mixtures instead of all regions: `python -m experiments reduction scenes`."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro
from jaxtyping import Array, Float, Int

from configs import reduction
from configs.reduction import ReductionConfig
from diffjax.caches import cache_folder, enable_compilation_cache
from diffjax.index import Index
from diffjax.pooling import pool
from diffjax.regions import CovarianceType, reduce_regions
from diffjax.report import (
    append_record,
    caption,
    difference_table,
    make_record,
    mean_ap_table,
    text_table,
)
from experiments._collections import Collection, load_collection, time_calls

from .evaluate import RECORDS

_BATCH = 8  # Queries whose time is taken together.


class _NodeVectors(NamedTuple):
    """What a graph is made of.

    Attributes:
        name: How many vectors an image has, and of what kind.
        vectors: Unit vectors.
        image_ids: Image of every one.
        facts: What is known of them.
    """

    name: str
    vectors: Float[Array, "g d"]
    image_ids: Int[np.ndarray, " g"]
    facts: dict[str, Any]


class _SearchedGraph(NamedTuple):
    """A graph that was searched.

    Attributes:
        name: Of its vectors, with k.
        scores: Scores of all images for all queries.
        facts: Its size and times.
    """

    name: str
    scores: Float[Array, "m q"]
    facts: dict[str, Any]


def run(
    config: ReductionConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Searches with all regions and with means, and adds to `reduction_NAME.jsonl`.

    Args:
        config: What to compare.
        workdir: Keeps pictures and index.
        records: Folder of the record files.

    Returns:
        The record: regional diffusion by GMP on each graph, with its `nodes`, `edges`
        and `seconds_per_query`, and the `seconds_reduction` of all images together.
    """
    collection = load_collection(config.benchmark, config.folder, workdir)
    base = collection.index
    regions = _NodeVectors("all regions", base.vectors, base.image_ids, {})
    own = _search(collection, regions, k=base.config.k)
    against = own.name, collection.precision(own.scores)
    results = [
        collection.make_entry(own.name, own.scores, **own.facts),
        *(
            collection.make_entry(
                other.name, other.scores, against=against, **other.facts
            )
            for other in _search_others(collection, config, regions)
        ),
    ]
    name = collection.truth.name
    record = make_record(
        f"reduction, {name}",
        settings={
            **collection.sizes(),
            **dataclasses.asdict(config.folder.index),
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
    """Searches all regions with other k, then every kind of means."""
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

    found = reduce()
    return _NodeVectors(
        name=f"{components} {covariance} means",
        vectors=found.vectors,
        image_ids=np.asarray(found.image_ids),
        facts={"seconds_reduction": time_calls(reduce)[0]},
    )


def _search(collection: Collection, given: _NodeVectors, *, k: int) -> _SearchedGraph:
    settings = dataclasses.replace(
        collection.index.config,
        dim=None,  # The vectors are whitened already.
        k=k,
        query_k=k,
        warn_residual=np.inf,  # Residuals are in the record.
    )
    index = Index.build(given.vectors, given.image_ids, config=settings)
    regions, ids = collection.regions, collection.query_ids
    solution = index.search(regions, ids, top=1).solution
    few = ids < _BATCH
    some = regions[few], ids[few]
    (took,) = time_calls(lambda: index.search(*some, top=10).scores)
    return _SearchedGraph(
        name=f"{given.name}, k {k}",
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
            **given.facts,
            "seconds_per_query": took / int(some[1][-1] + 1),
        },
    )


def main() -> None:
    """Reads the command line: a collection's name, then what to change."""
    enable_compilation_cache()
    card = reduction.__doc__ or ""
    config = tyro.extras.overridable_config_cli(
        {name: (card, config) for name, config in reduction.full().items()},
        prog="python -m experiments reduction",
    )
    record = run(config, cache_folder() / "experiments", records=RECORDS)
    print(text_table(*mean_ap_table(record["results"])))
    print(text_table(*difference_table(record["results"])))
    for result in record["results"]:
        facts = "nodes", "edges", "seconds_reduction", "seconds_per_query"
        told = [f"{fact} {result[fact]:.4g}" for fact in facts if fact in result]
        print(f"{result['method']}: {', '.join(told)}")
    print(caption(record))
