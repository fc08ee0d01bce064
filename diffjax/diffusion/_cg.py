"""Conjugate gradient for many right-hand sides that share one symmetric operator."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ._loop import LoopResult, Stop, run_loop


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
        found = cg_loop(matvec, rhs, Stop(rtol, max_steps), keep_best=keep_best)
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
    stop: Stop,
    *,
    keep_best: bool = False,
    size: Float[Array, "1 q"] | None = None,
    diagonal: Float[Array, " n"] | None = None,
    precondition: bool = False,
) -> LoopResult:
    """Runs the iteration; see `cg_solve`. Has no derivative of its own.

    Args:
        matvec: The map X -> A X.
        rhs: Right-hand sides B.
        stop: When a column is done.
        keep_best: Whether to give the iterate of smallest residual.
        size: What residuals are relative to; None is |B|.
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

    return run_loop(start, step, rhs, stop, keep_best=keep_best, size=size)
