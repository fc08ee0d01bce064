"""What a gradient costs: `python -m experiments gradient_cost`."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from configs import gradient_cost
from configs.gradient_cost import GradientCostConfig
from diffjax.caches import enable_compilation_cache
from diffjax.diffusion import diffuse
from diffjax.graph import affinity, compress, knn, normalize
from diffjax.report import append_record, make_record
from diffjax.types import Graph
from experiments._collections import time_calls
from experiments.paper.evaluate import RECORDS


def run(
    config: GradientCostConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Times values and gradients and appends a record to `gradient_cost.jsonl`.

    Args:
        config: What to time.
        workdir: Not used: nothing is kept.
        records: Folder of the record files.

    Returns:
        The record.
    """
    del workdir
    raw = compress(affinity(knn(clustered_vectors(config), config.k), gamma=1.0))
    graph = normalize(affinity(raw))
    rng = np.random.default_rng(config.seed)
    results = []
    for count in config.queries:
        y = np.zeros((config.nodes, count), np.float32)
        for column in range(count):
            touched = rng.choice(config.nodes, config.entries, replace=False)
            y[touched, column] = rng.uniform(size=config.entries)
        results += _ratios(raw, graph, jnp.asarray(y), rounds=config.rounds)
    record = make_record(
        "gradient cost",
        settings=dataclasses.asdict(config) | {"edges": int(raw.weights.size)},
        results=results,
        seed=config.seed,
    )
    records.mkdir(parents=True, exist_ok=True)
    append_record(records / "gradient_cost.jsonl", record)
    return record


def clustered_vectors(config: GradientCostConfig) -> np.ndarray:
    """Unit vectors in clusters of heavy-tailed sizes."""
    rng = np.random.default_rng(config.seed)
    sizes = rng.pareto(1.2, size=config.clusters) + 1
    centres = rng.normal(size=(config.clusters, config.dim))
    own = rng.choice(config.clusters, size=config.nodes, p=sizes / sizes.sum())
    vectors = centres[own] + 0.9 * rng.normal(size=(config.nodes, config.dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def _of_graph(weights, alpha, y, graph):
    """A scalar of the scores, given S."""
    found = diffuse(graph._replace(weights=weights), y, alpha=alpha, rtol=0.0)
    return (found.value**2).sum()


def _of_similarities(weights, alpha, y, gamma, raw):
    """The same from the similarities of the edges on."""
    graph = normalize(affinity(raw._replace(weights=weights), gamma=gamma))
    return (diffuse(graph, y, alpha=alpha, rtol=0.0).value ** 2).sum()


def _ratios(raw: Graph, graph: Graph, y: jax.Array, *, rounds: int):
    alpha, gamma = jnp.float32(0.99), jnp.float32(3.0)
    cases = {
        "S, alpha and y": (_of_graph, (0, 1, 2), (graph.weights, alpha, y, graph)),
        "similarities, alpha, y and gamma": (
            _of_similarities,
            (0, 1, 2, 3),
            (raw.weights, alpha, y, gamma, raw),
        ),
    }
    for name, (function, where, arguments) in cases.items():
        value = jax.jit(function)
        both = jax.jit(jax.value_and_grad(function, where))
        alone, gradient = time_calls(
            lambda v=value, a=arguments: v(*a),
            lambda b=both, a=arguments: b(*a),
            rounds=rounds,
        )
        yield {
            "gradient": name,
            "queries": y.shape[1],
            "seconds_value": alone,
            "seconds_value_and_gradient": gradient,
            "ratio": gradient / alone,
        }


def main() -> None:
    """Reads the command line: what to change in the config."""
    enable_compilation_cache()
    config = tyro.cli(
        GradientCostConfig,
        default=gradient_cost.full(),
        description=gradient_cost.__doc__,
        prog="python -m experiments gradient_cost",
    )
    record = run(config, pathlib.Path(), records=RECORDS)
    for result in record["results"]:
        print("  ".join(f"{name} {value}" for name, value in result.items()))
