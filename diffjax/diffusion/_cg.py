"""Conjugate gradient and Chebyshev iteration for many right-hand sides."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# The solution so far, and whatever else a method carries along.
IterationState = tuple[Array, ...]


class StopCriterion(NamedTuple):
    """Stopping rule of an iteration. Traced values recompile nothing.

    Attributes:
        rtol: Relative residual at which a column stops.
        max_steps: Largest number of steps of a column.
    """

    rtol: float | Array
    max_steps: int | Array


class IterationResult(NamedTuple):
    """Solutions and diagnostics of an iterative method, one entry per column.

    Attributes:
        value: Solutions.
        residual: Relative residuals, 0 for a right-hand side of 0.
        num_steps: Iterations spent.
    """

    value: Float[Array, "n q"]
    residual: Float[Array, " q"]
    num_steps: Int[Array, " q"]


def iterate_until_converged(
    start: Callable[[Array], tuple[IterationState, Array]],
    step: Callable[[IterationState, Array], tuple[IterationState, Array]],
    rhs: Float[Array, "n q"],
    stop: StopCriterion,
    *,
    keep_best: bool,
    reference_norm: Float[Array, "1 q"] | None = None,
) -> IterationResult:
    """Iterates until every column has converged or used up its steps.

    Args:
        start: Maps the right-hand sides to the state of the method, whose first entry
            is the solution 0, and to the squared residuals [1, q] of that solution.
        step: Maps the state, and which columns [1, q] still move, to the next state
            and its squared residuals.
        rhs: Right-hand sides.
        stop: When a column is done.
        keep_best: Whether to return the iterate of smallest residual instead of the
            last one; the start, 0, is among them.
        reference_norm: Norms that residuals are relative to; None for those of the
            right-hand sides.

    Returns:
        Solutions and diagnostics.
    """
    scale = column_scales(rhs)
    state, rhs_sq = start(rhs / scale)
    reference_sq = rhs_sq if reference_norm is None else (reference_norm / scale) ** 2
    threshold = stop.rtol**2 * reference_sq

    def is_active(resid_sq: Array) -> Array:
        return resid_sq > threshold  # Strict, so an all-zero column starts finished.

    def is_any_active(carry):
        _, resid_sq, num_steps, _ = carry
        return jnp.any(is_active(resid_sq) & (num_steps < stop.max_steps))

    def take_step(carry):
        state, resid_sq, num_steps, best = carry
        active: Array = is_active(resid_sq)
        state, new_sq = step(state, active)
        resid_sq: Array = jnp.where(active, new_sq, resid_sq)
        if keep_best:
            best_value, best_sq = best
            # The negated comparison also takes a residual that is NaN.
            better: Array = ~(resid_sq >= best_sq)
            best = (
                jnp.where(better, state[0], best_value),
                jnp.where(better, resid_sq, best_sq),
            )
        return state, resid_sq, num_steps + active.astype(jnp.int32), best

    # Made from the residuals: inside shard_map it must vary between devices as they do.
    num_steps = jnp.zeros_like(rhs_sq, jnp.int32)
    best = (state[0], rhs_sq) if keep_best else ()
    carry = state, rhs_sq, num_steps, best
    final_carry: Any = jax.lax.while_loop(is_any_active, take_step, carry)
    state, last_sq, num_steps, best = final_carry
    value, resid_sq = best if keep_best else (state[0], last_sq)
    residual = relative_residuals(resid_sq, reference_sq)
    return IterationResult(value * scale, residual[0], num_steps[0])


def column_scales(rhs: Float[Array, "n q"]) -> Float[Array, "1 q"]:
    """Computes divisors of columns that keep squares of small float32 numbers above 0.

    Args:
        rhs: Right-hand sides.

    Returns:
        The largest absolute value of each column, 1 where all are 0. A NaN stays NaN
        and so spoils the whole column.
    """
    return safe_divisor(jnp.max(jnp.abs(rhs), axis=0, keepdims=True, initial=0))


def column_norms(x: Float[Array, "n q"]) -> Float[Array, "1 q"]:
    """Computes Euclidean norms of columns without underflow.

    Args:
        x: Columns.

    Returns:
        Their norms.
    """
    scale = column_scales(x)
    return scale * jnp.sqrt(jnp.sum((x / scale) ** 2, axis=0, keepdims=True))


def relative_residuals(
    resid_sq: Float[Array, "1 q"], reference_sq: Float[Array, "1 q"]
) -> Float[Array, "1 q"]:
    """Computes relative residuals from squares, 0 for a right-hand side of 0.

    Args:
        resid_sq: Squared norms of the residuals.
        reference_sq: Squares of the norms that they are relative to.

    Returns:
        Roots of the quotients.
    """
    return jnp.sqrt(resid_sq / safe_divisor(reference_sq))


def safe_divisor(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Replaces zeros by ones, so that the result can be divided by.

    Args:
        x: Numbers, at least 0; a NaN stays NaN.

    Returns:
        The numbers without zeros.
    """
    return jnp.where(x == 0, jnp.ones_like(x), x)


