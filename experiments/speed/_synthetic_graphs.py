"""Made graphs with queries, on which solvers are timed."""

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

from ._neighbor_searches import draw_clustered_vectors
from ._timing import Times, time_interleaved

# Directions of a cluster and noise, by name.
GRAPH_KINDS = {"manifolds": (6, 0.33), "clouds": (24, 1.0)}
_TOP = 100
_EXACT = {"rtol": 1e-6, "max_steps": 300}
_QUERIES_AT_ONCE = 16
# Times that it is built; the search takes seconds.
_BUILDS = 3
SEARCH, GRAPH, ORDER = "the search for neighbours", "graph of lists", "its order"
# How far a query lies beside a vector of the database, in every direction.
_QUERY_NOISE = 0.03


class SyntheticGraph(NamedTuple):
    """A graph, and queries that start near some of its nodes.

    Attributes:
        layout: Normalised, in compressed rows, in an order that suits the memory: nodes
            below are numbered so.
        matrix: I - alpha S for SciPy, as the vectors are numbered.
        nodes: Where right-hand sides are not 0.
        values: What they are there.
        best: The first nodes of every query by the exact scores.
        seconds: What making it took, in turns: the search for neighbours, the graph of
            lists, and its order.
    """

    layout: ReorderedGraph
    matrix: scipy.sparse.csr_array
    nodes: Int[np.ndarray, "q s"]
    values: Float[np.ndarray, "q s"]
    best: list[set[int]]
    seconds: Times

    @property
    def graph(self) -> Graph:
        """The graph in that order."""
        return self.layout.graph

    def dense(self, query: int | slice) -> Float[Array, "n q"]:
        """Right-hand sides with all their zeros."""
        nodes, values = np.atleast_2d(self.nodes[query]), self.values[query]
        y = np.zeros((self.graph.num_nodes, len(nodes)), np.float32)
        np.put_along_axis(y, nodes.T, np.atleast_2d(values).T, axis=0)
        return jnp.asarray(y)

    def overlap(self, query: int, scores: Float[np.ndarray, " n"]) -> float:
        """Share of the first nodes that are among those of the exact scores."""
        own = np.argsort(-scores, kind="stable")[: len(self.best[query])]
        return len(self.best[query].intersection(own.tolist())) / len(own)


def make_synthetic_graph(config: BenchmarkConfig, kind: str) -> SyntheticGraph:
    """Draws vectors, makes their graph and asks it queries, exactly.

    Args:
        config: How large.
        kind: Of `GRAPH_KINDS`.

    Returns:
        The graph with as many queries as there are rounds, or in a batch.
    """
    spread, noise = GRAPH_KINDS[kind]
    shape = {"seed": config.seed, "spread": spread, "noise": noise}
    vectors = draw_clustered_vectors(config.nodes, config.dim, **shape)
    graph, took = _time_build(vectors, config)
    draw = np.random.default_rng(config.seed + 1)
    count = max(config.rounds + 1, config.batch)
    near = vectors[draw.choice(config.nodes, count, replace=False)]
    asked = near + draw.normal(0, _QUERY_NOISE, near.shape).astype(np.float32)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    found, nodes = jax.lax.top_k(jnp.asarray(asked @ vectors.T), config.query_k)
    spread_out = config.alpha * graph.to_scipy()
    matrix = scipy.sparse.eye_array(config.nodes) - spread_out
    layout = reorder(graph)
    made = SyntheticGraph(
        layout,
        scipy.sparse.csr_array(matrix.astype(np.float32)),
        np.asarray(layout.inverse_order[nodes]),
        np.asarray(kernel(found, 3.0)),
        [],
        took,
    )
    solve = functools.partial(diffuse, layout.graph, alpha=config.alpha, **_EXACT)
    for start in range(0, count, _QUERIES_AT_ONCE):
        y = made.dense(slice(start, start + _QUERIES_AT_ONCE))
        scores = np.asarray(solve(y).value)
        first = np.argsort(-scores, axis=0, kind="stable")[:_TOP]
        made.best.extend(map(set, first.T.tolist()))
    return made


def _time_build(vectors, config) -> tuple[Graph, Times]:
    lists = knn(vectors, config.k)

    def finish():
        return normalize(affinity(mutual_edges(lists), gamma=3.0))

    graph = finish()
    times = time_interleaved(
        {
            SEARCH: lambda _: knn(vectors, config.k),
            GRAPH: lambda _: finish(),
            ORDER: lambda _: reorder(graph),
        },
        rounds=min(config.rounds, _BUILDS),
    )
    return graph, times
