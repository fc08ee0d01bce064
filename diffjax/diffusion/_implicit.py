"""Derivatives and batches of iterative solves on a graph."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.types import Graph

from ._loop import LoopResult, Stop

# An iterative method for a linear map that depends on a graph and on alpha: takes the
# graph, when to stop, alpha [1, q], that is one for each column, and right-hand sides.
Loop = Callable[[Graph, Stop, Array, Array], LoopResult]


def implicit_solve(
    matvec: Callable[[Graph, Array, Array], Array],
    loop: Loop,
    graph: Graph,
    alpha: Float[Array, ""],
    rhs: Float[Array, "n q"],
    *,
    stop: Stop,
) -> LoopResult:
    """Solves by a loop, and differentiates by solving again, not through the loop.

    Forward and reverse mode, to any order. `vmap` over right-hand sides or alpha, the
    graph being one, becomes one solve of more columns, which is what is fast; for
    batches of graphs see `fold_queries`.

    Args:
        matvec: The linear map (graph, alpha [1, q], X) -> A X that `loop` solves for,
            symmetric in X; where derivatives with respect to graph and alpha come from.
        loop: The method.
        graph: What the map depends on.
        alpha: What the map depends on, too.
        rhs: Right-hand sides.
        stop: When a column is done.

    Returns:
        What the loop found; only `value` has a derivative.
    """
    # Arguments, not closed over: else a batch would not see that they are the same.
    folded = fold_queries(loop)
    columns = jnp.broadcast_to(alpha, (1, rhs.shape[1]))

    def solve(_, rhs):
        value, *rest = folded(graph, stop, columns, rhs)
        return value, tuple(rest)

    value, rest = jax.lax.custom_linear_solve(
        lambda x: matvec(graph, columns, x), rhs, solve, symmetric=True, has_aux=True
    )
    return LoopResult(value, *rest)


def fold_queries(loop: Loop) -> Loop:
    """Makes `vmap` of a loop one loop of more columns.

    With another graph for each member of a batch there is no such loop. Padded graphs
    are then solved side by side, compressed ones one after the other: their product is
    fast for a matrix, and slow for a batch of them.
    """

    @jax.custom_batching.custom_vmap
    def folded(graph, stop, alpha, rhs):
        return loop(graph, stop, alpha, rhs)

    @folded.def_vmap
    def _(size, batched, *arguments):
        graph, stop, *columns = arguments
        in_graph, in_stop, *in_columns = batched
        if any(jax.tree.leaves((in_graph, in_stop))):
            found = _solve_each(loop, batched, arguments)
        else:
            columns = [
                _side_by_side(x if differs else jnp.broadcast_to(x, (size, *x.shape)))
                for x, differs in zip(columns, in_columns, strict=True)
            ]
            together = folded(graph, stop, *columns)
            found = jax.tree.map(lambda x: _apart(x, size), together)
        return found, jax.tree.map(lambda _: True, found)

    return folded


def _solve_each(loop, batched, arguments):
    """Solves a batch in which graphs differ; what is common is not copied."""
    leaves, tree = jax.tree.flatten(arguments)
    different = jax.tree.leaves(batched)

    def one(own):
        rest = iter(own)
        merged = [
            next(rest) if differs else leaf
            for leaf, differs in zip(leaves, different, strict=True)
        ]
        return loop(*jax.tree.unflatten(tree, merged))

    own = [leaf for leaf, differs in zip(leaves, different, strict=True) if differs]
    graph = arguments[0]
    return jax.vmap(one)(own) if graph.starts is None else jax.lax.map(one, own)


def _side_by_side(x: Array) -> Array:
    """Puts the columns of a batch [b, ..., q] into one row of them [..., b q]."""
    moved = jnp.moveaxis(x, 0, -2)
    return moved.reshape(*moved.shape[:-2], -1)


def _apart(x: Array, size: int) -> Array:
    """Undoes `_side_by_side`."""
    return jnp.moveaxis(x.reshape(*x.shape[:-1], size, -1), -2, 0)
