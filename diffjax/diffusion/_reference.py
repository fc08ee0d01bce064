"""Reference iteration of the diffusion, eq. 3 of the paper."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._cg import IterationResult, StopCriterion, iterate_until_converged


def iteration_loop(
    scaled_matvec: Callable[[Array], Array],
    rhs: Float[Array, "n q"],
    stop: StopCriterion,
    *,
    keep_best: bool = False,
    reference_norm: Float[Array, "1 q"] | None = None,
) -> IterationResult:
    """Iterates f <- alpha S f + y from f = 0; the error falls as alpha^t.

    The residual after t steps is (alpha S)^t y, which is also what the next step adds:
    one product serves both.

    Args:
        scaled_matvec: The map X -> alpha S X on all columns at once.
        rhs: Right-hand sides Y.
        stop: When a column is done.
        keep_best: Changes nothing: residuals never grow where S is symmetric with a
            spectral radius of at most 1.
        reference_norm: What residuals are relative to; None is |Y|.

    Returns:
        Solutions, relative residuals and iterations.

    References:
        Iscen et al., CVPR 2017, eq. 3 and 16, without the factor (1 - alpha) and from
        0 instead of an arbitrary start; Zhou et al., NIPS 2003.
    """

    def step(state: tuple[Array, ...], go: Array) -> tuple[tuple[Array, ...], Array]:
        f, r = state
        f = f + jnp.where(go, r, 0)
        r = scaled_matvec(r)
        return (f, r), jnp.sum(r**2, axis=0, keepdims=True)

    def start(rhs: Array) -> tuple[tuple[Array, ...], Array]:
        return (jnp.zeros_like(rhs), rhs), jnp.sum(rhs**2, axis=0, keepdims=True)

    return iterate_until_converged(
        start, step, rhs, stop, keep_best=keep_best, reference_norm=reference_norm
    )
