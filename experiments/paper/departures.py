"""Causes of what is not as in the paper: `python -m experiments departures`."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from configs import departures as card
from configs.departures import DeparturesConfig
from configs.table2 import TRIED_SETTINGS
from diffjax.datasets import SCENE_SETS
from diffjax.evaluation import paired_bootstrap
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
        config: What is changed.
        workdir: Keeps pictures, indexes and what every trial found.
        records: Nothing is drawn there.

    Returns:
        What was found.

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
    results = [
        entry(name, own, config)
        for entry in (_methods, _cause_entry)
        for name, own in collections.items()
    ]
    return Findings(next(iter(collections.values())), results, seed=config.seed)


def _collections(
    config: DeparturesConfig, workdir: pathlib.Path
) -> Iterator[tuple[str, Collection]]:
    """The collection as it is, and with each cause changed."""
    other = _other_pictures(config)
    find_benchmark(other, workdir)  # Before minutes are spent on what comes first.
    own = load_benchmark(config, workdir)
    yield "nothing", own
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
    dim = own.index.vectors.shape[1]
    elsewhere = fit_pca_whitening(load_benchmark(other, workdir).index.vectors, dim=dim)
    yield f"whitened on {config.elsewhere}", _rewhiten(raw, elsewhere, own)
    yield (
        "PCA without whitening",
        _rewhiten(raw, fit_pca(raw.index.vectors, dim=dim), own),
    )


def _other_pictures(config: DeparturesConfig) -> DeparturesConfig:
    """The other pictures: those of the name, or other scenes of one's own settings."""
    composed = config.composed
    if composed is not None:
        composed = dataclasses.replace(composed, seed=composed.seed + 1)
    return dataclasses.replace(
        config, benchmark=config.elsewhere, composed=composed, dim=None
    )


def _rewhiten(raw: Collection, fitted: Whitening, own: Collection) -> Collection:
    """The collection's own vectors, through another map."""
    settings = own.index.config
    index = Index.build(
        raw.index.vectors,
        raw.index.image_ids,
        config=dataclasses.replace(settings, dim=None),
        whitening=fitted,
        pictures=raw.index.pictures,
    )
    return dataclasses.replace(raw, index=index, regions=whiten(raw.regions, fitted))


def _methods(name: str, own: Collection, config: DeparturesConfig) -> dict[str, Any]:
    """The methods, each tuned on the other half of the objects."""
    second = halve_objects(own.truth.objects, seed=config.seed)
    tuned = {
        method: tune_method(
            method, own, second, choices=TRIED_SETTINGS[method][: config.trials]
        ).outcome.precision
        for method in (_NEAREST, _EXPANDED, _DIFFUSED)
    }
    gain = paired_bootstrap(
        tuned[_DIFFUSED],
        tuned[_EXPANDED],
        groups=own.truth.objects,
        seed=config.seed,
    )
    entry: dict[str, Any] = {"changed": name, "images": own.index.num_images}
    for method, precision in tuned.items():
        entry[f"{method}, %"] = _percent(precision)
    entry["diffusion above expansion, %"] = (
        f"{100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
    )
    return entry


def _cause_entry(
    name: str, own: Collection, config: DeparturesConfig
) -> dict[str, Any]:
    """What stands behind: neighbours, how many of them are mutual, and short lists."""
    entry: dict[str, Any] = {"changed": name}
    n = len(own.index.vectors)
    for k in (k for k in config.k if k <= n):
        found = method_outcome(_DIFFUSED, own, k=k, query_k=k)
        entry[f"diffusion at k {k}, %"] = _percent(found.precision)
    last = max(k for k in config.k if k <= n)
    index = own.build_index(
        dataclasses.replace(PAPER_SETTINGS["regional"], k=last, query_k=1)
    )
    entry[f"mutual of {last}"] = index.graph.weights.size / n
    entry[f"positives in the best {config.share:.0%}, %"] = _shortlist_recall(
        own, config.share
    )
    return entry


def _percent(precision: np.ndarray) -> float:
    return 100 * float(np.nanmean(precision))


def _shortlist_recall(own: Collection, share: float) -> float:
    """How much of a query's positives global descriptors put into a short list."""
    length = max(1, round(share * own.index.num_images))
    best = np.asarray(rank(method_scores(_NEAREST, own)))[:length].T
    found = [
        np.isin(positives, images).mean()
        for positives, images in zip(own.truth.positives, best, strict=True)
        if len(positives)
    ]
    return 100 * float(np.mean(found))


run = make_recorded_run("departures", measure)


def main() -> None:
    """Reads the command line, searches and records."""
    run_from_command_line("departures", card, run)
