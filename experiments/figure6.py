"""The paper's figure 6: `python -m experiments figure6 --benchmark scenes-small`."""

import pathlib
from typing import Any

import numpy as np
from jaxtyping import Bool

from configs import figure6 as card
from configs.figure6 import Figure6Config
from diffjax.evaluation import bootstrap_interval, paired_bootstrap
from diffjax.report import Chart, Line, write_chart
from experiments._benchmarks import describe_scenes
from experiments._collections import Collection
from experiments._curves import percent
from experiments._gains import Gains, measure_gains
from experiments._main import Findings, recorded, run_card

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
                x=[percent(entry["area"]) for entry in results],
                y=[percent(entry[method]) for entry in results],
                low=[percent(entry[f"{method}, low"]) for entry in results],
                high=[percent(entry[f"{method}, high"]) for entry in results],
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


run = recorded("figure6", measure)


def main() -> None:
    """Reads the command line, searches, draws and records."""
    run_card("figure6", card, run)
