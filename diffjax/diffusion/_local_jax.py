"""Local diffusion in plain JAX, where there is no native kernel."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffjax.graph import gather_padded_rows
from diffjax.types import Graph

from ._cg import StopCriterion, cg_loop, safe_divisor


class LocalResult(NamedTuple):
    """What a query reached.

    Attributes:
        nodes: Its nodes in ascending order, -1 in empty places.
        values: Their scores, 0 in empty places.
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
    """Solves and grows in turns; see `diffuse_local`. Has no derivative of its own.

    Args:
        graph: The normalised graph.
        nodes: Where the right-hand side is not 0; below 0 in empty places.
        values: The right-hand side there.
        alpha: How far scores spread.
        size: Most nodes.
        steps_per_expansion: Iterations between two growths.
        stop: When the last solve ends, and every other by its residual.
        width: Most entries of a row.

    Returns:
        What was found.
    """
    n = graph.num_nodes
    order = jnp.sort(jnp.where((nodes >= 0) & (nodes < n), nodes, n))
    first = jnp.append(True, order[1:] != order[:-1])
    start = jnp.sort(jnp.where(first, order, n))
    y = scatter_to_nodes(start, nodes, values, n)
    # Squares of small float32 numbers vanish: solve for a right-hand side of size 1.
    scale = jnp.max(jnp.abs(y))
    y = y / safe_divisor(scale)
    state = _LocalState(start, jnp.zeros_like(y), y, jnp.zeros((), jnp.int32))
    total = jnp.linalg.norm(y)
    spread = functools.partial(_gather_local_rows, graph, width=width)

    def solve(state: _LocalState, most_steps) -> _LocalState:
        cut = spread(state.nodes)
        # What is missing is solved for, up to the residual that y allows.
        left = jnp.linalg.norm(state.r)
        rtol = stop.rtol * total / safe_divisor(left)

        def matvec(p):
            return p - alpha * cut.multiply_inside(p[:, 0])[:, None]

        found = cg_loop(matvec, state.r[:, None], StopCriterion(rtol, most_steps))
        more = found.value
        return state._replace(
            x=state.x + more[:, 0],
            r=state.r - matvec(more)[:, 0],
            num_steps=state.num_steps + found.num_steps[0],
        )

    count = start.shape[0]
    going = jnp.array(True)
    while count < size:
        # Once a query has nowhere to go it waits for the last solve.
        state = solve(state, jnp.where(going, steps_per_expansion, 0))
        count = min(2 * count, size)
        state, grown = _expand_frontier(state, spread(state.nodes), alpha, n, count)
        going &= grown
    state = solve(state, stop.max_steps)
    _, outside = spread(state.nodes).flow_outside(alpha * state.x)
    left = jnp.sqrt(jnp.sum(state.r**2) + jnp.sum(outside**2))
    here = state.nodes < n
    return LocalResult(
        jnp.where(here, state.nodes, -1),
        jnp.where(here, state.x * scale, 0),
        left / safe_divisor(total),
        state.num_steps,
    )


def scatter_to_nodes(
    local_nodes: Int[Array, " c"],
    nodes: Int[Array, " s"],
    values: Float[Array, " s"],
    n: int,
) -> Float[Array, " c"]:
    """Puts values where their nodes are held; what is not held is lost.

    Args:
        local_nodes: Nodes in ascending order.
        nodes: Whose values there are; below 0 in empty places.
        values: Their values, which add up for one node.
        n: A number above that of every node.

    Returns:
        The values in the order of `local_nodes`.
    """
    size = local_nodes.shape[0]
    there = jnp.where(nodes >= 0, nodes, n)
    place = jnp.minimum(jnp.searchsorted(local_nodes, there), size - 1)
    known = (local_nodes[place] == there) & (there < n)
    return (
        jnp.zeros(size, values.dtype)
        .at[jnp.where(known, place, size)]
        .add(values, mode="drop")
    )


class _LocalRows(NamedTuple):
    """Rows of some nodes: columns, their places among these, and weights."""

    columns: Array
    places: Array
    weights: Array
    known: Array

    def multiply_inside(self, x: Array) -> Array:
        """The product with the rows and columns of the nodes."""
        weights = jnp.where(self.known, self.weights, 0)
        return jnp.sum(weights * x[self.places], axis=1)

    def flow_outside(self, x: Array) -> tuple[Array, Array]:
        """What x sends to nodes outside: those and their sums, in ascending order.

        A node stands at the first of its places; the others hold a sum of 0.
        """
        out = jnp.where(self.known, 0, self.weights * x[:, None]).reshape(-1)
        columns = self.columns.reshape(-1)
        order = jnp.argsort(columns)
        columns, out = columns[order], out[order]
        first = jnp.append(True, columns[1:] != columns[:-1])
        group = jnp.cumsum(first) - 1
        sums = jax.ops.segment_sum(out, group, columns.size, indices_are_sorted=True)
        return columns, jnp.where(first, sums[group], 0)


def _gather_local_rows(graph: Graph, nodes: Array, *, width: int) -> _LocalRows:
    n = graph.num_nodes
    there = nodes < n
    columns, weights = gather_padded_rows(
        graph, jnp.where(there, nodes, 0), width=width
    )
    filled = (columns >= 0) & there[:, None]
    columns = jnp.where(filled, columns, n).astype(nodes.dtype)
    places = jnp.minimum(jnp.searchsorted(nodes, columns), nodes.shape[0] - 1)
    known = (nodes[places] == columns) & filled
    return _LocalRows(columns, places, jnp.where(filled, weights, 0), known)


def induced_subgraph(graph: Graph, nodes: Int[Array, " l"], *, width: int) -> Graph:
    """The part of a graph on nodes in ascending order, -1 in the empty places after.

    As `truncate`, but nothing in it is as long as the graph.

    Args:
        graph: A graph in either form.
        nodes: Which nodes.
        width: Most entries of a row.

    Returns:
        The graph on these nodes in the padded form.
    """
    there = nodes >= 0
    cut = _gather_local_rows(
        graph, jnp.where(there, nodes, graph.num_nodes), width=width
    )
    degrees = None
    if graph.degrees is not None:
        degrees = jnp.where(there, graph.degrees[jnp.maximum(nodes, 0)], 0)
    return Graph(
        indices=jnp.where(cut.known, cut.places, -1).astype(graph.indices.dtype),
        weights=jnp.where(cut.known, cut.weights, 0),
        degrees=degrees,
    )


def _expand_frontier(
    state: _LocalState, cut: _LocalRows, alpha: Array, n: int, count: int
):
    """Lets the nodes of largest residual outside join, until there are `count`."""
    columns, outside = cut.flow_outside(alpha * state.x)
    members = jnp.sum(state.nodes < n)
    # Equal ones by node, as top_k takes the first of them.
    largest, best = jax.lax.top_k(outside, min(count, outside.size))
    joins = (largest > 0) & (jnp.arange(best.size) < count - members)
    nodes = jnp.append(state.nodes, jnp.where(joins, columns[best], n))
    added = jnp.zeros_like(largest)
    x, r = jnp.append(state.x, added), jnp.append(state.r, jnp.where(joins, largest, 0))
    # There are no more than `count`; a list that is too short is filled up.
    order = jnp.argsort(nodes)[:count]
    missing = (0, max(count - order.size, 0))
    grown = _LocalState(
        jnp.pad(nodes[order], missing, constant_values=n),
        jnp.pad(x[order], missing),
        jnp.pad(r[order], missing),
        state.num_steps,
    )
    return grown, jnp.any(joins)
