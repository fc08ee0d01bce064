"""The paper's figure 2: `python -m experiments figure2 --benchmark scenes-small`."""

import pathlib
from typing import Any

from configs import figure2 as card
from configs.figure2 import Figure2Config
from diffjax.report import Chart, Level, write_chart
from experiments._benchmarks import load
from experiments._curves import line, percent
from experiments._main import Findings, recorded, run_card
from experiments._methods import PAPER, outcome_of

_GLOBAL, _REGIONAL = "global diffusion", "regional diffusion"


def measure(
    config: Figure2Config, workdir: pathlib.Path, *, records: pathlib.Path
) -> Findings:
    """Searches graphs of all k, draws `figure2_BENCHMARK`.

    Args:
        config: Which k on which benchmark.
        workdir: Keeps pictures and index.
        records: Folder of the record files and charts.

    Returns:
        What was found.
    """
    collection = load(config, workdir)
    near, matched = (
        collection.entry(name, outcome_of(name, collection))
        for name in ("R-MAC", "R-match")
    )
    curves: dict[str, list[dict[str, Any]]] = {}
    for name, settings, nodes in (
        (_GLOBAL, PAPER["global"], len(collection.whole)),
        (_REGIONAL, PAPER["regional"], len(collection.index.vectors)),
    ):
        for k in (k for k in config.k if k <= nodes):
            # The paper's query_k, unless lists are shorter.
            query_k = min(settings.query_k, k)
            found = outcome_of(name, collection, k=k, query_k=query_k)
            entry = collection.entry(f"{name}, k {k}", found, k=k)
            curves.setdefault(name, []).append(entry)
    chart = Chart(
        title=f"Neighbours in the graph, {config.label}",
        x_label="neighbours k",
        y_label="mAP, %",
        lines=[line(name, entries, "k") for name, entries in curves.items()],
        levels=[
            Level("R-MAC", percent(near["mean_ap"])),
            Level("R-match", percent(matched["mean_ap"])),
        ],
        log_x=True,
    )
    write_chart(records / f"figure2_{config.label}", chart)
    results = [near, matched, *(e for entries in curves.values() for e in entries)]
    return Findings(collection, results)


run = recorded("figure2", measure)


def main() -> None:
    """Reads the command line, searches, draws and records."""
    run_card("figure2", card, run)
