"""Derivatives and batches of iterative solves on a graph."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax._sharding import match_varying_axes
from diffjax.types import Graph

from ._cg import IterationResult, StopCriterion, column_norms
from ._spectral import SpectralBasis


class LinearSystem(NamedTuple):
    """What all queries have in common.

    Attributes:
        graph: What the map depends on.
        basis: Leading eigenvectors of the graph, where they are known.
    """

    graph: Graph
    basis: SpectralBasis | None = None


class QueryColumns(NamedTuple):
    """What each query has of its own.

    Attributes:
        alpha: How far scores spread.
        rhs: Right-hand sides.
        reference_norm: What residuals are relative to; None is |rhs|.
    """

    alpha: Float[Array, "1 q"]
    rhs: Float[Array, "n q"]
    reference_norm: Float[Array, "1 q"] | None = None


# An iterative method for a linear map that depends on a graph and on alpha.
IterativeMethod = Callable[[LinearSystem, StopCriterion, QueryColumns], IterationResult]


def implicit_solve(
    matvec: Callable[[Graph, Array, Array], Array],
    loop: IterativeMethod,
    system: LinearSystem,
    alpha: Float[Array, ""],
    rhs: Float[Array, "n q"],
    *,
    stop: StopCriterion,
    start: Float[Array, "n q"] | None = None,
) -> IterationResult:
    """Solves by a loop, and differentiates by solving again, not through the loop.

    Forward and reverse mode, to any order. `vmap` over right-hand sides or alpha, the
    graph being one, becomes one solve of more columns, which is what is fast; for
    batches of graphs see `vmap_as_columns`.

    Args:
        matvec: The linear map (graph, alpha [1, q], X) -> A X that `loop` solves for,
            symmetric in X; where derivatives with respect to graph and alpha come from.
        loop: The method.
        system: What the map depends on.
        alpha: What the map depends on, too.
        rhs: Right-hand sides.
        stop: When a column is done.
        start: Solutions to start from; None is 0. Has no derivative.

    Returns:
        What the loop found; only `value` has a derivative.
    """
    # Before they are closed over: functions with rules of their own are compiled for
    # arguments that all differ between devices where one does.
    system, stop, alpha, rhs, start = match_varying_axes(
        system, stop, alpha, rhs, start
    )
    # Arguments, not closed over: else a batch would not see that they are the same.
    folded = vmap_as_columns(loop)
    graph = system.graph
    alpha = jnp.broadcast_to(alpha, (1, rhs.shape[1]))

    def solve(_, rhs):
        value, *rest = folded(system, stop, QueryColumns(alpha, rhs))
        return value, tuple(rest)

    def solve_rest(_, extended):
        # Where derivatives are solved for, the size that was given is its change, 0:
        # their residuals are relative to their own right-hand sides.
        rest, given = extended[:-1], extended[-1:]
        size = jax.lax.select(given > 0, given, column_norms(rest))
        value, *told = folded(system, stop, QueryColumns(alpha, rest, size))
        return jnp.concatenate([value, given]), tuple(told)

    map_of = functools.partial(matvec, graph, alpha)
    if start is None:
        value, rest = jax.lax.custom_linear_solve(
            map_of, rhs, solve, symmetric=True, has_aux=True
        )
        return IterationResult(value, *rest)
    size: Array = column_norms(jax.lax.stop_gradient(rhs))
    # A query of nothing has the answer 0, and nothing that residuals are relative to.
    start = jnp.where(size > 0, jax.lax.stop_gradient(start), jnp.zeros_like(start))
    # The size goes along as one more row, which the map leaves as it is.
    value, rest = jax.lax.custom_linear_solve(
        lambda x: jnp.concatenate([map_of(x[:-1]), x[-1:]]),
        jnp.concatenate([rhs - map_of(start), size]),
        solve_rest,
        symmetric=True,
        has_aux=True,
    )
    return IterationResult(start + value[:-1], *rest)


def vmap_as_columns(loop: IterativeMethod) -> IterativeMethod:
    """Makes `vmap` of a loop one loop of more columns.

    With another graph for each member of a batch there is no such loop. Padded graphs
    are then solved side by side, compressed ones one after the other: their product is
    fast for a matrix, and slow for a batch of them.
    """

    @jax.custom_batching.custom_vmap
    def folded(system, stop, columns):
        return loop(system, stop, columns)

    @folded.def_vmap
    def _(size, batched, *arguments):
        system, stop, columns = arguments
        in_system, in_stop, in_columns = batched

        def join(x, differs):
            each = x if differs else jnp.broadcast_to(x, (size, *x.shape))
            return _merge_batch_into_columns(each)

        if any(jax.tree.leaves((in_system, in_stop))):
            found = _solve_batch_members(loop, batched, arguments)
        else:
            columns = jax.tree.map(join, columns, in_columns)
            together = folded(system, stop, columns)
            found = jax.tree.map(lambda x: _split_columns_into_batch(x, size), together)
        return found, jax.tree.map(lambda _: True, found)

    return folded


def _solve_batch_members(loop, batched, arguments):
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
    graph = arguments[0].graph
    return jax.vmap(one)(own) if graph.starts is None else jax.lax.map(one, own)


def _merge_batch_into_columns(x: Array) -> Array:
    """Puts the columns of a batch [b, ..., q] into one row of them [..., b q]."""
    moved = jnp.moveaxis(x, 0, -2)
    return moved.reshape(*moved.shape[:-2], -1)


def _split_columns_into_batch(x: Array, size: int) -> Array:
    """Undoes `_merge_batch_into_columns`."""
    return jnp.moveaxis(x.reshape(*x.shape[:-1], size, -1), -2, 0)
