"""Chebyshev's semi-iteration: conjugate gradient's speed without its inner products."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._loop import LoopResult, Stop, column_norms, relative, scales


class Interval(NamedTuple):
    """Where the eigenvalues of a map lie, for every column.

    Attributes:
        low: None is below it, above 0.
        high: None is above it.
    """

    low: Float[Array, "1 q"]
    high: Float[Array, "1 q"]


class _State(NamedTuple):
    x: Array
    r: Array
    p: Array
    a: Array
    num_steps: Array


def chebyshev_loop(
    matvec: Callable[[Array], Array],
    rhs: Float[Array, "n q"],
    stop: Stop,
    *,
    within: Interval,
    size: Float[Array, "1 q"] | None = None,
) -> LoopResult:
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
        within: The interval.
        size: What residuals are relative to; None is |b|.

    Returns:
        Solutions, relative residuals and iterations.

    References:
        Golub and Varga, Chebyshev semi-iterative methods, Numer. Math. 3, 1961.
    """
    scale = scales(rhs)
    b = rhs / scale
    start_size = column_norms(b)
    total = start_size if size is None else size / scale
    centre = (within.low + within.high) / 2
    width = (within.high - within.low) / 2
    # Of no width it takes one step, and a tolerance of 0 takes all there are. What is
    # no number takes none, and shows.
    above = start_size / (stop.rtol * total)
    needed = jnp.arccosh(jnp.maximum(above, 1)) / jnp.arccosh(centre / width)
    needed = jnp.maximum(jnp.where(width > 0, jnp.ceil(needed), 1), 1)
    needed = jnp.minimum(needed, jnp.asarray(stop.max_steps, b.dtype))
    most = jnp.where(above > 1, needed, 0).astype(jnp.int32)

    def step(state: _State) -> _State:
        k = state.num_steps
        go = k < most
        # The first direction is the residual; the second counts twice what others do.
        half = jnp.where(k > 1, 1, jnp.where(k == 1, 2, 0)).astype(b.dtype) / 4
        turn = half * (width * state.a) ** 2
        p = state.r + turn * state.p
        a = jnp.where(go, 1 / (centre - turn / state.a), state.a)
        move = jnp.where(go, a, 0) * p
        return _State(
            state.x + move, state.r - matvec(move), p, a, k + go.astype(jnp.int32)
        )

    nothing = jnp.zeros_like(b)
    # Inside shard_map all of it must differ between devices as the columns do.
    start = _State(
        nothing,
        b,
        nothing,
        1 / centre + jnp.zeros_like(total),
        jnp.zeros_like(total, jnp.int32),
    )
    found = jax.lax.while_loop(lambda s: jnp.any(s.num_steps < most), step, start)
    left = jnp.sum(found.r**2, axis=0, keepdims=True)
    residual = relative(left, total**2)
    return LoopResult(found.x * scale, residual[0], found.num_steps[0])