def cg_loop(
    matvec: Callable[[Array], Array],
    rhs: Float[Array, "n q"],
    stop: StopCriterion,
    *,
    keep_best: bool = False,
    reference_norm: Float[Array, "1 q"] | None = None,
    diagonal: Float[Array, " n"] | None = None,
    precondition: bool = False,
) -> IterationResult:
    r"""Solves A X = B column by column, for a symmetric positive-definite A.

    Columns are independent: each stops at its own tolerance, and a finished column no
    longer changes. The loop has no derivative of its own, see `implicit_solve`.

    Args:
        matvec: The map X -> A X, linear and acting on all columns at once. The caller
            promises that A is symmetric positive definite; it is not checked.
        rhs: Right-hand sides B.
        stop: When a column is done; reaching `max_steps` is not an error.
        keep_best: Whether to return the iterate of smallest residual instead of the
            last one, as MATLAB's pcg does; the start, 0 with residual 1, is among them.
        reference_norm: Norms that residuals are relative to; None for |b|.
        diagonal: The diagonal D of A, above 0: residuals are then measured as those of
            the system scaled to D^-1/2 A D^-1/2, |D^-1/2 r| / |D^-1/2 b|. None is 1.
        precondition: Whether to divide search directions by D, which is Jacobi's
            preconditioner.

    Returns:
        Solutions, relative residuals as the recurrence tracks them, and iterations.

    References:
        Hestenes and Stiefel, J. Res. NBS 49(6), 1952.
        Used for ranking by Iscen et al., CVPR 2017, section 4.3.
    """
    weight = None if diagonal is None else 1 / diagonal[:, None]
    # Products below the smallest number are lost, n of them at most: a sum that is
    # larger than this by 1 / eps is still right to rounding.
    limits = jnp.finfo(rhs.dtype)
    least = rhs.shape[0] * (limits.tiny / limits.eps)

    def column_sums(terms: Array) -> Array:
        return jnp.sum(terms, axis=0, keepdims=True)  # [n, q] -> [1, q]

    def squared_residual(r: Array) -> Array:
        return column_sums(r**2 if weight is None else weight * r**2)

    def apply_preconditioner(r: Array) -> Array:
        return weight * r if weight is not None and precondition else r

    def cg_step(
        state: tuple[Array, ...], active: Array
    ) -> tuple[tuple[Array, ...], Array]:
        x, r, p, rz = state
        ap = matvec(p)
        curvature = column_sums(p * ap)
        # A finished column moves by 0 / 1: it stays put, without 0 / 0. So does one
        # that was to go on for ever (rtol 0) once products vanish from its sums.
        active &= ~(curvature < least)
        a = jnp.where(active, rz, 0) / jnp.where(active, curvature, 1)
        x, r = x + a * p, r - a * ap
        z = apply_preconditioner(r)
        new_rz = jnp.where(active, column_sums(r * z), rz)
        b = jnp.where(active, new_rz, 0) / jnp.where(active, rz, 1)
        return (x, r, z + b * p, new_rz), squared_residual(r)

    def cg_start(rhs: Array) -> tuple[tuple[Array, ...], Array]:
        z = apply_preconditioner(rhs)
        state = jnp.zeros_like(rhs), rhs, z, column_sums(rhs * z)
        return state, squared_residual(rhs)

    return iterate_until_converged(
        cg_start, cg_step, rhs, stop, keep_best=keep_best, reference_norm=reference_norm
    )


