"""The paper's figure 3: `python -m experiments figure3 --benchmark grocery`."""

import dataclasses
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from configs import figure3 as card
from configs.figure3 import Figure3Config
from diffjax.diffusion import SolverName, diffuse, query_vectors
from diffjax.pooling import pool
from experiments._benchmarks import load_benchmark
from experiments._collections import Collection, Outcome, time_calls
from experiments._runner import Findings, make_recorded_run, run_from_command_line
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
    """Solves with more and more steps, draws `figure3_BENCHMARK`.

    Args:
        config: Which steps on which benchmark.
        workdir: Keeps pictures and index.
        records: Folder of the record files and charts.

    Returns:
        What was found.
    """
    collection = load_benchmark(config, workdir)
    curves = {
        name: [
            _entry(name, solver, steps, collection, config) for steps in config.steps
        ]
        for name, solver in _SOLVERS.items()
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


def _entry(
    name: str,
    solver: SolverName,
    steps: int,
    collection: Collection,
    config: Figure3Config,
) -> dict[str, Any]:
    settings = dataclasses.replace(
        PAPER_SETTINGS["regional"],
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
        k=settings.query_k,
        gamma=settings.gamma,
    )
    solving = {"alpha": settings.alpha, "solver": solver, "max_steps": steps}

    def solve(columns):
        # All the steps: a query that is solved early would shorten the time of few.
        return diffuse(index.graph, columns, rtol=0.0, **solving)

    def compute():
        pooled, residual = [], 0.0
        for start in range(0, y.shape[1], config.batch):
            found = solve(_filled(y[:, start : start + config.batch], config.batch))
            scores = pool(found.value, index.image_ids, weights=index.weights)
            pooled.append(scores[:, : y.shape[1] - start])
            residual = max(residual, float(found.residual.max()))
        judged = collection.evaluate_answers(jnp.concatenate(pooled, axis=1))
        return judged._asdict() | {"residual": np.array(residual)}

    kept = dict(collection.load_or_compute(name, dataclasses.asdict(settings), compute))
    residual = float(kept.pop("residual"))
    first = _filled(y[:, : config.batch], config.batch)
    (took,) = time_calls(lambda: solve(first).value)
    return collection.make_entry(
        f"{name}, steps: {steps}",
        Outcome(**kept),
        steps=steps,
        largest_residual=residual,
        seconds_per_query=took / config.batch,
    )


def _filled(columns, count: int):
    """Columns filled up with zeros, so that one program serves all batches."""
    return jnp.pad(columns, ((0, 0), (0, count - columns.shape[1])))


run = make_recorded_run("figure3", measure)


def main() -> None:
    """Reads the command line, solves, draws and records."""
    run_from_command_line("figure3", card, run)
