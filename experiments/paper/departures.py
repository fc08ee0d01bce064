"""Causes of departures from the paper: `python -m experiments departures`."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from configs import departures as card
from configs.departures import DeparturesConfig
from configs.table2 import TRIED_SETTINGS
from diffjax.datasets import SCENE_SETS
from diffjax.index import Index
from diffjax.ranking import rank
from diffjax.regions import fit_pca, fit_pca_whitening, whiten
from diffjax.types import Whitening
from experiments._benchmarks import find_benchmark, load_benchmark
from experiments._collections import Collection
from experiments._runner import Findings, make_recorded_run, run_from_command_line

from ._methods import PAPER_SETTINGS, method_outcome, method_scores
from ._tuning import halve_objects, tune_method

_NEAREST, _EXPANDED, _DIFFUSED = "R-MAC", "R-match + AQE", "regional diffusion"


def measure(
    config: DeparturesConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> Findings:
    """Changes one cause at a time.

    Args:
        config: Changed settings.
        workdir: Caches pictures, indexes and outcomes of trials.
        records: Not used: nothing is drawn.

    Returns:
        The findings.

    Raises:
        ValueError: If the benchmark is not one of composed scenes.
    """
    del records
    if config.benchmark not in SCENE_SETS:
        raise ValueError(
            f"benchmark must be one of composed scenes, {', '.join(SCENE_SETS)}, whose "
            f"number can be changed, got {config.benchmark!r}."
        )
    collections = dict(_collections(config, workdir))
    methods = [_method_entries(*item, config) for item in collections.items()]
    results = [
        *(entry for entries in methods for entry in entries),
        *map(_summary_entry, collections.items(), methods),
        *(_cause_entry(*item, config) for item in collections.items()),
    ]
    return Findings(next(iter(collections.values())), results, seed=config.seed)


def _collections(
    config: DeparturesConfig, workdir: pathlib.Path
) -> Iterator[tuple[str, Collection]]:
    """Loads the collection unchanged, then with each cause changed."""
    other = _other_pictures(config)
    find_benchmark(other, workdir)  # An error here comes before minutes of work.
    unchanged = load_benchmark(config, workdir)
    yield "nothing", unchanged
    descriptor = dataclasses.replace(config.descriptor, side=config.side)
    larger = dataclasses.replace(config, descriptor=descriptor)
    yield f"pictures at {config.side} px", load_benchmark(larger, workdir)
    composed = dataclasses.replace(
        config.composed or SCENE_SETS[config.benchmark].config,
        scenes_per_object=config.scenes_per_object,
    )
    more = dataclasses.replace(config, composed=composed)
    yield f"{config.scenes_per_object} scenes an object", load_benchmark(more, workdir)
    raw = load_benchmark(dataclasses.replace(config, dim=None), workdir)
    dim = unchanged.index.vectors.shape[1]
    elsewhere = fit_pca_whitening(load_benchmark(other, workdir).index.vectors, dim=dim)
    yield f"whitened on {config.elsewhere}", _rewhiten(raw, elsewhere, unchanged)
    yield (
        "PCA without whitening",
        _rewhiten(raw, fit_pca(raw.index.vectors, dim=dim), unchanged),
    )


def _other_pictures(config: DeparturesConfig) -> DeparturesConfig:
    """Makes the settings of the other pictures: another benchmark, or other scenes."""
    composed = config.composed
    if composed is not None:
        composed = dataclasses.replace(composed, seed=composed.seed + 1)
    return dataclasses.replace(
        config, benchmark=config.elsewhere, composed=composed, dim=None
    )


def _rewhiten(raw: Collection, fitted: Whitening, like: Collection) -> Collection:
    """Maps vectors that are not whitened by another whitening."""
    settings = like.index.config
    index = Index.build(
        raw.index.vectors,
        raw.index.image_ids,
        config=settings.replace(dim=None),
        whitening=fitted,
        pictures=raw.index.pictures,
    )
    return dataclasses.replace(raw, index=index, regions=whiten(raw.regions, fitted))


def _method_entries(
    name: str, collection: Collection, config: DeparturesConfig
) -> list[dict[str, Any]]:
    """Makes entries of the methods, each tuned on the other half of the objects."""
    second = halve_objects(collection.truth.objects, seed=config.seed)
    precision = {
        method: tune_method(
            method, collection, second, choices=TRIED_SETTINGS[method][: config.trials]
        ).outcome.precision
        for method in (_NEAREST, _EXPANDED, _DIFFUSED)
    }
    against = {_DIFFUSED: [(f"{_EXPANDED}, {name} changed", precision[_EXPANDED])]}
    return [
        collection.make_entry(
            f"{method}, {name} changed",
            precision[method],
            against=against.get(method, ()),
            seed=config.seed,
            **dict[str, Any](collection.sizes()),
        )
        for method in precision
    ]


def _summary_entry(
    item: tuple[str, Collection], entries: list[dict[str, Any]]
) -> dict[str, Any]:
    """Puts the mAP of all methods and the gain of diffusion in one row."""
    name, collection = item
    row: dict[str, Any] = {"changed": name, "images": collection.index.num_images}
    for method, entry in zip((_NEAREST, _EXPANDED, _DIFFUSED), entries, strict=True):
        row[f"{method}, %"] = 100 * entry["mean_ap"]
    (gain,) = entries[-1]["differences"]
    mean, low, high = (f"{100 * gain[key]:+.1f}" for key in ("mean", "low", "high"))
    return row | {"diffusion above expansion, %": f"{mean} [{low}, {high}]"}


def _cause_entry(
    name: str, collection: Collection, config: DeparturesConfig
) -> dict[str, Any]:
    """Measures mAP at fixed k, mutual neighbours and short lists."""
    entry: dict[str, Any] = {"changed": name}
    n = len(collection.index.vectors)
    for k in (k for k in config.k if k <= n):
        outcome = method_outcome(_DIFFUSED, collection, k=k, query_k=k)
        entry[f"diffusion at k {k}, %"] = _percent(outcome.precision)
    largest = max(k for k in config.k if k <= n)
    index = collection.build_index(
        PAPER_SETTINGS["regional"].replace(k=largest, query_k=1)
    )
    entry[f"mutual of {largest}"] = index.graph.weights.size / n
    entry[f"positives in the best {config.share:.0%}, %"] = _shortlist_recall(
        collection, config.share
    )
    return entry


def _percent(precision: np.ndarray) -> float:
    return 100 * float(np.nanmean(precision))


def _shortlist_recall(collection: Collection, share: float) -> float:
    """Computes the share of positives in a short list by global descriptors."""
    length = max(1, round(share * collection.index.num_images))
    best = np.asarray(rank(method_scores(_NEAREST, collection)))[:length].T
    shares = [
        np.isin(positives, images).mean()
        for positives, images in zip(collection.truth.positives, best, strict=True)
        if len(positives)
    ]
    return 100 * float(np.mean(shares))


run = make_recorded_run("departures", measure)


def main() -> None:
    """Reads the command line, searches and records."""
    run_from_command_line("departures", card, run)
