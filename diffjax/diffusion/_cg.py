"""Conjugate gradient for many right-hand sides that share one symmetric operator."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


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
    iterate = functools.partial(_iterate, rtol=rtol, max_steps=max_steps)
    value, (residual, num_steps) = jax.lax.custom_linear_solve(
        matvec, rhs, iterate, symmetric=True, has_aux=True
    )
    return CGSolution(
        value=value,
        residual=residual,
        num_steps=num_steps,
        converged=residual <= rtol,
    )


def _iterate(
    matvec: Callable[[Array], Array], rhs: Array, *, rtol: float, max_steps: int
) -> tuple[Array, tuple[Array, Array]]:
    """Runs the loop; returns (X [n, q], (relative residual [q], steps [q]))."""

    def dot(terms: Array) -> Array:
        return jnp.sum(terms, axis=0, keepdims=True)  # [n, q] -> [1, q]

    # Squares of small float32 numbers vanish: solve for columns of size 1.
    size = jnp.max(jnp.abs(rhs), axis=0, keepdims=True, initial=0)
    rhs = rhs / jnp.where(size > 0, size, 1)
    rhs_sq = dot(rhs**2)
    goal = rtol**2 * rhs_sq

    def active(resid_sq: Array) -> Array:
        return resid_sq > goal  # Strict, so an all-zero column starts finished.

    def cond(carry):
        *_, resid_sq, num_steps = carry
        return jnp.any(active(resid_sq) & (num_steps < max_steps))

    def body(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        x, r, p, resid_sq, num_steps = carry
        go = active(resid_sq)
        ap = matvec(p)
        # A finished column moves by 0 / 1: it stays put, without 0 / 0.
        a = jnp.where(go, resid_sq, 0) / jnp.where(go, dot(p * ap), 1)
        x, r = x + a * p, r - a * ap
        new_sq = jnp.where(go, dot(r**2), resid_sq)
        b = jnp.where(go, new_sq, 0) / jnp.where(go, resid_sq, 1)
        return x, r, r + b * p, new_sq, num_steps + go.astype(jnp.int32)

    num_steps = jnp.zeros((1, rhs.shape[1]), jnp.int32)
    carry = jnp.zeros_like(rhs), rhs, rhs, rhs_sq, num_steps
    x, _, _, resid_sq, num_steps = jax.lax.while_loop(cond, body, carry)
    residual = jnp.sqrt(resid_sq / jnp.where(rhs_sq > 0, rhs_sq, 1))
    return x * size, (residual[0], num_steps[0])
