"""The paper's table 2: `python -m experiments table2 --benchmark scenes-small`."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from configs import paper
from configs import table2 as card
from configs.table2 import TRIED_SETTINGS, Table2Config
from diffjax.progress import progress_bars
from experiments._benchmarks import find_benchmark, load_benchmark
from experiments._collections import Collection
from experiments._runner import Findings, make_recorded_run, run_from_command_line

from ._methods import METHODS
from ._tuning import TunedMethod, halve_objects, tune_method

_BASELINE, _LOCAL = "regional diffusion", "HQE on SIFT"


def measure(
    config: Table2Config, workdir: pathlib.Path, *, records: pathlib.Path
) -> Findings:
    """Tunes and tests every method.

    Args:
        config: Methods, and the benchmark.
        workdir: Caches pictures, index and outcomes of trials.
        records: Not used: nothing is drawn.

    Returns:
        The findings.

    Raises:
        ValueError: If a method is unknown, or the benchmark has a single object.
    """
    if unknown := sorted(set(config.methods) - set(METHODS)):
        raise ValueError(
            f"methods must be of {', '.join(METHODS)}, got {', '.join(unknown)}."
        )
    del records
    if config.descriptors is None:
        # An error here comes before hours of describing pictures.
        halve_objects(find_benchmark(config, workdir).objects, seed=config.seed)
    collection = load_benchmark(config, workdir)
    second = halve_objects(collection.truth.objects, seed=config.seed)
    names = [
        name
        for name in config.methods
        if collection.benchmark is not None or not METHODS[name].needs_pictures
    ]
    rows: dict[str, TunedMethod] = {}
    with progress_bars() as progress:
        for done, name in enumerate(names):
            progress("comparing methods", done, len(names))
            rows[name] = tune_method(
                name,
                collection,
                second,
                choices=TRIED_SETTINGS[name][: config.trials],
                always=(
                    {"max_features": config.local_features} if name == _LOCAL else {}
                ),
            )
        progress("comparing methods", len(names), len(names))
    # The record says why a row is missing.
    left_out = [name for name in config.methods if name not in names]
    return Findings(
        collection,
        [_entry(name, rows, collection, config) for name in rows],
        more={
            "trials": config.trials,
            "paper": paper.paper_column(config.benchmark),
            **({"without_pictures_left_out": left_out} if left_out else {}),
        },
        seed=config.seed,
    )


def _entry(
    name: str,
    rows: Mapping[str, TunedMethod],
    collection: Collection,
    config: Table2Config,
) -> dict[str, Any]:
    row = rows[name]
    is_2048d = collection.index.vectors.shape[1] == 2048
    values = (paper.TABLE2_2048 if is_2048d else paper.TABLE2).get(name)
    against = []
    if name != _BASELINE and _BASELINE in rows:
        against.append((_BASELINE, rows[_BASELINE].outcome.precision))
    return collection.make_entry(
        name,
        row.outcome,
        against=against,
        seed=config.seed,
        test=True,
        group=METHODS[name].group,
        first_mean_ap=float(np.nanmean(row.untuned_precision)),
        tried=row.tried,
        chosen=row.settings_text,
        **paper.paper_entry(config.benchmark, values, name),
    )


run = make_recorded_run("table2", measure)


def main() -> None:
    """Reads the command line, tunes, tests and records."""
    run_from_command_line("table2", card, run)
