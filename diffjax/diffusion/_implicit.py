"""Implicit derivatives and batching of iterative solves of (I - alpha S) F = Y."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax._sharding import match_varying_axes
from diffjax.types import Graph, Solution

from ._cg import IterationResult, StopCriterion, column_norms
from ._matvec import MatvecFunction
from ._spectral import SpectralBasis, spectral_guess


class InitialGuess(NamedTuple):
    """Prior knowledge about a solution.

    Attributes:
        basis: Leading eigenvectors of the graph.
        start: Scores to start from.
    """

    basis: SpectralBasis | None = None
    start: Float[Array, "n q"] | None = None


class LinearSystem(NamedTuple):
    """Linear system that all queries share.

    Attributes:
        graph: Graph that the map depends on.
        basis: Leading eigenvectors of the graph, if they are known.
    """

    graph: Graph
    basis: SpectralBasis | None = None


class QueryColumns(NamedTuple):
    """Columns of the system that differ between queries.

    Attributes:
        alpha: How far scores spread.
        rhs: Right-hand sides.
        reference_norm: Norms that residuals are relative to; None for |rhs|.
    """

    alpha: Float[Array, "1 q"]
    rhs: Float[Array, "n q"]
    reference_norm: Float[Array, "1 q"] | None = None


# An iterative method for a linear map that depends on a graph and on alpha.
IterativeMethod = Callable[[LinearSystem, StopCriterion, QueryColumns], IterationResult]


def apply_system(
    product: MatvecFunction, graph: Graph, alpha: Array, x: Float[Array, "n q"]
) -> Float[Array, "n q"]:
    """Computes (I - alpha S) X.

    Args:
        product: The map (S, X) -> S X.
        graph: The graph S.
        alpha: How far scores spread, a scalar or one number per column [1, q].
        x: The columns X.

    Returns:
        The columns of the product.
    """
    return x - alpha * product(graph, x)


def solve_implicitly(
    product: MatvecFunction,
    loop: IterativeMethod,
    graph: Graph,
    y: Float[Array, "n q"],
    alpha: Float[Array, ""],
    *,
    stop: StopCriterion,
    initial_guess: InitialGuess,
) -> Solution:
    """Solves (I - alpha S) F = Y by a loop, and differentiates that equation.

    The derivatives are those of the equation, however the loop arrives at its solution.

    Args:
        product: The map (S, X) -> S X.
        loop: The iterative method.
        graph: The graph S.
        y: Right-hand sides.
        alpha: How far scores spread.
        stop: When a column is done.
        initial_guess: The basis, which the loop starts from, and the start.

    Returns:
        Solutions and diagnostics.
    """
    matvec: Callable[..., Array] = functools.partial(apply_system, product)

    def loop_from_basis(system, stop, columns):
        alpha, rhs, reference_norm = columns
        guess = spectral_guess(system.basis, alpha, rhs)
        remainder = QueryColumns(
            alpha,
            rhs - matvec(system.graph, alpha, guess),
            column_norms(rhs) if reference_norm is None else reference_norm,
        )
        correction = loop(system, stop, remainder)
        return correction._replace(value=guess + correction.value)

    result = implicit_solve(
        matvec,
        loop if initial_guess.basis is None else loop_from_basis,
        LinearSystem(graph, initial_guess.basis),
        alpha,
        y,
        stop=stop,
        start=initial_guess.start,
    )
    return Solution(*result, converged=result.residual <= stop.rtol)


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
    """Solves by a loop, and differentiates by a second solve, not through the loop.

    Forward and reverse mode work to any order. `vmap` over right-hand sides or alpha,
    with one graph, becomes one solve of more columns, which is fast; for batches of
    graphs see `vmap_as_columns`.

    Args:
        matvec: The linear map (graph, alpha [1, q], X) -> A X that `loop` solves for,
            symmetric in X; derivatives with respect to graph and alpha come from it.
        loop: The iterative method.
        system: The graph and, if known, its basis.
        alpha: The other parameter of the map.
        rhs: Right-hand sides.
        stop: When a column is done.
        start: Solutions to start from; None is 0. Has no derivative.

    Returns:
        The result of the loop; only `value` has a derivative.
    """
    # Before they are closed over: functions with custom rules are compiled for
    # arguments that all vary between devices if one of them does.
    system, stop, alpha, rhs, start = match_varying_axes(
        system, stop, alpha, rhs, start
    )
    # The system is an argument, not closed over, so that a batch sees it as shared.
    batched_loop = vmap_as_columns(loop)
    graph = system.graph
    alpha = jnp.broadcast_to(alpha, (1, rhs.shape[1]))

    def solve(_, rhs):
        value, *diagnostics = batched_loop(system, stop, QueryColumns(alpha, rhs))
        return value, tuple(diagnostics)

    def solve_with_norms(_, extended):
        # In a solve for a derivative the row of norms is its tangent, 0: residuals are
        # then relative to the norms of that right-hand side.
        remainder, given_norms = extended[:-1], extended[-1:]
        norms = jax.lax.select(given_norms > 0, given_norms, column_norms(remainder))
        value, *diagnostics = batched_loop(
            system, stop, QueryColumns(alpha, remainder, norms)
        )
        return jnp.concatenate([value, given_norms]), tuple(diagnostics)

    apply_map = functools.partial(matvec, graph, alpha)
    if start is None:
        value, diagnostics = jax.lax.custom_linear_solve(
            apply_map, rhs, solve, symmetric=True, has_aux=True
        )
        return IterationResult(value, *diagnostics)
    norms: Array = column_norms(jax.lax.stop_gradient(rhs))
    # A right-hand side of 0 has the solution 0, and no norm to be relative to.
    start = jnp.where(norms > 0, jax.lax.stop_gradient(start), jnp.zeros_like(start))
    # The norms travel as one more row, which the map leaves as it is.
    value, diagnostics = jax.lax.custom_linear_solve(
        lambda x: jnp.concatenate([apply_map(x[:-1]), x[-1:]]),
        jnp.concatenate([rhs - apply_map(start), norms]),
        solve_with_norms,
        symmetric=True,
        has_aux=True,
    )
    return IterationResult(start + value[:-1], *diagnostics)


def vmap_as_columns(loop: IterativeMethod) -> IterativeMethod:
    """Makes `vmap` of a loop one loop with more columns.

    A batch with a different graph for each member has no such loop. Padded graphs are
    then solved side by side, compressed ones one after the other: their product is fast
    for a matrix, and slow for a batch of them.

    Args:
        loop: The iterative method.

    Returns:
        The same method with a batching rule.
    """

    @jax.custom_batching.custom_vmap
    def batched_loop(system, stop, columns):
        return loop(system, stop, columns)

    @batched_loop.def_vmap
    def _(batch_size, is_batched, *arguments):
        system, stop, columns = arguments
        system_batched, stop_batched, columns_batched = is_batched

        def merge_batch(x, x_batched):
            batch = x if x_batched else jnp.broadcast_to(x, (batch_size, *x.shape))
            return _merge_batch_into_columns(batch)

        if any(jax.tree.leaves((system_batched, stop_batched))):
            result = _solve_batch_members(loop, is_batched, arguments)
        else:
            columns = jax.tree.map(merge_batch, columns, columns_batched)
            merged = batched_loop(system, stop, columns)
            result = jax.tree.map(
                lambda x: _split_columns_into_batch(x, batch_size), merged
            )
        return result, jax.tree.map(lambda _: True, result)

    return batched_loop


def _solve_batch_members(loop, is_batched, arguments):
    """Solves a batch in which graphs differ, without copying shared arguments."""
    leaves, tree = jax.tree.flatten(arguments)
    leaf_batched = jax.tree.leaves(is_batched)

    def solve_member(member_leaves):
        remaining = iter(member_leaves)
        all_leaves = [
            next(remaining) if batched else leaf
            for leaf, batched in zip(leaves, leaf_batched, strict=True)
        ]
        return loop(*jax.tree.unflatten(tree, all_leaves))

    batched_leaves = [
        leaf for leaf, batched in zip(leaves, leaf_batched, strict=True) if batched
    ]
    if arguments[0].graph.starts is None:
        return jax.vmap(solve_member)(batched_leaves)
    return jax.lax.map(solve_member, batched_leaves)


def _merge_batch_into_columns(x: Array) -> Array:
    """Moves the columns of a batch [b, ..., q] into one row of columns [..., b q]."""
    moved = jnp.moveaxis(x, 0, -2)
    return moved.reshape(*moved.shape[:-2], -1)


def _split_columns_into_batch(x: Array, batch_size: int) -> Array:
    """Undoes `_merge_batch_into_columns`."""
    return jnp.moveaxis(x.reshape(*x.shape[:-1], batch_size, -1), -2, 0)
