"""The classic iteration of diffusion, kept for comparison with conjugate gradient."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._loop import LoopResult, Stop, run_loop


def iteration_loop(
    spread: Callable[[Array], Array],
    rhs: Float[Array, "n q"],
    stop: Stop,
    *,
    keep_best: bool = False,
    size: Float[Array, "1 q"] | None = None,
) -> LoopResult:
    """Iterates f <- alpha S f + y from f = 0; the error falls as alpha^t.

    The residual after t steps is (alpha S)^t y, which is also what the next step adds:
    one product serves both.

    Args:
        spread: The map X -> alpha S X on all columns at once.
        rhs: Right-hand sides Y.
        stop: When a column is done.
        keep_best: Changes nothing: residuals never grow where S is symmetric with a
            spectral radius of at most 1.
        size: What residuals are relative to; None is |Y|.

    Returns:
        Solutions, relative residuals and iterations.

    References:
        Iscen et al., CVPR 2017, eq. 3 and 16, without the factor (1 - alpha) and from
        0 instead of an arbitrary start; Zhou et al., NIPS 2003.
    """

    def step(state: tuple[Array, ...], go: Array) -> tuple[tuple[Array, ...], Array]:
        f, r = state
        f = f + jnp.where(go, r, 0)
        r = spread(r)
        return (f, r), jnp.sum(r**2, axis=0, keepdims=True)

    def start(rhs: Array) -> tuple[tuple[Array, ...], Array]:
        return (jnp.zeros_like(rhs), rhs), jnp.sum(rhs**2, axis=0, keepdims=True)

    return run_loop(start, step, rhs, stop, keep_best=keep_best, size=size)
