"""Descriptors side by side: `python -m experiments descriptors scenes`."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Float, Int

from configs import descriptors
from configs.descriptors import DescriptorsConfig, Row
from diffjax.caches import cache_folder, enable_compilation_cache
from diffjax.datasets import Benchmark
from diffjax.evaluation import bootstrap_interval, evaluate, paired_bootstrap
from diffjax.images import DescriptorConfig, QueryRegions
from diffjax.index import (
    FolderConfig,
    Index,
    IndexConfig,
    Regions,
    extract_folder,
    index_folder,
)
from diffjax.pooling import pool
from diffjax.progress import progress_bars
from diffjax.ranking import nearest_neighbors, rank
from diffjax.regions import (
    fit_supervised_whitening,
    global_descriptors,
    list_matching_pairs,
    whiten,
)
from diffjax.report import (
    append_record,
    caption,
    difference_table,
    make_record,
    mean_ap_table,
    text_table,
)
from diffjax.types import Whitening

from ._crow_netvlad import netvlad_vectors
from .evaluate import RECORDS

_PAIRS = 20_000  # Matched pairs that a whitening is learned on, at most.


@dataclasses.dataclass(frozen=True)
class _Precision:
    """Average precision of every query on the same vectors.

    Attributes:
        nearest: By nearest neighbours of global descriptors.
        regional: By diffusion.
    """

    nearest: Float[np.ndarray, " q"]
    regional: Float[np.ndarray, " q"]


class _DescribedBenchmark(NamedTuple):
    """A benchmark, described.

    Attributes:
        truth: The benchmark.
        regions: Of its pictures.
        asked: Of its queries.
    """

    truth: Benchmark
    regions: Regions
    asked: QueryRegions


def run(
    config: DescriptorsConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Searches with every descriptor and adds a record to `descriptors_NAME.jsonl`.

    Args:
        config: What to compare.
        workdir: Keeps pictures and regions.
        records: Folder of the record files.

    Returns:
        The record: mAP of regional diffusion, with that of nearest neighbours in
        `nearest_mean_ap`.
    """
    truth = config.benchmark.load(workdir)
    first: _Precision | None = None
    results = []
    described: dict[DescriptorConfig, _DescribedBenchmark] = {}
    for row in config.rows:
        kept = _result_path(row, config, truth, workdir)
        if not kept.is_file():
            if row.descriptor not in described:
                described[row.descriptor] = _describe(row.descriptor, config, workdir)
            _save_result(kept, _evaluate_row(row, config, described[row.descriptor]))
        found = _load_result(kept)
        results.append(_entry(row.name, found, truth, first, config.rows[0].name))
        first = first or found
        print(text_table(*mean_ap_table(results[-1:])).splitlines()[-1], flush=True)
    if config.netvlad_clusters:
        name = f"{config.netvlad_map} NetVLAD {config.netvlad_clusters}, whole pictures"
        found = _netvlad(config, truth)
        results.append(_entry(name, found, truth, first, config.rows[0].name))
    record = make_record(
        f"descriptors, {truth.name}",
        settings={
            "images": len(truth.database),
            "queries": len(truth.queries),
            **dataclasses.asdict(config.index),
            "shrinkage": config.shrinkage,
        },
        results=results,
        seed=config.seed,
    )
    records.mkdir(parents=True, exist_ok=True)
    append_record(records / f"descriptors_{truth.name}.jsonl", record)
    return record


def _result_path(
    row: Row, config: DescriptorsConfig, truth: Benchmark, workdir: pathlib.Path
) -> pathlib.Path:
    """Where a row's result is kept, by all that it depends on: a killed run goes on."""
    settings = [
        dataclasses.asdict(part) for part in (row, config.index, row.descriptor)
    ]
    named = [
        truth.name,
        [path.name for path in (*truth.database, *truth.queries)],
        settings,
        config.shrinkage,
        config.seed,
    ]
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
    return workdir / "descriptor-rows" / f"{digest[:16]}.json"


def _save_result(path: pathlib.Path, found: _Precision) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lists = {"nearest": found.nearest.tolist(), "regional": found.regional.tolist()}
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(lists))
    aside.replace(path)


def _load_result(path: pathlib.Path) -> _Precision:
    lists = json.loads(path.read_text())
    return _Precision(np.array(lists["nearest"]), np.array(lists["regional"]))


def _describe(
    descriptor: DescriptorConfig, config: DescriptorsConfig, workdir: pathlib.Path
) -> _DescribedBenchmark:
    """Describes the pictures, or finds their regions in `workdir`, and the queries."""
    truth = config.benchmark.load(workdir)
    path = workdir / f"{truth.name}.descriptors"
    # An index only to describe queries: small, and of these very settings.
    folder = FolderConfig(
        **dataclasses.asdict(descriptor),
        index=dataclasses.replace(config.index, dim=16, k=2, query_k=2),
    )
    with progress_bars() as progress:
        regions = extract_folder(
            truth.folder, path, config=descriptor, strict=True, progress=progress
        ).load()
        asked = index_folder(
            truth.folder, path, config=folder, strict=True, progress=progress
        ).describe(truth.queries, boxes=truth.boxes, progress=progress)
    return _DescribedBenchmark(truth, regions, asked)


