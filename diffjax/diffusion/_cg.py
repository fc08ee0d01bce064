"""Conjugate gradient and Chebyshev iteration for many right-hand sides."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class StopCriterion(NamedTuple):
    """When an iteration ends. Both may be traced: other numbers compile nothing anew.

    Attributes:
        rtol: Relative residual at which a column stops.
        max_steps: Most steps of a column.
    """

    rtol: float | Array
    max_steps: int | Array


# The solution so far, and whatever else a method carries along.
IterationState = tuple[Array, ...]


class IterationResult(NamedTuple):
    """What an iterative method found, one entry per column.

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
    """Iterates until every column has converged or had its steps.

    Args:
        start: Makes a method's state, its solution first, and the squared residuals
            [1, q] of the solution 0, from the right-hand sides.
        step: Goes one step further; is told which columns [1, q] still move.
        rhs: Right-hand sides.
        stop: When a column is done.
        keep_best: Whether to give the iterate of smallest residual, not the last; the
            start, 0, is one of them.
        reference_norm: What residuals are relative to; None is the norm of the
            right-hand side.

    Returns:
        Solutions and diagnostics.
    """
    scale = column_scales(rhs)
    state, rhs_sq = start(rhs / scale)
    total_sq = rhs_sq if reference_norm is None else (reference_norm / scale) ** 2
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
    residual = relative_residuals(resid_sq, total_sq)
    return IterationResult(value * scale, residual[0], num_steps[0])


def column_scales(rhs: Float[Array, "n q"]) -> Float[Array, "1 q"]:
    """What to divide columns by, so that squares of small float32 numbers stay.

    Args:
        rhs: Right-hand sides.

    Returns:
        The largest number of each, 1 where all are 0; what is no number stays so, and
        spoils all of its column.
    """
    return safe_divisor(jnp.max(jnp.abs(rhs), axis=0, keepdims=True, initial=0))


def column_norms(x: Float[Array, "n q"]) -> Float[Array, "1 q"]:
    """Sizes of columns, however small they are.

    Args:
        x: Columns.

    Returns:
        Their Euclidean norms.
    """
    scale = column_scales(x)
    return scale * jnp.sqrt(jnp.sum((x / scale) ** 2, axis=0, keepdims=True))


def relative_residuals(
    left_sq: Float[Array, "1 q"], total_sq: Float[Array, "1 q"]
) -> Float[Array, "1 q"]:
    """Relative residuals from squares, 0 for a right-hand side of 0.

    Args:
        left_sq: Squared residuals.
        total_sq: Squares of what they are relative to.

    Returns:
        Roots of the quotients.
    """
    return jnp.sqrt(left_sq / safe_divisor(total_sq))


def safe_divisor(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """What can be divided by: x, and 1 where it is 0.

    Args:
        x: Sizes, at least 0; what is no number stays so, and shows.

    Returns:
        The same without zeros.
    """
    return jnp.where(x == 0, jnp.ones_like(x), x)


class CGSolution(NamedTuple):
    """What `cg_solve` found, one entry per right-hand side.

    Attributes:
        value: Solutions, one per column.
        residual: Relative residual |b - A x| / |b| as the recurrence tracks it; 0 where
            b is 0.
        num_steps: Iterations spent on each column.
        converged: Whether `residual` reached the tolerance. Not differentiable.
    """

    value: Float[Array, "n q"]
    residual: Float[Array, " q"]
    num_steps: Int[Array, " q"]
    converged: Bool[Array, " q"]


def cg_solve(
    matvec: Callable[[Float[Array, "n q"]], Float[Array, "n q"]],
    rhs: Float[Array, "n q"],
    *,
    rtol: float = 1e-6,
    max_steps: int = 20,
    keep_best: bool = False,
) -> CGSolution:
    r"""Solves A X = B column by column, for a symmetric positive-definite A.

    Columns are independent: each stops at its own tolerance, and a finished column
    no longer changes. Gradients come from a second solve (implicit differentiation),
    not from unrolling the loop, so they are as accurate as the solve itself.

    Args:
        matvec: The map X -> A X, linear and acting on all columns at once. That A is
            symmetric positive definite is the caller's promise and is not checked.
        rhs: Right-hand sides B, one query per column, floating point.
        rtol: Stop a column when |b - A x| <= rtol |b|. A Python number.
        max_steps: Most iterations for any column; reaching it is not an error, see
            `CGSolution.converged`. A Python number.
        keep_best: Give the iterate of smallest residual instead of the last one, as
            MATLAB's pcg does; the start, 0 with residual 1, is one of them.

    Returns:
        Solutions and per-column diagnostics.

    Raises:
        ValueError: If `rtol` is outside [0, 1) or `max_steps` is below 1.

    References:
        Hestenes and Stiefel, J. Res. NBS 49(6), 1952.
        Used for ranking by Iscen et al., CVPR 2017, section 4.3.
    """
    if not 0 <= rtol < 1:
        raise ValueError(f"rtol must be in [0, 1), got {rtol}.")
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}.")

    def solve(matvec, rhs):
        found = cg_loop(
            matvec, rhs, StopCriterion(rtol, max_steps), keep_best=keep_best
        )
        return found.value, (found.residual, found.num_steps)

    value, (residual, num_steps) = jax.lax.custom_linear_solve(
        matvec, rhs, solve, symmetric=True, has_aux=True
    )
    return CGSolution(
        value=value,
        residual=residual,
        num_steps=num_steps,
        converged=residual <= rtol,
    )


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
    """Runs the iteration; see `cg_solve`. Has no derivative of its own.

    Args:
        matvec: The map X -> A X.
        rhs: Right-hand sides B.
        stop: When a column is done.
        keep_best: Whether to give the iterate of smallest residual.
        reference_norm: What residuals are relative to; None is |B|.
        diagonal: The diagonal D of A, above 0: residuals are then measured as those of
            the system scaled to D^-1/2 A D^-1/2, |D^-1/2 r| / |D^-1/2 b|. None is 1.
        precondition: Whether to divide search directions by D, which is Jacobi's
            preconditioner.

    Returns:
        Solutions, relative residuals and iterations.
    """
    weight = None if diagonal is None else 1 / diagonal[:, None]

    def dot(terms: Array) -> Array:
        return jnp.sum(terms, axis=0, keepdims=True)  # [n, q] -> [1, q]

    def measure(r: Array) -> Array:
        return dot(r**2 if weight is None else weight * r**2)

    def direction(r: Array) -> Array:
        return weight * r if weight is not None and precondition else r

    def step(state: tuple[Array, ...], go: Array) -> tuple[tuple[Array, ...], Array]:
        x, r, p, rz = state
        ap = matvec(p)
        curvature = dot(p * ap)
        # A finished column moves by 0 / 1: it stays put, without 0 / 0. So does one
        # that was to go on for ever (rtol 0) when its products are too small to divide.
        go &= ~(curvature < jnp.finfo(curvature.dtype).tiny)
        a = jnp.where(go, rz, 0) / jnp.where(go, curvature, 1)
        x, r = x + a * p, r - a * ap
        z = direction(r)
        new_rz = jnp.where(go, dot(r * z), rz)
        b = jnp.where(go, new_rz, 0) / jnp.where(go, rz, 1)
        return (x, r, z + b * p, new_rz), measure(r)

    def start(rhs: Array) -> tuple[tuple[Array, ...], Array]:
        z = direction(rhs)
        return (jnp.zeros_like(rhs), rhs, z, dot(rhs * z)), measure(rhs)

    return iterate_until_converged(
        start, step, rhs, stop, keep_best=keep_best, reference_norm=reference_norm
    )


