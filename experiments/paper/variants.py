"""Variants of queries and solutions: `python -m experiments variants scenes`."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from configs import variants as card
from configs.variants import VariantsConfig
from diffjax.diffusion import diffuse, diffuse_conventional, query_vectors
from diffjax.index import IndexConfig
from diffjax.pooling import pool
from diffjax.report import append_record, make_record
from experiments._batched_diffusion import diffuse_in_batches
from experiments._collections import Collection, load_collection
from experiments._entries import Baseline
from experiments._runner import run_from_command_line
from experiments._timing import time_calls

_REFERENCE = "the paper's queries on the whole graph"
_TIMED = 8  # Queries that are timed together.


def run(
    config: VariantsConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Measures every variant and appends a record to `variants_NAME.jsonl`.

    Args:
        config: Variants and their sizes.
        workdir: Caches pictures and index.
        records: Folder of the record files.

    Returns:
        The record.
    """
    collection = load_collection(config.benchmark, config.folder, workdir)
    scores, seconds = _search(collection, collection.index.config)
    against = [(_REFERENCE, collection.precision(scores))]
    results = [
        collection.make_entry(_REFERENCE, scores, seconds_per_query=seconds),
        *_queries(collection, config, against),
        *_searches(collection, config, against),
        *_times(collection, config),
    ]
    record = make_record(
        f"variants, {collection.truth.name}",
        settings={**collection.settings, **config.folder.index.by_name()},
        results=results,
        seed=0,
    )
    records.mkdir(parents=True, exist_ok=True)
    append_record(records / f"variants_{collection.truth.name}.jsonl", record)
    return record


class _TimedScores(NamedTuple):
    """Scores of all images for all queries, and the time of a query.

    Attributes:
        scores: Scores.
        seconds: Seconds per query, of a batch.
    """

    scores: Float[Array, "m q"]
    seconds: float


def _search(collection: Collection, settings: IndexConfig) -> _TimedScores:
    """Searches with other settings."""
    index = collection.build_index(settings)
    is_timed = collection.query_ids < _TIMED
    rows, ids = collection.regions[is_timed], collection.query_ids[is_timed]
    (seconds,) = time_calls(lambda: index.search(rows, ids, top=10).scores)
    return _TimedScores(collection.scores(index), seconds / (ids[-1] + 1))


def _queries(
    collection: Collection,
    config: VariantsConfig,
    against: Sequence[Baseline],
) -> Iterator[dict[str, Any]]:
    """Searches by query vectors without truncation, and by inserted queries."""
    index, ids = collection.index, collection.query_ids
    settings = index.config
    y = query_vectors(
        index.vectors,
        collection.regions,
        ids,
        k=settings.search.query_k,
        gamma=settings.graph.gamma,
        keep=len(index.image_ids),
    )
    scores, _ = diffuse_in_batches(index, y, alpha=settings.search.alpha)
    yield collection.make_entry("k per region, all of y kept", scores, against=against)
    count = min(config.inserted, collection.num_queries)
    is_first = ids < count
    solution = diffuse_conventional(
        index.vectors,
        index.neighbors,
        collection.regions[is_first],
        ids[is_first],
        gamma=settings.graph.gamma,
        alpha=settings.search.alpha,
    )
    yield collection.first_queries(count).make_entry(
        f"inserted queries, the first {count}",
        pool(solution.value, index.image_ids, weights=index.weights),
        against=[(name, precision[:count]) for name, precision in against],
    )


def _searches(
    collection: Collection,
    config: VariantsConfig,
    against: Sequence[Baseline],
) -> Iterator[dict[str, Any]]:
    """Searches short lists, truncated early and late, and offline solutions."""
    base = collection.index.config
    cases: dict[str, dict[str, Any]] = {"official queries": {"rule": "official"}}
    for size in config.shortlists:
        if size < collection.index.num_images:
            cases |= {
                f"short list of {size}, early": {"shortlist": size},
                f"short list of {size}, late": {
                    "shortlist": size,
                    "renormalize_shortlist": False,
                },
                f"short list of {size}, early, zero tail": {
                    "shortlist": size,
                    "outside_shortlist": "zero",
                },
            }
    for size in config.offline:
        cases[f"offline on {size} nodes"] = {"offline_neighbors": size}
    for name, change in cases.items():
        scores, seconds = _search(collection, base.replace(**change))
        yield collection.make_entry(
            name, scores, against=against, seconds_per_query=seconds
        )


def _times(collection: Collection, config: VariantsConfig) -> Iterator[dict[str, Any]]:
    """Measures seconds of right-hand side and diffusion by regions per query."""
    index, settings = collection.index, collection.index.config
    for count in config.regions:
        # Regions of the database serve as queries of any number of regions.
        rows = index.vectors[jnp.arange(_TIMED * count) % len(index.image_ids)]
        ids = np.repeat(np.arange(_TIMED), count)

        def make_y(rows=rows, ids=ids):
            return query_vectors(index.vectors, rows, ids, k=settings.search.query_k)

        y = make_y()
        seconds_y, seconds_solve = time_calls(
            make_y, lambda y=y: diffuse(index.graph, y, rtol=0.0).value
        )
        yield {
            "regions_per_query": count,
            "seconds_right_hand_side": seconds_y / _TIMED,
            "seconds_diffusion": seconds_solve / _TIMED,
            "columns": y.shape[1],
        }


def main() -> None:
    """Reads the command line, searches and records."""
    run_from_command_line("variants", card, run)
