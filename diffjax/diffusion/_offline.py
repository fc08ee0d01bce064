"""Offline diffusion: one sparse solution per database node, combined for a query."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_in_range
from diffjax.graph import check_graph, max_row_entries, truncate
from diffjax.types import Graph, Scalar

from ._solve import diffuse


class OfflineRows(NamedTuple):
    """Sparse solutions for one-hot right-hand sides, one row per node.

    Attributes:
        indices: Nodes of every row's solution, padded with -1.
        values: The solution at these nodes, padded with 0.
        residual: Relative residual of every row's solve.
    """

    indices: Int[Array, "n t"]
    values: Float[Array, "n t"]
    residual: Float[Array, " n"]


def solve_offline_rows(
    graph: Graph,
    nodes: Int[Array, "n t"],
    *,
    alpha: Scalar = 0.99,
    rtol: float = 1e-6,
    max_steps: int = 20,
    max_degree: int | None = None,
    batch_size: int = 16,
) -> OfflineRows:
    r"""Solves (I - alpha S_i) f_i = e_i for every node i of a graph.

    S_i is S truncated to the nodes of row i after it was normalised on all nodes. If
    these are all nodes, f_i is column i of (I - alpha S)^-1, and `combine_offline_rows`
    returns the scores of `diffuse`.

    Args:
        graph: The normalised graph S, in either form.
        nodes: Nodes that the solution of each row may reach, such as the t nearest
            neighbours of node i, padded with -1. A node that is not in its own row
            replaces the last entry.
        alpha: How far scores spread, in [0, 1).
        rtol: Relative residual at which a solve stops.
        max_steps: Largest number of iterations.
        max_degree: Largest number of entries of any row of a compressed graph; needed
            where the graph is traced.
        batch_size: Number of solves side by side; each holds t rows of the graph.

    Returns:
        The solutions.

    Raises:
        ValueError: If an argument is outside its range, sizes do not match, or
            `max_degree` is missing under jit.

    References:
        Yang et al., Efficient image retrieval via decoupling diffusion into online and
        offline processing, AAAI 2019, https://arxiv.org/abs/1811.10907.
    """
    check_in_range("alpha", alpha, low=0, high=1, closed_low=True)
    check_graph("graph", graph)
    if nodes.ndim != 2 or nodes.shape[0] != graph.num_nodes or nodes.shape[1] < 1:
        raise ValueError(
            f"nodes must have one row per node, {graph.num_nodes}, and at least one "
            f"column, got {list(nodes.shape)}."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    settings = {"rtol": rtol, "max_steps": max_steps, "batch_size": batch_size}
    return _offline_rows(
        graph, nodes, alpha, max_degree=max_row_entries(graph, max_degree), **settings
    )


@functools.partial(
    jax.jit, static_argnames=("rtol", "max_steps", "max_degree", "batch_size")
)
def _offline_rows(graph, nodes, alpha, *, rtol, max_steps, max_degree, batch_size):
    def solve_row(row):
        node, row_nodes = row
        last = jnp.where(jnp.any(row_nodes == node), row_nodes[-1], node)
        row_nodes = row_nodes.at[-1].set(last)
        subgraph = truncate(graph, row_nodes, max_degree=max_degree)
        y = (row_nodes == node).astype(graph.weights.dtype)
        solution = diffuse(
            subgraph, y[:, None], alpha=alpha, rtol=rtol, max_steps=max_steps
        )
        return OfflineRows(row_nodes, solution.value[:, 0], solution.residual[0])

    all_nodes = jnp.arange(graph.num_nodes, dtype=nodes.dtype)
    return jax.lax.map(solve_row, (all_nodes, nodes), batch_size=batch_size)


def combine_offline_rows(
    rows: OfflineRows, y: Float[Array, "n q"], *, k: int
) -> Float[Array, "n q"]:
    r"""Combines offline solutions for queries: f = sum over i of y_i f_i.

    Args:
        rows: Solutions of `solve_offline_rows`.
        y: Right-hand sides, one query per column; see `query_vectors`.
        k: Number of largest entries of a column that are used; the `keep` of
            `query_vectors` loses nothing. A Python number, 1 to n.

    Returns:
        Scores of all nodes, one column per query.

    Raises:
        ValueError: If `k` is outside 1..n or sizes do not match.

    References:
        Yang et al., AAAI 2019, https://arxiv.org/abs/1811.10907.
    """
    n = rows.indices.shape[0]
    if y.shape[0] != n:
        raise ValueError(f"y must have one row per node, {n}, got {y.shape[0]}.")
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1..{n} (n), got {k}.")
    return _combine_rows(rows, y, k=k)


@functools.partial(jax.jit, static_argnames="k")
def _combine_rows(rows, y, *, k):
    n = y.shape[0]

    def combine_for_query(column):
        weights, chosen = jax.lax.top_k(column, k)
        nodes, values = rows.indices[chosen], rows.values[chosen]
        # Padding becomes a node past the last, which the scatter drops.
        nodes = jnp.where(nodes >= 0, nodes, n)
        return (
            jnp.zeros(n, y.dtype).at[nodes].add(weights[:, None] * values, mode="drop")
        )

    return jax.lax.map(combine_for_query, y.T).T