class SpectralInterval(NamedTuple):
    """Interval that contains the eigenvalues of a map, one per column.

    Attributes:
        low: Lower bound, above 0.
        high: Upper bound.
    """

    low: Float[Array, "1 q"]
    high: Float[Array, "1 q"]


class _ChebyshevState(NamedTuple):
    """Solution, residual, direction, step length and steps so far."""

    x: Array
    r: Array
    p: Array
    a: Array
    num_steps: Array


def chebyshev_loop(
    matvec: Callable[[Array], Array],
    rhs: Float[Array, "n q"],
    stop: StopCriterion,
    *,
    interval: SpectralInterval,
    reference_norm: Float[Array, "1 q"] | None = None,
) -> IterationResult:
    r"""Solves A X = B by Chebyshev iteration, eigenvalues of A being in [l, h].

    After t steps the residual is T_t((c - A) / w) b / T_t(c / w), where T_t is the
    Chebyshev polynomial, c the centre of the interval and w half its width. It is at
    most

        2 / (rho^t + rho^-t) |b|,  rho = (1 + sqrt(1 - (w / c)^2)) / (w / c),

    so the number of steps for a tolerance is known before the first one, and that many
    are done. Sums over all nodes are taken at the start and at the end only, not in the
    steps. Eigenvalues between 0 and l slow the iteration down, as the final residual
    shows.

    Args:
        matvec: The map X -> A X, symmetric.
        rhs: Right-hand sides B.
        stop: When a column is done, by the bound.
        interval: Bounds l and h of the eigenvalues.
        reference_norm: Norms that residuals are relative to; None for |b|.

    Returns:
        Solutions, relative residuals and iterations.

    References:
        Golub and Varga, Chebyshev semi-iterative methods, Numer. Math. 3, 1961.
    """
    scale = column_scales(rhs)
    b = rhs / scale
    initial_norm = column_norms(b)
    scaled_norm = initial_norm if reference_norm is None else reference_norm / scale
    centre = (interval.low + interval.high) / 2
    width = (interval.high - interval.low) / 2
    # An interval of width 0 takes one step, and a tolerance of 0 takes max_steps. A
    # NaN takes no step and shows in the residual.
    reduction = initial_norm / (stop.rtol * scaled_norm)
    needed = jnp.arccosh(jnp.maximum(reduction, 1)) / jnp.arccosh(centre / width)
    needed = jnp.maximum(jnp.where(width > 0, jnp.ceil(needed), 1), 1)
    needed = jnp.minimum(needed, jnp.asarray(stop.max_steps, b.dtype))
    total_steps = jnp.where(reduction > 1, needed, 0).astype(jnp.int32)

    def chebyshev_step(state: _ChebyshevState) -> _ChebyshevState:
        k = state.num_steps
        active = k < total_steps
        # The first direction is the residual; the second has twice the usual factor.
        factor = jnp.where(k > 1, 1, jnp.where(k == 1, 2, 0)).astype(b.dtype) / 4
        turn = factor * (width * state.a) ** 2
        p = state.r + turn * state.p
        a = jnp.where(active, 1 / (centre - turn / state.a), state.a)
        move = jnp.where(active, a, 0) * p
        return _ChebyshevState(
            state.x + move, state.r - matvec(move), p, a, k + active.astype(jnp.int32)
        )

    zeros = jnp.zeros_like(b)
    # Inside shard_map the whole state must vary between devices as the columns do.
    start = _ChebyshevState(
        zeros,
        b,
        zeros,
        1 / centre + jnp.zeros_like(scaled_norm),
        jnp.zeros_like(scaled_norm, jnp.int32),
    )
    final = jax.lax.while_loop(
        lambda state: jnp.any(state.num_steps < total_steps), chebyshev_step, start
    )
    resid_sq = jnp.sum(final.r**2, axis=0, keepdims=True)
    residual = relative_residuals(resid_sq, scaled_norm**2)
    return IterationResult(final.x * scale, residual[0], final.num_steps[0])
