"""Figure 6 of the paper: `python -m experiments figure6 --benchmark scenes-small`."""

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

from ._gains import COMPARED, Gains, entries_of_both, measure_gains


def measure(
    config: Figure6Config, workdir: pathlib.Path, *, records: pathlib.Path
) -> Findings:
    """Bins positives by area and draws `figure6_BENCHMARK`.

    Args:
        config: Bins and graphs, and the benchmark.
        workdir: Caches pictures and index.
        records: Folder of the record files and charts.

    Returns:
        The findings.

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
    bins = np.clip(np.searchsorted(edges, area, side="right") - 1, 0, config.bins - 1)
    results = [
        _bin_entry(bins == number, area, gains, collection)
        for number in range(config.bins)
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
            for method in COMPARED
        ],
        log_x=True,
    )
    write_chart(records / f"figure6_{config.label}", chart)
    return Findings(collection, [*entries_of_both(collection, gains), *results])


def _bin_entry(
    in_bin: Bool[np.ndarray, " p"],
    area: np.ndarray,
    gains: Gains,
    collection: Collection,
) -> dict[str, Any]:
    """Averages precision in a bin by both methods, with the paired difference."""
    objects = [collection.truth.objects[number] for number in gains.query[in_bin]]
    drawing: dict[str, Any] = {"groups": objects, "seed": 0}
    entry: dict[str, Any] = {
        "area": float(np.exp(np.mean(np.log(area[in_bin])))),
        "positives": int(in_bin.sum()),
    }
    precision = gains.precision[in_bin]
    for method, values in zip(COMPARED, precision.T, strict=True):
        interval = bootstrap_interval(values, **drawing)
        entry |= {
            method: interval.mean,
            f"{method}, low": interval.low,
            f"{method}, high": interval.high,
        }
    gain = paired_bootstrap(precision[:, 1], precision[:, 0], **drawing)
    return entry | {"gain": gain.mean, "gain, low": gain.low, "gain, high": gain.high}


run = make_recorded_run("figure6", measure)


def main() -> None:
    """Reads the command line, searches, draws and records."""
    run_from_command_line("figure6", card, run)
