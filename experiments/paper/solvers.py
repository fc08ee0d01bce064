"""Solvers side by side: `python -m experiments solvers scenes`."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from configs import solvers
from configs.solvers import SolversConfig
from diffjax.caches import cache_folder, enable_compilation_cache
from diffjax.diffusion import SolverName, diffuse, query_vectors
from diffjax.graph import affinity, normalize, truncate
from diffjax.pooling import pool
from diffjax.report import append_record, make_record
from experiments._collections import Collection, load_collection

from .evaluate import RECORDS

_ITERATED: tuple[SolverName, ...] = ("cg", "iterate")
_TOP = 100


def run(
    config: SolversConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Solves by every solver and appends a record to `solvers_NAME.jsonl`.

    Args:
        config: What to solve.
        workdir: Keeps pictures and index.
        records: Folder of the record files.

    Returns:
        The record.
    """
    collection = load_collection(config.benchmark, config.folder, workdir)
    results = [*_agreement(collection, config), *_curve(collection, config)]
    record = make_record(
        f"solvers, {collection.truth.name}",
        settings={**collection.sizes(), **dataclasses.asdict(config.folder.index)},
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
        k=settings.query_k,
        gamma=settings.gamma,
    )


def _agreement(collection: Collection, config: SolversConfig) -> list[dict[str, Any]]:
    """Compares every solver at convergence with the dense solution in float64."""
    index = collection.index
    y = _right_hand_sides(collection)[:, : config.compared]
    n = min(config.nodes, len(index.image_ids))
    # The nodes that the queries touch, then others, in the graph that is left of them.
    order = np.argsort(-np.asarray(y.max(1)), kind="stable")[:n]
    raw = affinity(index.neighbors, gamma=index.config.gamma)
    graph = normalize(truncate(raw, np.sort(order)))
    y = y[np.sort(order)]
    alpha = index.config.alpha
    dense = np.eye(n) - alpha * graph.to_scipy().toarray().astype(np.float64)
    expected = np.linalg.solve(dense, np.asarray(y, np.float64))
    best = np.argsort(-expected, axis=0)[:_TOP]
    results = []
    for solver in config.solvers:
        found = diffuse(graph, y, alpha=alpha, solver=solver, max_steps=5_000)
        value = np.asarray(found.value, np.float64)
        own = np.argsort(-value, axis=0)[:_TOP]
        shared = [len(set(a) & set(b)) for a, b in zip(best.T, own.T, strict=True)]
        results.append(
            {
                "solver": solver,
                "nodes": n,
                "difference": float(np.abs(value - expected).max() / expected.max()),
                "overlap": float(np.mean(shared) / min(_TOP, n)),
                "residual": float(found.residual.max()),
                "steps": int(found.num_steps.max()),
            }
        )
    return results


def _curve(collection: Collection, config: SolversConfig) -> list[dict[str, Any]]:
    """Measures mAP after some iterations of both methods."""
    index = collection.index
    y = _right_hand_sides(collection)
    results = []
    for solver in _ITERATED:
        for steps in config.steps:
            scores, residual = [], 0.0
            for part in range(0, y.shape[1], 64):
                found = diffuse(
                    index.graph,
                    y[:, part : part + 64],
                    alpha=index.config.alpha,
                    solver=solver,
                    max_steps=steps,
                )
                pooled = pool(found.value, index.image_ids, weights=index.weights)
                scores.append(pooled)
                residual = max(residual, float(found.residual.max()))
            mean = collection.precision(jnp.concatenate(scores, axis=1)).mean()
            results.append(
                {
                    "solver": solver,
                    "steps": steps,
                    "mean_ap": float(mean),
                    "residual": residual,
                }
            )
    return results


def main() -> None:
    """Reads the command line: a collection's name, then what to change."""
    enable_compilation_cache()
    card = solvers.__doc__ or ""
    config = tyro.extras.overridable_config_cli(
        {name: (card, config) for name, config in solvers.full().items()},
        prog="python -m experiments solvers",
    )
    record = run(config, cache_folder() / "experiments", records=RECORDS)
    for result in record["results"]:
        print("  ".join(f"{name} {value}" for name, value in result.items()))