class SpectralInterval(NamedTuple):
    """Where the eigenvalues of a map lie, for every column.

    Attributes:
        low: None is below it, above 0.
        high: None is above it.
    """

    low: Float[Array, "1 q"]
    high: Float[Array, "1 q"]


class _ChebyshevState(NamedTuple):
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
    r"""Solves A X = B where the eigenvalues of A lie in an interval [l, h].

    After t steps the residual is T_t((c - A) / w) b / T_t(c / w), T_t being Chebyshev's
    polynomial, c the centre of the interval and w half its width, so at most

        2 / (rho^t + rho^-t) |b|,  rho = (1 + sqrt(1 - (w / c)^2)) / (w / c):

    how many steps a tolerance takes is known before the first, and so many are done.
    Sums over all nodes are taken twice, at the start and at the end, and not in steps.
    Eigenvalues between 0 and l slow it down; the residual in the end tells.

    Args:
        matvec: The map X -> A X, symmetric.
        rhs: Right-hand sides B.
        stop: When a column is done, by the bound.
        interval: The interval.
        reference_norm: What residuals are relative to; None is |b|.

    Returns:
        Solutions, relative residuals and iterations.

    References:
        Golub and Varga, Chebyshev semi-iterative methods, Numer. Math. 3, 1961.
    """
    scale = column_scales(rhs)
    b = rhs / scale
    start_size = column_norms(b)
    total = start_size if reference_norm is None else reference_norm / scale
    centre = (interval.low + interval.high) / 2
    width = (interval.high - interval.low) / 2
    # Of no width it takes one step, and a tolerance of 0 takes all there are. What is
    # no number takes none, and shows.
    above = start_size / (stop.rtol * total)
    needed = jnp.arccosh(jnp.maximum(above, 1)) / jnp.arccosh(centre / width)
    needed = jnp.maximum(jnp.where(width > 0, jnp.ceil(needed), 1), 1)
    needed = jnp.minimum(needed, jnp.asarray(stop.max_steps, b.dtype))
    most = jnp.where(above > 1, needed, 0).astype(jnp.int32)

    def step(state: _ChebyshevState) -> _ChebyshevState:
        k = state.num_steps
        go = k < most
        # The first direction is the residual; the second counts twice what others do.
        half = jnp.where(k > 1, 1, jnp.where(k == 1, 2, 0)).astype(b.dtype) / 4
        turn = half * (width * state.a) ** 2
        p = state.r + turn * state.p
        a = jnp.where(go, 1 / (centre - turn / state.a), state.a)
        move = jnp.where(go, a, 0) * p
        return _ChebyshevState(
            state.x + move, state.r - matvec(move), p, a, k + go.astype(jnp.int32)
        )

    nothing = jnp.zeros_like(b)
    # Inside shard_map all of it must differ between devices as the columns do.
    start = _ChebyshevState(
        nothing,
        b,
        nothing,
        1 / centre + jnp.zeros_like(total),
        jnp.zeros_like(total, jnp.int32),
    )
    found = jax.lax.while_loop(lambda s: jnp.any(s.num_steps < most), step, start)
    left = jnp.sum(found.r**2, axis=0, keepdims=True)
    residual = relative_residuals(left, total**2)
    return IterationResult(found.x * scale, residual[0], found.num_steps[0])
