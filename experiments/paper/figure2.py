"""The paper's figure 2: `python -m experiments figure2 --benchmark scenes-small`."""

import pathlib
from typing import Any

from configs import figure2 as card
from configs.figure2 import Figure2Config
from experiments._benchmarks import load_benchmark
from experiments._runner import Findings, make_recorded_run, run_from_command_line
from experiments.reporting._charts import (
    Chart,
    HorizontalLine,
    mean_ap_line,
    to_percent,
    write_chart,
)

from ._methods import PAPER_SETTINGS, method_outcome

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
    collection = load_benchmark(config, workdir)
    near, matched = (
        collection.make_entry(name, method_outcome(name, collection))
        for name in ("R-MAC", "R-match")
    )
    curves: dict[str, list[dict[str, Any]]] = {}
    for name, settings, nodes in (
        (_GLOBAL, PAPER_SETTINGS["global"], len(collection.global_vectors)),
        (_REGIONAL, PAPER_SETTINGS["regional"], len(collection.index.vectors)),
    ):
        for k in (k for k in config.k if k <= nodes):
            # The paper's query_k, unless lists are shorter.
            query_k = min(settings.query_k, k)
            found = method_outcome(name, collection, k=k, query_k=query_k)
            entry = collection.make_entry(f"{name}, k {k}", found, k=k)
            curves.setdefault(name, []).append(entry)
    chart = Chart(
        title=f"Neighbours in the graph, {config.label}",
        x_label="neighbours k",
        y_label="mAP, %",
        lines=[mean_ap_line(name, entries, "k") for name, entries in curves.items()],
        levels=[
            HorizontalLine("R-MAC", to_percent(near["mean_ap"])),
            HorizontalLine("R-match", to_percent(matched["mean_ap"])),
        ],
        log_x=True,
    )
    write_chart(records / f"figure2_{config.label}", chart)
    results = [near, matched, *(e for entries in curves.values() for e in entries)]
    return Findings(collection, results)


run = make_recorded_run("figure2", measure)


def main() -> None:
    """Reads the command line, searches, draws and records."""
    run_from_command_line("figure2", card, run)
