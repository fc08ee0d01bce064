"""Other queries, short lists, offline rows: `python -m experiments variants scenes`."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float

from configs import variants
from configs.variants import VariantsConfig
from diffjax.caches import cache_folder, enable_compilation_cache
from diffjax.diffusion import diffuse, diffuse_conventional, query_vectors
from diffjax.index import IndexConfig
from diffjax.pooling import pool
from diffjax.report import append_record, make_record
from experiments._collections import Collection, load_collection, time_calls

from .evaluate import RECORDS

_OWN = "the paper's queries on the whole graph"
_BATCH = 8  # Queries whose time is taken together.


def run(
    config: VariantsConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Measures every variant and appends a record to `variants_NAME.jsonl`.

    Args:
        config: Which variants.
        workdir: Keeps pictures and index.
        records: Folder of the record files.

    Returns:
        The record.
    """
    collection = load_collection(config.benchmark, config.folder, workdir)
    own, entry = _paper_entry(collection)
    against = _OWN, collection.precision(own)
    results = [
        entry,
        *_queries(collection, config, against),
        *_searches(collection, config, against),
        *_times(collection, config),
    ]
    record = make_record(
        f"variants, {collection.truth.name}",
        settings={**collection.sizes(), **dataclasses.asdict(config.folder.index)},
        results=results,
        seed=0,
    )
    records.mkdir(parents=True, exist_ok=True)
    append_record(records / f"variants_{collection.truth.name}.jsonl", record)
    return record


def _paper_entry(collection: Collection) -> tuple[Float[Array, "m q"], dict[str, Any]]:
    scores, took = _search(collection, collection.index.config)
    return scores, collection.make_entry(_OWN, scores, seconds_per_query=took)


def _search(
    collection: Collection, settings: IndexConfig
) -> tuple[Float[Array, "m q"], float]:
    """Searches with other settings: scores of all images, seconds a query."""
    index = collection.build_index(settings)
    few = collection.query_ids < _BATCH
    rows, ids = collection.regions[few], collection.query_ids[few]
    (took,) = time_calls(lambda: index.search(rows, ids, top=10).scores)
    return collection.scores(index), took / (ids[-1] + 1)


def _queries(
    collection: Collection,
    config: VariantsConfig,
    against: tuple[str, Float[np.ndarray, " q"]],
) -> Iterator[dict[str, Any]]:
    """The paper's reason for its queries: cut or not, and the conventional way."""
    index, ids = collection.index, collection.query_ids
    settings = index.config
    n = len(index.image_ids)

    def pooled(value):
        return pool(value, index.image_ids, weights=index.weights)

    parts = []
    for part in _query_batches(collection):
        y = query_vectors(
            index.vectors, *part, k=settings.query_k, gamma=settings.gamma, keep=n
        )
        parts.append(pooled(diffuse(index.graph, y, alpha=settings.alpha).value))
    scores = jnp.concatenate(parts, axis=1)
    yield collection.make_entry("k per region, all of y kept", scores, against=against)
    count = min(config.inserted, collection.num_queries)
    some = ids < count
    found = diffuse_conventional(
        index.vectors,
        index.neighbors,
        collection.regions[some],
        ids[some],
        gamma=settings.gamma,
        alpha=settings.alpha,
    )
    yield collection.first_queries(count).make_entry(
        f"inserted queries, the first {count}",
        pooled(found.value),
        against=(against[0], against[1][:count]),
    )


def _query_batches(collection: Collection) -> Iterator[tuple[jax.Array, np.ndarray]]:
    """Regions and ids of 64 queries at a time."""
    ids = collection.query_ids
    for start in range(0, collection.num_queries, 64):
        own = (ids >= start) & (ids < start + 64)
        yield collection.regions[own], ids[own] - start


def _searches(
    collection: Collection,
    config: VariantsConfig,
    against: tuple[str, Float[np.ndarray, " q"]],
) -> Iterator[dict[str, Any]]:
    """Short lists cut early and late, with both tails, and offline solutions."""
    base = collection.index.config
    cases = {"official queries": {"rule": "official"}}
    for size in config.shortlists:
        if size < collection.index.num_images:
            cases |= {
                f"short list of {size}, early": {"shortlist": size},
                f"short list of {size}, late": {"shortlist": size, "cut": "late"},
                f"short list of {size}, early, zero tail": {
                    "shortlist": size,
                    "tail": "zero",
                },
            }
    for size in config.offline:
        cases[f"offline on {size} nodes"] = {"offline": size, "cut": "late"}
    for name, change in cases.items():
        scores, took = _search(collection, dataclasses.replace(base, **change))
        yield collection.make_entry(
            name, scores, against=against, seconds_per_query=took
        )


def _times(collection: Collection, config: VariantsConfig) -> Iterator[dict[str, Any]]:
    """Seconds of right-hand side and diffusion by the number of a query's regions."""
    index, settings = collection.index, collection.index.config
    for count in config.regions:
        # Regions of the database, so that all counts ask for what is there.
        rows = index.vectors[jnp.arange(_BATCH * count) % len(index.image_ids)]
        ids = np.repeat(np.arange(_BATCH), count)

        def ask(rows=rows, ids=ids):
            return query_vectors(index.vectors, rows, ids, k=settings.query_k)

        y = ask()
        took, solve = time_calls(
            ask, lambda y=y: diffuse(index.graph, y, rtol=0.0).value
        )
        yield {
            "regions_per_query": count,
            "seconds_right_hand_side": took / _BATCH,
            "seconds_diffusion": solve / _BATCH,
            "columns": y.shape[1],
        }


def main() -> None:
    """Reads the command line: a collection's name, then what to change."""
    enable_compilation_cache()
    card = variants.__doc__ or ""
    config = tyro.extras.overridable_config_cli(
        {name: (card, config) for name, config in variants.full().items()},
        prog="python -m experiments variants",
    )
    record = run(config, cache_folder() / "experiments", records=RECORDS)
    for result in record["results"]:
        print("  ".join(f"{name} {value}" for name, value in result.items()))
