"""Synthetic graphs with queries, on which solvers are timed."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float, Int

from configs.benchmark import BenchmarkConfig
from diffjax.diffusion import diffuse
from diffjax.graph import (
    ReorderedGraph,
    affinity,
    kernel,
    knn,
    mutual_edges,
    normalize,
    reorder,
)
from diffjax.types import Graph
from experiments._timing import Times, time_interleaved

from ._neighbor_searches import draw_clustered_vectors

# Directions of a cluster and noise, by name.
GRAPH_KINDS = {"manifolds": (6, 0.33), "clouds": (24, 1.0)}
_TOP = 100  # First nodes that are compared with the exact ones.
_EXACT = {"rtol": 1e-6, "max_steps": 300}
_BATCH = 16  # Queries that are solved together.
_BUILDS = 3  # Rounds of building, whose search takes seconds.
SEARCH, GRAPH, ORDER = "the search for neighbours", "graph of lists", "its order"
_QUERY_NOISE = 0.03  # Deviation of a query from a database vector, per direction.


class SyntheticGraph(NamedTuple):
    """Graph, and queries that start near some of its nodes.

    Attributes:
        layout: Normalised graph in compressed rows, reordered for locality in memory;
            the nodes below are numbered in its order.
        matrix: I - alpha S for SciPy, in the order of the vectors.
        nodes: Nodes at which right-hand sides are not 0.
        values: Right-hand sides at these nodes.
        best: First nodes of every query by the exact scores.
        seconds: Interleaved timings of the search for neighbours, the graph of lists,
            and its order.
    """

    layout: ReorderedGraph
    matrix: scipy.sparse.csr_array
    nodes: Int[np.ndarray, "q s"]
    values: Float[np.ndarray, "q s"]
    best: list[set[int]]
    seconds: Times

    @property
    def graph(self) -> Graph:
        """Graph in the order of the layout."""
        return self.layout.graph

    def dense(self, query: int | slice) -> Float[Array, "n q"]:
        """Makes dense right-hand sides."""
        nodes, values = np.atleast_2d(self.nodes[query]), self.values[query]
        y = np.zeros((self.graph.num_nodes, len(nodes)), np.float32)
        np.put_along_axis(y, nodes.T, np.atleast_2d(values).T, axis=0)
        return jnp.asarray(y)

    def overlap(self, query: int, scores: Float[np.ndarray, " n"]) -> float:
        """Computes the share of the first nodes that are among the exact ones."""
        first = np.argsort(-scores, kind="stable")[: len(self.best[query])]
        return len(self.best[query].intersection(first.tolist())) / len(first)


def make_synthetic_graph(config: BenchmarkConfig, kind: str) -> SyntheticGraph:
    """Draws vectors, builds their graph and solves its queries exactly.

    Args:
        config: Sizes.
        kind: Name in `GRAPH_KINDS`.

    Returns:
        The graph with a query for every round, or a batch of them if that is more.
    """
    spread, noise = GRAPH_KINDS[kind]
    shape = {"seed": config.seed, "spread": spread, "noise": noise}
    vectors = draw_clustered_vectors(config.nodes, config.dim, **shape)
    graph, seconds = _time_build(vectors, config)
    draw = np.random.default_rng(config.seed + 1)
    count = max(config.rounds + 1, config.batch)
    sources = vectors[draw.choice(config.nodes, count, replace=False)]
    queries = sources + draw.normal(0, _QUERY_NOISE, sources.shape).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    similarities, nodes = jax.lax.top_k(
        jnp.asarray(queries @ vectors.T), config.query_k
    )
    matrix = scipy.sparse.eye_array(config.nodes) - config.alpha * graph.to_scipy()
    layout = reorder(graph)
    problem = SyntheticGraph(
        layout,
        scipy.sparse.csr_array(matrix.astype(np.float32)),
        np.asarray(layout.inverse_order[nodes]),
        np.asarray(kernel(similarities, 3.0)),
        [],
        seconds,
    )
    solve = functools.partial(diffuse, layout.graph, alpha=config.alpha, **_EXACT)
    for start in range(0, count, _BATCH):
        y = problem.dense(slice(start, start + _BATCH))
        scores = np.asarray(solve(y).value)
        first = np.argsort(-scores, axis=0, kind="stable")[:_TOP]
        problem.best.extend(map(set, first.T.tolist()))
    return problem


def _time_build(vectors, config) -> tuple[Graph, Times]:
    lists = knn(vectors, config.k)

    def build_graph():
        return normalize(affinity(mutual_edges(lists), gamma=3.0))

    graph = build_graph()
    times = time_interleaved(
        {
            SEARCH: lambda _: knn(vectors, config.k),
            GRAPH: lambda _: build_graph(),
            ORDER: lambda _: reorder(graph),
        },
        rounds=min(config.rounds, _BUILDS),
    )
    return graph, times
