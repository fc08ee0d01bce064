"""The loop around an iterative method: when columns stop and what they give."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Stop(NamedTuple):
    """When an iteration ends. Both may be traced: other numbers compile nothing anew.

    Attributes:
        rtol: Relative residual at which a column stops.
        max_steps: Most steps of a column.
    """

    rtol: float | Array
    max_steps: int | Array


# The solution so far, and whatever else a method carries along.
State = tuple[Array, ...]


class LoopResult(NamedTuple):
    """What an iterative method found, one entry per column.

    Attributes:
        value: Solutions.
        residual: Relative residuals, 0 for a right-hand side of 0.
        num_steps: Iterations spent.
    """

    value: Float[Array, "n q"]
    residual: Float[Array, " q"]
    num_steps: Int[Array, " q"]


def run_loop(
    start: Callable[[Array], tuple[State, Array]],
    step: Callable[[State, Array], tuple[State, Array]],
    rhs: Float[Array, "n q"],
    stop: Stop,
    *,
    keep_best: bool,
    size: Float[Array, "1 q"] | None = None,
) -> LoopResult:
    """Iterates until every column has converged or had its steps.

    Args:
        start: Makes a method's state, its solution first, and the squared residuals
            [1, q] of the solution 0, from the right-hand sides.
        step: Goes one step further; is told which columns [1, q] still move.
        rhs: Right-hand sides.
        stop: When a column is done.
        keep_best: Whether to give the iterate of smallest residual, not the last; the
            start, 0, is one of them.
        size: What residuals are relative to; None is the norm of the right-hand side.

    Returns:
        Solutions and diagnostics.
    """
    scale = scales(rhs)
    state, rhs_sq = start(rhs / scale)
    total_sq = rhs_sq if size is None else (size / scale) ** 2
    goal = stop.rtol**2 * total_sq

    def active(resid_sq: Array) -> Array:
        return resid_sq > goal  # Strict, so an all-zero column starts finished.

    def cond(carry):
        _, resid_sq, num_steps, _ = carry
        return jnp.any(active(resid_sq) & (num_steps < stop.max_steps))

    def body(carry):
        state, resid_sq, num_steps, best = carry
        go: Array = active(resid_sq)
        state, new_sq = step(state, go)
        resid_sq: Array = jnp.where(go, new_sq, resid_sq)
        if keep_best:
            value, least = best
            better: Array = ~(
                resid_sq >= least
            )  # A residual that is no number is taken, too.
            best = (
                jnp.where(better, state[0], value),
                jnp.where(better, resid_sq, least),
            )
        return state, resid_sq, num_steps + go.astype(jnp.int32), best

    # Like the residuals: inside shard_map it must differ between devices as they do.
    num_steps = jnp.zeros_like(rhs_sq, jnp.int32)
    best = (state[0], rhs_sq) if keep_best else ()
    carry = state, rhs_sq, num_steps, best
    ended: Any = jax.lax.while_loop(cond, body, carry)
    state, last_sq, num_steps, best = ended
    value, resid_sq = best if keep_best else (state[0], last_sq)
    residual = relative(resid_sq, total_sq)
    return LoopResult(value * scale, residual[0], num_steps[0])


def scales(rhs: Float[Array, "n q"]) -> Float[Array, "1 q"]:
    """What to divide columns by, so that squares of small float32 numbers stay.

    Args:
        rhs: Right-hand sides.

    Returns:
        The largest number of each, 1 where all are 0; what is no number stays so, and
        spoils all of its column.
    """
    return or_one(jnp.max(jnp.abs(rhs), axis=0, keepdims=True, initial=0))


def column_norms(x: Float[Array, "n q"]) -> Float[Array, "1 q"]:
    """Sizes of columns, however small they are.

    Args:
        x: Columns.

    Returns:
        Their Euclidean norms.
    """
    scale = scales(x)
    return scale * jnp.sqrt(jnp.sum((x / scale) ** 2, axis=0, keepdims=True))


def relative(
    left_sq: Float[Array, "1 q"], total_sq: Float[Array, "1 q"]
) -> Float[Array, "1 q"]:
    """Relative residuals from squares, 0 for a right-hand side of 0.

    Args:
        left_sq: Squared residuals.
        total_sq: Squares of what they are relative to.

    Returns:
        Roots of the quotients.
    """
    return jnp.sqrt(left_sq / or_one(total_sq))


def or_one(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """What can be divided by: x, and 1 where it is 0.

    Args:
        x: Sizes, at least 0; what is no number stays so, and shows.

    Returns:
        The same without zeros.
    """
    return jnp.where(x == 0, jnp.ones_like(x), x)
