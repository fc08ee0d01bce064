"""The paper's figure 6: `python -m experiments figure6 --benchmark scenes-small`."""

import pathlib
from typing import Any

import numpy as np
from jaxtyping import Bool

from configs import figure6 as card
from configs.figure6 import Figure6Config
from diffjax.evaluation import bootstrap_interval, paired_bootstrap
from experiments._benchmarks import describe_scenes
from experiments._collections import Collection
from experiments._runner import Findings, make_recorded_run, run_from_command_line
from experiments.reporting._charts import Chart, Line, to_percent, write_chart

from ._gains import Gains, measure_gains

_METHODS = "global diffusion", "regional diffusion"


def measure(
    config: Figure6Config, workdir: pathlib.Path, *, records: pathlib.Path
) -> Findings:
    """Bins positives by area, draws `figure6_BENCHMARK`.

    Args:
        config: How, on which benchmark.
        workdir: Keeps pictures and index.
        records: Folder of the record files and charts.

    Returns:
        What was found.

    Raises:
        ValueError: If the benchmark's pictures have no boxes, or there are fewer
            positives than bins.
    """
    collection, areas = describe_scenes(config, workdir)
    gains = measure_gains(
        collection,
        k=config.k,
        global_k=config.global_k,
        global_query_k=config.global_query_k,
    )
    area = areas[gains.image]
    if config.bins > len(area):
        raise ValueError(
            f"bins must be at most the {len(area)} positives, got {config.bins}."
        )
    edges = np.quantile(area, np.linspace(0, 1, config.bins + 1))
    number = np.clip(np.searchsorted(edges, area, side="right") - 1, 0, config.bins - 1)
    results = [
        _entry(number == one, area, gains, collection) for one in range(config.bins)
    ]
    chart = Chart(
        title=f"Precision by the object's area, {config.label}",
        x_label="object's part of the picture, %",
        y_label="precision at the rank of a positive, %",
        lines=[
            Line(
                method,
                x=[to_percent(entry["area"]) for entry in results],
                y=[to_percent(entry[method]) for entry in results],
                low=[to_percent(entry[f"{method}, low"]) for entry in results],
                high=[to_percent(entry[f"{method}, high"]) for entry in results],
            )
            for method in _METHODS
        ],
        log_x=True,
    )
    write_chart(records / f"figure6_{config.label}", chart)
    return Findings(collection, results)


def _entry(
    own: Bool[np.ndarray, " p"], area: np.ndarray, gains: Gains, collection: Collection
) -> dict[str, Any]:
    """Mean precision in a bin by both methods, and the paired difference."""
    objects = [collection.truth.objects[number] for number in gains.query[own]]
    drawing: dict[str, Any] = {"groups": objects, "seed": 0}
    entry: dict[str, Any] = {
        "area": float(np.exp(np.mean(np.log(area[own])))),
        "positives": int(own.sum()),
    }
    for place, method in enumerate(_METHODS):
        found = bootstrap_interval(gains.precision[own, place], **drawing)
        entry |= {
            method: found.mean,
            f"{method}, low": found.low,
            f"{method}, high": found.high,
        }
    gain = paired_bootstrap(gains.precision[own, 1], gains.precision[own, 0], **drawing)
    return entry | {"gain": gain.mean, "gain, low": gain.low, "gain, high": gain.high}


run = make_recorded_run("figure6", measure)


def main() -> None:
    """Reads the command line, searches, draws and records."""
    run_from_command_line("figure6", card, run)
