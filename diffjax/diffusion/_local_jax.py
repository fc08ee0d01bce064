"""Local diffusion in plain JAX, for devices without a native kernel."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffjax.graph import gather_padded_rows
from diffjax.types import Graph

from ._cg import StopCriterion, cg_loop, safe_divisor


class LocalResult(NamedTuple):
    """Local solution of one query, without background.

    Attributes:
        nodes: Reached nodes in ascending order, padded with -1.
        values: Their scores, padded with 0.
        residual: Relative residual in the whole graph.
        num_steps: Iterations spent.
    """

    nodes: Int[Array, " l"]
    values: Float[Array, " l"]
    residual: Float[Array, ""]
    num_steps: Int[Array, ""]


class _LocalState(NamedTuple):
    """Nodes [c], their scores and residuals, and the iterations so far."""

    nodes: Array
    x: Array
    r: Array
    num_steps: Array


def solve_local(
    graph: Graph,
    nodes: Int[Array, " s"],
    values: Float[Array, " s"],
    alpha: Float[Array, ""],
    *,
    size: int,
    steps_per_expansion: int | Array,
    stop: StopCriterion,
    width: int,
) -> LocalResult:
    """Alternates solving and expanding; see `diffuse_local`. Has no derivative.

    Args:
        graph: The normalised graph.
        nodes: Nodes where the right-hand side is not 0, padded with numbers below 0.
        values: The right-hand side at these nodes.
        alpha: How far scores spread.
        size: Largest number of nodes.
        steps_per_expansion: Iterations between two expansions.
        stop: When the last solve ends; its `rtol` also ends the others.
        width: Largest number of entries of a row.

    Returns:
        The solution on the reached nodes.
    """
    n = graph.num_nodes
    sorted_nodes = jnp.sort(jnp.where((nodes >= 0) & (nodes < n), nodes, n))
    is_first = jnp.append(True, sorted_nodes[1:] != sorted_nodes[:-1])
    unique_nodes = jnp.sort(jnp.where(is_first, sorted_nodes, n))
    y = scatter_to_nodes(unique_nodes, nodes, values, n)
    # Squares of small float32 numbers vanish: solve for a right-hand side of size 1.
    scale = jnp.max(jnp.abs(y))
    y = y / safe_divisor(scale)
    state = _LocalState(unique_nodes, jnp.zeros_like(y), y, jnp.zeros((), jnp.int32))
    y_norm = jnp.linalg.norm(y)
    gather_rows = functools.partial(_gather_local_rows, graph, width=width)

    def continue_solve(state: _LocalState, max_steps) -> _LocalState:
        rows = gather_rows(state.nodes)
        # The correction is solved for, up to a residual that is relative to y.
        rtol = stop.rtol * y_norm / safe_divisor(jnp.linalg.norm(state.r))

        def matvec(p):
            return p - alpha * rows.multiply_inside(p[:, 0])[:, None]

        result = cg_loop(matvec, state.r[:, None], StopCriterion(rtol, max_steps))
        correction = result.value
        return state._replace(
            x=state.x + correction[:, 0],
            r=state.r - matvec(correction)[:, 0],
            num_steps=state.num_steps + result.num_steps[0],
        )

    count = unique_nodes.shape[0]
    can_expand = jnp.array(True)
    while count < size:
        # A query that cannot expand any more waits for the last solve.
        state = continue_solve(state, jnp.where(can_expand, steps_per_expansion, 0))
        count = min(2 * count, size)
        state, expanded = _expand_frontier(
            state, gather_rows(state.nodes), alpha, n, count
        )
        can_expand &= expanded
    state = continue_solve(state, stop.max_steps)
    _, outside = gather_rows(state.nodes).flow_outside(alpha * state.x)
    residual_norm = jnp.sqrt(jnp.sum(state.r**2) + jnp.sum(outside**2))
    is_node = state.nodes < n
    return LocalResult(
        jnp.where(is_node, state.nodes, -1),
        jnp.where(is_node, state.x * scale, 0),
        residual_norm / safe_divisor(y_norm),
        state.num_steps,
    )


def scatter_to_nodes(
    local_nodes: Int[Array, " c"],
    nodes: Int[Array, " s"],
    values: Float[Array, " s"],
    n: int,
) -> Float[Array, " c"]:
    """Scatters values to the positions of their nodes in a sorted list of nodes.

    Args:
        local_nodes: Nodes in ascending order.
        nodes: Nodes of the values, padded with numbers below 0. Values of nodes that
            are not in `local_nodes` are dropped.
        values: The values; those of one node add up.
        n: A number above that of every node.

    Returns:
        The values in the order of `local_nodes`.
    """
    size = local_nodes.shape[0]
    targets = jnp.where(nodes >= 0, nodes, n)
    position = jnp.minimum(jnp.searchsorted(local_nodes, targets), size - 1)
    is_local = (local_nodes[position] == targets) & (targets < n)
    return (
        jnp.zeros(size, values.dtype)
        .at[jnp.where(is_local, position, size)]
        .add(values, mode="drop")
    )


class _LocalRows(NamedTuple):
    """Rows of some nodes: columns, their positions among the nodes, and weights."""

    columns: Array
    positions: Array
    weights: Array
    is_inside: Array

    def multiply_inside(self, x: Array) -> Array:
        """Multiplies the rows and columns of the nodes by x."""
        weights = jnp.where(self.is_inside, self.weights, 0)
        return jnp.sum(weights * x[self.positions], axis=1)

    def flow_outside(self, x: Array) -> tuple[Array, Array]:
        """Sums what x sends along edges to nodes outside: columns and sums, sorted.

        The first entry of a column holds its sum; its other entries hold 0.
        """
        flow = jnp.where(self.is_inside, 0, self.weights * x[:, None]).reshape(-1)
        columns = self.columns.reshape(-1)
        order = jnp.argsort(columns)
        columns, flow = columns[order], flow[order]
        is_first = jnp.append(True, columns[1:] != columns[:-1])
        group = jnp.cumsum(is_first) - 1
        sums = jax.ops.segment_sum(flow, group, columns.size, indices_are_sorted=True)
        return columns, jnp.where(is_first, sums[group], 0)


def _gather_local_rows(graph: Graph, nodes: Array, *, width: int) -> _LocalRows:
    n = graph.num_nodes
    is_node = nodes < n
    columns, weights = gather_padded_rows(
        graph, jnp.where(is_node, nodes, 0), width=width
    )
    is_entry = (columns >= 0) & is_node[:, None]
    columns = jnp.where(is_entry, columns, n).astype(nodes.dtype)
    positions = jnp.minimum(jnp.searchsorted(nodes, columns), nodes.shape[0] - 1)
    is_inside = (nodes[positions] == columns) & is_entry
    return _LocalRows(columns, positions, jnp.where(is_entry, weights, 0), is_inside)


def induced_subgraph(graph: Graph, nodes: Int[Array, " l"], *, width: int) -> Graph:
    """Cuts out the subgraph on nodes in ascending order.

    It is `truncate` without any array of the size of the graph.

    Args:
        graph: A graph in either form.
        nodes: The nodes, in ascending order, followed by padding of -1.
        width: Largest number of entries of a row.

    Returns:
        The graph on these nodes in the padded form.
    """
    is_node = nodes >= 0
    rows = _gather_local_rows(
        graph, jnp.where(is_node, nodes, graph.num_nodes), width=width
    )
    degrees = None
    if graph.degrees is not None:
        degrees = jnp.where(is_node, graph.degrees[jnp.maximum(nodes, 0)], 0)
    indices = jnp.where(rows.is_inside, rows.positions, -1)
    return Graph(
        indices=indices.astype(graph.indices.dtype),
        weights=jnp.where(rows.is_inside, rows.weights, 0),
        degrees=degrees,
    )


def _expand_frontier(
    state: _LocalState, rows: _LocalRows, alpha: Array, n: int, count: int
) -> tuple[_LocalState, Array]:
    """Adds the outside nodes of largest residual, until there are `count` nodes."""
    columns, outside = rows.flow_outside(alpha * state.x)
    num_nodes = jnp.sum(state.nodes < n)
    # Ties go by lower node, because top_k takes the first of equal numbers.
    largest, best = jax.lax.top_k(outside, min(count, outside.size))
    joins = (largest > 0) & (jnp.arange(best.size) < count - num_nodes)
    nodes = jnp.append(state.nodes, jnp.where(joins, columns[best], n))
    x = jnp.append(state.x, jnp.zeros_like(largest))
    r = jnp.append(state.r, jnp.where(joins, largest, 0))
    # At most `count` entries are nodes; a list that is too short is padded.
    order = jnp.argsort(nodes)[:count]
    padding = (0, max(count - order.size, 0))
    expanded = _LocalState(
        jnp.pad(nodes[order], padding, constant_values=n),
        jnp.pad(x[order], padding),
        jnp.pad(r[order], padding),
        state.num_steps,
    )
    return expanded, jnp.any(joins)
