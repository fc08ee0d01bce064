"""Figure 3 of the paper: `python -m experiments figure3 --benchmark grocery`."""

import pathlib
from typing import NamedTuple

import numpy as np

from configs import figure3 as card
from configs.figure3 import Figure3Config
from diffjax.diffusion import SolverName, diffuse, query_vectors
from experiments._batched_diffusion import diffuse_in_batches, pad_columns
from experiments._benchmarks import load_benchmark
from experiments._collections import Collection, Outcome
from experiments._runner import Findings, make_recorded_run, run_from_command_line
from experiments._timing import time_calls
from experiments.reporting._charts import (
    Chart,
    format_milliseconds,
    mean_ap_line,
    write_chart,
)

from ._methods import PAPER_SETTINGS

_SOLVERS: dict[str, SolverName] = {
    "conjugate gradient": "cg",
    "classic iteration": "iterate",
}


def measure(
    config: Figure3Config, workdir: pathlib.Path, *, records: pathlib.Path
) -> Findings:
    """Solves with increasing numbers of steps and draws `figure3_BENCHMARK`.

    Args:
        config: Numbers of steps, and the benchmark.
        workdir: Caches pictures and index.
        records: Folder of the record files and charts.

    Returns:
        The findings.
    """
    collection = load_benchmark(config, workdir)
    runs = {
        (name, steps): _solve(name, steps, collection, config)
        for name in _SOLVERS
        for steps in config.steps
    }
    # Both solvers are compared with the end of the first one.
    end = next(iter(_SOLVERS)), config.steps[-1]
    baseline = _label(*end), runs[end].outcome.precision
    curves = {
        name: [
            collection.make_entry(
                _label(name, steps),
                runs[name, steps].outcome,
                against=[] if (name, steps) == end else [baseline],
                steps=steps,
                largest_residual=runs[name, steps].residual,
                seconds_per_query=runs[name, steps].seconds_per_query,
            )
            for steps in config.steps
        ]
        for name in _SOLVERS
    }
    chart = Chart(
        title=f"Iterations, {config.label}",
        x_label="iterations",
        y_label="mAP, %",
        lines=[
            mean_ap_line(
                name,
                entries,
                "steps",
                labels=[
                    format_milliseconds(e["seconds_per_query"])
                    if e["steps"] in config.labelled
                    else ""
                    for e in entries
                ],
                bands=False,
            )
            for name, entries in curves.items()
        ],
        log_x=True,
    )
    write_chart(records / f"figure3_{config.label}", chart)
    results = [entry for entries in curves.values() for entry in entries]
    return Findings(collection, results)


class _Run(NamedTuple):
    """Solutions of all queries after a number of steps.

    Attributes:
        outcome: Quality of the answers.
        residual: Largest relative residual.
        seconds_per_query: Time of the diffusion alone.
    """

    outcome: Outcome
    residual: float
    seconds_per_query: float


def _label(name: str, steps: int) -> str:
    return f"{name}, steps: {steps}"


def _solve(
    name: str, steps: int, collection: Collection, config: Figure3Config
) -> _Run:
    solver = _SOLVERS[name]
    settings = PAPER_SETTINGS["regional"].replace(
        k=config.k,
        query_k=config.k,
        solver=solver,
        max_steps=steps,
    )
    index = collection.build_index(settings)
    y = query_vectors(
        index.vectors,
        collection.regions,
        collection.query_ids,
        k=settings.search.query_k,
        gamma=settings.graph.gamma,
    )
    solver_settings = {
        "alpha": settings.search.alpha,
        # All steps are taken: queries that stop early would shorten the time.
        "rtol": 0.0,
        "solver": solver,
        "max_steps": steps,
    }

    def compute():
        scores, residual = diffuse_in_batches(
            index, y, batch_size=config.batch, **solver_settings
        )
        outcome = collection.evaluate_answers(scores)
        return outcome._asdict() | {"residual": np.array(residual)}

    arrays = dict(collection.load_or_compute(name, settings.by_name(), compute))
    residual = float(arrays.pop("residual"))
    first = pad_columns(y[:, : config.batch], config.batch)
    (seconds,) = time_calls(
        lambda: diffuse(index.graph, first, **solver_settings).value
    )
    return _Run(Outcome(**arrays), residual, seconds / config.batch)


run = make_recorded_run("figure3", measure)


def main() -> None:
    """Reads the command line, solves, draws and records."""
    run_from_command_line("figure3", card, run)
