"""Solvers side by side: `python -m experiments solvers scenes`."""

import pathlib
from typing import Any

import jax
import numpy as np

from configs import solvers as card
from configs.solvers import SolversConfig
from diffjax.diffusion import SolverName, diffuse, query_vectors
from diffjax.graph import affinity, normalize, truncate
from diffjax.report import append_record, make_record
from experiments._batched_diffusion import diffuse_in_batches
from experiments._collections import Collection, load_collection
from experiments._runner import run_from_command_line

_ITERATED: tuple[SolverName, ...] = ("cg", "iterate")
_TOP = 100  # First regions that are compared with the dense solution's.


def run(
    config: SolversConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Solves by every solver and appends a record to `solvers_NAME.jsonl`.

    Args:
        config: Systems to solve, and numbers of iterations.
        workdir: Caches pictures and index.
        records: Folder of the record files.

    Returns:
        The record.
    """
    collection = load_collection(config.benchmark, config.folder, workdir)
    results = [*_agreement(collection, config), *_curve(collection, config)]
    record = make_record(
        f"solvers, {collection.truth.name}",
        settings={**collection.settings, **config.folder.index.by_name()},
        results=results,
        seed=0,
    )
    records.mkdir(parents=True, exist_ok=True)
    append_record(records / f"solvers_{collection.truth.name}.jsonl", record)
    return record


def _right_hand_sides(collection: Collection) -> jax.Array:
    settings = collection.index.config
    return query_vectors(
        collection.index.vectors,
        collection.regions,
        collection.query_ids,
        k=settings.search.query_k,
        gamma=settings.graph.gamma,
    )


def _agreement(collection: Collection, config: SolversConfig) -> list[dict[str, Any]]:
    """Compares every solver at convergence with the dense solution in float64."""
    index = collection.index
    y = _right_hand_sides(collection)[:, : config.compared]
    n = min(config.nodes, len(index.image_ids))
    # The subgraph of the queries' neighbours, then of other nodes.
    nodes = np.sort(np.argsort(-np.asarray(y.max(1)), kind="stable")[:n])
    raw = affinity(index.neighbors, gamma=index.config.graph.gamma)
    graph = normalize(truncate(raw, nodes))
    y = y[nodes]
    alpha = index.config.search.alpha
    dense = np.eye(n) - alpha * graph.to_scipy().toarray().astype(np.float64)
    expected = np.linalg.solve(dense, np.asarray(y, np.float64))
    best = np.argsort(-expected, axis=0)[:_TOP]
    results = []
    for solver in config.solvers:
        solution = diffuse(graph, y, alpha=alpha, solver=solver, max_steps=5_000)
        value = np.asarray(solution.value, np.float64)
        first = np.argsort(-value, axis=0)[:_TOP]
        shared = [len(set(a) & set(b)) for a, b in zip(best.T, first.T, strict=True)]
        results.append(
            {
                "solver": solver,
                "nodes": n,
                "difference": float(np.abs(value - expected).max() / expected.max()),
                "overlap": float(np.mean(shared) / min(_TOP, n)),
                "residual": float(solution.residual.max()),
                "steps": int(solution.num_steps.max()),
            }
        )
    return results


def _curve(collection: Collection, config: SolversConfig) -> list[dict[str, Any]]:
    """Measures mAP after some iterations of both methods."""
    y = _right_hand_sides(collection)
    alpha = collection.index.config.search.alpha
    runs = {
        (solver, steps): diffuse_in_batches(
            collection.index, y, alpha=alpha, solver=solver, max_steps=steps
        )
        for solver in _ITERATED
        for steps in config.steps
    }
    end = _ITERATED[0], config.steps[-1]
    baseline = "{}, {} steps".format(*end), collection.precision(runs[end].scores)
    return [
        collection.make_entry(
            f"{solver}, {steps} steps",
            run.scores,
            against=[] if (solver, steps) == end else [baseline],
            solver=solver,
            steps=steps,
            residual=run.residual,
        )
        for (solver, steps), run in runs.items()
    ]


def main() -> None:
    """Reads the command line, solves and records."""
    run_from_command_line("solvers", card, run)
