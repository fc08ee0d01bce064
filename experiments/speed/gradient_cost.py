"""Cost of a gradient: `python -m experiments gradient_cost`."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import gradient_cost as card
from configs.gradient_cost import GradientCostConfig
from diffjax.diffusion import diffuse
from diffjax.graph import affinity, compress, knn, normalize
from diffjax.report import append_record, make_record
from diffjax.types import Graph
from experiments._runner import run_from_command_line
from experiments._timing import time_calls


def run(
    config: GradientCostConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Times values and gradients and appends a record to `gradient_cost.jsonl`.

    Args:
        config: Sizes of the graph and of the queries.
        workdir: Not used: nothing is cached.
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
            rows = rng.choice(config.nodes, config.entries, replace=False)
            y[rows, column] = rng.uniform(size=config.entries)
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
    """Draws unit vectors in clusters of heavy-tailed sizes."""
    rng = np.random.default_rng(config.seed)
    sizes = rng.pareto(1.2, size=config.clusters) + 1
    centres = rng.normal(size=(config.clusters, config.dim))
    cluster = rng.choice(config.clusters, size=config.nodes, p=sizes / sizes.sum())
    vectors = centres[cluster] + 0.9 * rng.normal(size=(config.nodes, config.dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def _loss_from_graph(weights, alpha, y, graph):
    """Sums the squared scores, from the weights of S."""
    solution = diffuse(graph._replace(weights=weights), y, alpha=alpha, rtol=0.0)
    return (solution.value**2).sum()


def _loss_from_similarities(weights, alpha, y, gamma, raw):
    """Sums the squared scores, from the similarities of the edges."""
    graph = normalize(affinity(raw._replace(weights=weights), gamma=gamma))
    return (diffuse(graph, y, alpha=alpha, rtol=0.0).value ** 2).sum()


def _ratios(raw: Graph, graph: Graph, y: jax.Array, *, rounds: int):
    alpha, gamma = jnp.float32(0.99), jnp.float32(3.0)
    cases = {
        "S, alpha and y": (
            _loss_from_graph,
            (0, 1, 2),
            (graph.weights, alpha, y, graph),
        ),
        "similarities, alpha, y and gamma": (
            _loss_from_similarities,
            (0, 1, 2, 3),
            (raw.weights, alpha, y, gamma, raw),
        ),
    }
    for name, (function, positions, arguments) in cases.items():
        value = jax.jit(function)
        both = jax.jit(jax.value_and_grad(function, positions))
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
    """Reads the command line, times and records."""
    run_from_command_line("gradient_cost", card, run)
