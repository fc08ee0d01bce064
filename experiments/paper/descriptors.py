"""Region descriptors side by side: `python -m experiments descriptors scenes`."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from configs import descriptors as card
from configs.descriptors import DescriptorsConfig, Row
from diffjax._io import write_atomically
from diffjax.datasets import Benchmark
from diffjax.evaluation import evaluate
from diffjax.images import DescriptorConfig, QueryRegions
from diffjax.index import (
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
from diffjax.report import append_record, make_record, mean_ap_table, text_table
from diffjax.types import Whitening
from experiments._entries import descriptor_settings, method_entry
from experiments._runner import run_from_command_line

from ._crow_netvlad import netvlad_vectors

_MAX_PAIRS = 20_000  # Matched pairs that a whitening is learned from.


@dataclasses.dataclass(frozen=True)
class _Precision:
    """Average precision of every query on the same vectors.

    Attributes:
        nearest: Average precision of nearest neighbours of global descriptors.
        regional: Average precision of diffusion.
    """

    nearest: Float[np.ndarray, " q"]
    regional: Float[np.ndarray, " q"]


class _DescribedBenchmark(NamedTuple):
    """Benchmark with the regions of its pictures and queries.

    Attributes:
        truth: The benchmark.
        regions: Regions of the database.
        queries: Regions of the queries.
    """

    truth: Benchmark
    regions: Regions
    queries: QueryRegions


def run(
    config: DescriptorsConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Searches with every descriptor and adds a record to `descriptors_NAME.jsonl`.

    Args:
        config: Rows of the table.
        workdir: Caches pictures, regions and results of rows.
        records: Folder of the record files.

    Returns:
        The record: mAP of regional diffusion, with that of nearest neighbours in
        `nearest_mean_ap`.
    """
    truth = config.benchmark.load(workdir)
    baseline: _Precision | None = None
    entry = functools.partial(_entry, config=config, truth=truth)
    results = []
    described: dict[DescriptorConfig, _DescribedBenchmark] = {}
    for row in config.rows:
        path = _result_path(row, config, truth, workdir)
        if not path.is_file():
            if row.descriptor not in described:
                described[row.descriptor] = _describe(row.descriptor, config, workdir)
            _save_result(path, _evaluate_row(row, config, described[row.descriptor]))
        precision = _load_result(path)
        results.append(
            entry(row.name, precision, descriptor=row.descriptor, baseline=baseline)
        )
        baseline = baseline or precision
        print(text_table(*mean_ap_table(results[-1:])).splitlines()[-1], flush=True)
    if config.netvlad_clusters:
        name = f"{config.netvlad_map} NetVLAD {config.netvlad_clusters}, whole pictures"
        descriptor = config.rows[0].descriptor
        precision = _netvlad(config, truth)
        results.append(entry(name, precision, descriptor=descriptor, baseline=baseline))
    record = make_record(
        f"descriptors, {truth.name}",
        settings={
            "images": len(truth.database),
            "queries": len(truth.queries),
            **config.index.by_name(),
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
    """Names the file of a row's result by all that it depends on: runs resume."""
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


def _save_result(path: pathlib.Path, precision: _Precision) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lists = {name: array.tolist() for name, array in vars(precision).items()}
    write_atomically(path, json.dumps(lists).encode(), sync=False)


def _load_result(path: pathlib.Path) -> _Precision:
    lists = json.loads(path.read_text())
    return _Precision(np.array(lists["nearest"]), np.array(lists["regional"]))


def _describe(
    descriptor: DescriptorConfig, config: DescriptorsConfig, workdir: pathlib.Path
) -> _DescribedBenchmark:
    """Describes pictures and queries, or loads cached regions of the pictures."""
    truth = config.benchmark.load(workdir)
    path = workdir / f"{truth.name}.descriptors"
    # This index only describes queries by the same settings, so it is small.
    small = config.index.replace(dim=16, k=2, query_k=2)
    with progress_bars() as progress:
        regions = extract_folder(
            truth.folder, path, config=descriptor, strict=True, progress=progress
        ).load()
        queries = index_folder(
            *(truth.folder, path),
            config=small,
            descriptor=descriptor,
            strict=True,
            progress=progress,
        ).describe(truth.queries, boxes=truth.boxes, progress=progress)
    return _DescribedBenchmark(truth, regions, queries)


def _evaluate_row(
    row: Row, config: DescriptorsConfig, data: _DescribedBenchmark
) -> _Precision:
    """Whitens and searches by the settings of a row."""
    settings = config.index.replace(dim=None)
    if row.whitening.startswith("supervised"):
        return _cross_fit(row, config, data)
    if row.whitening != "none":
        settings = settings.replace(
            dim=row.dim,
            whitening="pca" if row.whitening == "pca" else "pca-whitening",
            shrinkage=config.shrinkage if row.whitening == "shrunk" else 0.0,
        )
    return _search(data, settings)


def _cross_fit(
    row: Row, config: DescriptorsConfig, data: _DescribedBenchmark
) -> _Precision:
    """Learns on half of the objects, tests on queries for the other half, both ways."""
    truth, regions, queries = data
    labels = _object_labels(truth)
    objects = sorted(set(truth.objects))
    halves = np.random.default_rng(config.seed).permutation(len(objects)) % 2
    half = dict(zip(objects, halves.tolist(), strict=True))
    half_of_query = np.array([half[name] for name in truth.objects])
    half_of_image = np.array(
        [half[objects[label]] if label >= 0 else -1 for label in labels]
    )
    descriptors = np.asarray(
        global_descriptors(jnp.asarray(regions.vectors), regions.image_ids)
    )
    tested = []
    for learned in (0, 1):
        known = half_of_image == learned
        pairs = list_matching_pairs(labels[known], limit=_MAX_PAIRS, seed=config.seed)
        # Vectors that are whitened again keep all directions before.
        is_last = row.whitening == "supervised"
        whitening = fit_supervised_whitening(
            descriptors[known],
            pairs,
            dim=row.dim if is_last else descriptors.shape[1],
            shrinkage=config.shrinkage,
        )
        settings = config.index.replace(dim=None)
        if is_last:
            tested.append(_search(data, settings, whitening))
            continue
        projected = _DescribedBenchmark(
            truth,
            regions._replace(vectors=_project(regions.vectors, whitening)),
            queries._replace(vectors=_project(queries.vectors, whitening)),
        )
        reduced = settings.replace(dim=row.dim)
        tested.append(_search(projected, reduced))
    # Learned on half 0 answers queries of half 1.
    return _Precision(
        nearest=np.where(half_of_query == 1, tested[0].nearest, tested[1].nearest),
        regional=np.where(half_of_query == 1, tested[0].regional, tested[1].regional),
    )


def _object_labels(truth: Benchmark) -> Int[np.ndarray, " m"]:
    """Numbers the object of every picture of the database; -1 for none."""
    labels = np.full(len(truth.database), -1)
    numbers = {name: number for number, name in enumerate(sorted(set(truth.objects)))}
    for name, positives in zip(truth.objects, truth.positives, strict=True):
        labels[positives] = numbers[name]
    return labels


def _project(
    vectors: Float[np.ndarray, "n d"], whitening: Whitening
) -> Float[np.ndarray, "n p"]:
    return np.asarray(whiten(jnp.asarray(vectors), whitening))


def _search(
    data: _DescribedBenchmark, settings: IndexConfig, whitening: Whitening | None = None
) -> _Precision:
    truth, regions, queries = data
    index = Index.build(
        regions.vectors,
        regions.image_ids,
        config=settings.replace(warn_residual=float("inf")),
        whitening=whitening,
    )
    prepared = index.prepare(queries.vectors)
    nearest = nearest_neighbors(
        index.vectors, index.image_ids, prepared, queries.query_ids
    )
    value = index.search(queries.vectors, queries.query_ids, top=1).solution.value
    scores = pool(value, index.image_ids, weights=index.weights)
    return _Precision(
        nearest=np.asarray(evaluate(rank(nearest), truth).average_precision),
        regional=np.asarray(evaluate(rank(scores), truth).average_precision),
    )


def _netvlad(config: DescriptorsConfig, truth: Benchmark) -> _Precision:
    pictures, queries = netvlad_vectors(
        truth,
        config.rows[0].descriptor,
        name=config.netvlad_map,
        clusters=config.netvlad_clusters,
        cells=config.netvlad_cells,
        seed=config.seed,
    )
    ids = np.arange(len(pictures), dtype=np.int32)
    row = config.rows[0]
    # Settings of global diffusion, as in the other comparisons.
    settings = config.index.replace(dim=row.dim, k=20, query_k=10)
    boxes = np.zeros((len(pictures), 4), np.float32)
    data = _DescribedBenchmark(
        truth,
        Regions(pictures, ids, boxes),
        QueryRegions(queries, np.arange(len(queries), dtype=np.int32)),
    )
    return _search(data, settings)


def _entry(
    name: str,
    precision: _Precision,
    *,
    descriptor: DescriptorConfig,
    baseline: _Precision | None,
    config: DescriptorsConfig,
    truth: Benchmark,
) -> dict[str, Any]:
    against = [] if baseline is None else [(config.rows[0].name, baseline.regional)]
    return method_entry(
        name,
        precision.regional,
        groups=truth.objects,
        against=against,
        nearest_mean_ap=float(precision.nearest.mean()),
        descriptor=descriptor_settings(descriptor),
    )


def main() -> None:
    """Reads the command line, describes, searches and records."""
    run_from_command_line("descriptors", card, run)
