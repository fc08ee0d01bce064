"""Figure 2 of the paper: `python -m experiments figure2 --benchmark scenes-small`."""

import pathlib
from typing import Any

import numpy as np

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
    """Searches graphs of every k and draws `figure2_BENCHMARK`.

    Args:
        config: Values of k, and the benchmark.
        workdir: Caches pictures and index.
        records: Folder of the record files and charts.

    Returns:
        The findings.
    """
    collection = load_benchmark(config, workdir)
    without_graph = {
        name: method_outcome(name, collection) for name in ("R-MAC", "R-match")
    }
    levels = [collection.make_entry(*item) for item in without_graph.items()]
    # Each method is compared with what the figure shows it above.
    against = [(name, o.precision) for name, o in without_graph.items()]
    curves: dict[str, list[dict[str, Any]]] = {}
    for name, settings, nodes in (
        (_GLOBAL, PAPER_SETTINGS["global"], len(collection.global_vectors)),
        (_REGIONAL, PAPER_SETTINGS["regional"], len(collection.index.vectors)),
    ):
        outcomes = {
            # The paper's query_k, unless lists are shorter.
            k: method_outcome(
                name, collection, k=k, query_k=min(settings.search.query_k, k)
            )
            for k in config.k
            if k <= nodes
        }
        best = max(outcomes, key=lambda k: np.nanmean(outcomes[k].precision))
        best_of_curve = f"{name}, k {best}", outcomes[best].precision
        curves[name] = [
            collection.make_entry(
                f"{name}, k {k}",
                outcome,
                against=against if k == best else [best_of_curve],
                k=k,
            )
            for k, outcome in outcomes.items()
        ]
        against = [*against, best_of_curve]
    chart = Chart(
        title=f"Neighbours in the graph, {config.label}",
        x_label="neighbours k",
        y_label="mAP, %",
        lines=[mean_ap_line(name, entries, "k") for name, entries in curves.items()],
        levels=[
            HorizontalLine(entry["method"], to_percent(entry["mean_ap"]))
            for entry in levels
        ],
        log_x=True,
    )
    write_chart(records / f"figure2_{config.label}", chart)
    results = [*levels, *(e for entries in curves.values() for e in entries)]
    return Findings(collection, results)


run = make_recorded_run("figure2", measure)


def main() -> None:
    """Reads the command line, searches, draws and records."""
    run_from_command_line("figure2", card, run)