def _evaluate_row(
    row: Row, config: DescriptorsConfig, data: _DescribedBenchmark
) -> _Precision:
    """Whitens and searches as a row says."""
    settings = dataclasses.replace(config.index, dim=None)
    if row.whitening.startswith("supervised"):
        return _cross_fitted(row, config, data)
    if row.whitening != "none":
        settings = dataclasses.replace(
            settings,
            dim=row.dim,
            whitening="pca" if row.whitening == "pca" else "pca-whitening",
            shrinkage=config.shrinkage if row.whitening == "shrunk" else 0.0,
        )
    return _search(data, settings)


def _cross_fitted(
    row: Row, config: DescriptorsConfig, data: _DescribedBenchmark
) -> _Precision:
    """Learns on half of the objects, tests on queries for the other half, both ways."""
    truth, regions, asked = data
    labels = _object_labels(truth)
    objects = sorted(set(truth.objects))
    halves = np.random.default_rng(config.seed).permutation(len(objects)) % 2
    half = dict(zip(objects, halves.tolist(), strict=True))
    of_query = np.array([half[name] for name in truth.objects])
    of_image = np.array(
        [half[objects[label]] if label >= 0 else -1 for label in labels]
    )
    whole = np.asarray(
        global_descriptors(jnp.asarray(regions.vectors), regions.image_ids)
    )
    tested = []
    for learned in (0, 1):
        known = of_image == learned
        pairs = list_matching_pairs(labels[known], limit=_PAIRS, seed=config.seed)
        # What is whitened again loses no direction before.
        last = row.whitening == "supervised"
        whitening = fit_supervised_whitening(
            whole[known],
            pairs,
            dim=row.dim if last else whole.shape[1],
            shrinkage=config.shrinkage,
        )
        settings = dataclasses.replace(config.index, dim=None)
        if last:
            tested.append(_search(data, settings, whitening))
            continue
        projected = _DescribedBenchmark(
            truth,
            regions._replace(vectors=_project(regions.vectors, whitening)),
            asked._replace(vectors=_project(asked.vectors, whitening)),
        )
        again = dataclasses.replace(settings, dim=row.dim)
        tested.append(_search(projected, again))
    # Learned on half 0 answers queries of half 1.
    return _Precision(
        nearest=np.where(of_query == 1, tested[0].nearest, tested[1].nearest),
        regional=np.where(of_query == 1, tested[0].regional, tested[1].regional),
    )


def _object_labels(truth: Benchmark) -> Int[np.ndarray, " m"]:
    """Object of every picture of the database, by its place among all; -1 for none."""
    labels = np.full(len(truth.database), -1)
    places = {name: place for place, name in enumerate(sorted(set(truth.objects)))}
    for name, positives in zip(truth.objects, truth.positives, strict=True):
        labels[positives] = places[name]
    return labels


def _project(
    vectors: Float[np.ndarray, "n d"], whitening: Whitening
) -> Float[np.ndarray, "n p"]:
    return np.asarray(whiten(jnp.asarray(vectors), whitening))


def _search(
    data: _DescribedBenchmark, settings: IndexConfig, whitening: Whitening | None = None
) -> _Precision:
    truth, regions, asked = data
    index = Index.build(
        regions.vectors,
        regions.image_ids,
        config=dataclasses.replace(settings, warn_residual=float("inf")),
        whitening=whitening,
    )
    prepared = index.prepare(asked.vectors)
    near = nearest_neighbors(index.vectors, index.image_ids, prepared, asked.query_ids)
    value = index.search(asked.vectors, asked.query_ids, top=1).solution.value
    scores = pool(value, index.image_ids, weights=index.weights)
    return _Precision(
        nearest=np.asarray(evaluate(rank(near), truth).average_precision),
        regional=np.asarray(evaluate(rank(scores), truth).average_precision),
    )


def _netvlad(config: DescriptorsConfig, truth: Benchmark) -> _Precision:
    pictures, queries = netvlad_vectors(
        truth,
        name=config.netvlad_map,
        clusters=config.netvlad_clusters,
        cells=config.netvlad_cells,
        seed=config.seed,
    )
    ids = np.arange(len(pictures), dtype=np.int32)
    row = config.rows[0]
    # The settings of global diffusion, as the other comparisons have them.
    settings = dataclasses.replace(config.index, dim=row.dim, k=20, query_k=10)
    nowhere = np.zeros((len(pictures), 4), np.float32)
    data = _DescribedBenchmark(
        truth,
        Regions(pictures, ids, nowhere),
        QueryRegions(queries, np.arange(len(queries), dtype=np.int32)),
    )
    return _search(data, settings)


def _entry(
    name: str,
    found: _Precision,
    truth: Benchmark,
    first: _Precision | None,
    against: str,
) -> dict[str, Any]:
    drawing: dict[str, Any] = {"groups": truth.objects, "seed": 0}
    own = bootstrap_interval(found.regional, **drawing)
    entry: dict[str, Any] = {
        "method": name,
        "nearest_mean_ap": float(found.nearest.mean()),
        "mean_ap": own.mean,
        "low": own.low,
        "high": own.high,
    }
    if first is not None:
        pair = paired_bootstrap(found.regional, first.regional, **drawing)
        entry["differences"] = [{"against": against, **pair._asdict()}]
    return entry


def main() -> None:
    """Reads the command line: a collection, then what to change in its config."""
    enable_compilation_cache()
    config = tyro.extras.overridable_config_cli(
        {
            name: (descriptors.__doc__ or "", config)
            for name, config in descriptors.full().items()
        },
        prog="python -m experiments descriptors",
    )
    record = run(config, cache_folder() / "experiments", records=RECORDS)
    print(text_table(*mean_ap_table(record["results"])))
    print(text_table(*difference_table(record["results"])))
    print(caption(record))
