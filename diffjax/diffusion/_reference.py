"""Reference solvers: eq. 3, eq. 18, the closed form of eq. 4, and JAX's own CG.

They exist to be compared with the solvers of `_solve`. Every solver solves
(I - alpha S) F = Y and has the signature of `_solve.Solver`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from diffjax.types import Graph, Solution

from ._cg import IterationResult, StopCriterion, cg_loop, iterate_until_converged
from ._implicit import InitialGuess, solve_implicitly
from ._matvec import MatvecFunction

# A dense factorisation beyond this takes gigabytes and minutes.
MAX_DIRECT_NODES = 10_000


def solve_classic_iteration(
    product: MatvecFunction,
    graph: Graph,
    y: Float[Array, "n q"],
    alpha: Float[Array, ""],
    *,
    stop: StopCriterion,
    keep_best: bool,
    initial_guess: InitialGuess,
) -> Solution:
    """Solves by the classic iteration of eq. 3."""

    def iterate_columns(system, stop, columns):
        return iteration_loop(
            lambda x: columns.alpha * product(system.graph, x),
            columns.rhs,
            stop,
            keep_best=keep_best,
            reference_norm=columns.reference_norm,
        )

    return solve_implicitly(
        product,
        iterate_columns,
        graph,
        y,
        alpha,
        stop=stop,
        initial_guess=initial_guess,
    )


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
        reference_norm: Norms that residuals are relative to; None for |Y|.

    Returns:
        Solutions, relative residuals and iterations.

    References:
        Iscen et al., CVPR 2017, eq. 3 and 16, without the factor (1 - alpha) and from
        0 instead of an arbitrary start; Zhou et al., NIPS 2003.
    """

    def add_next_term(
        state: tuple[Array, ...], active: Array
    ) -> tuple[tuple[Array, ...], Array]:
        f, r = state
        f = f + jnp.where(active, r, 0)
        r = scaled_matvec(r)
        return (f, r), jnp.sum(r**2, axis=0, keepdims=True)

    def start_from_zero(rhs: Array) -> tuple[tuple[Array, ...], Array]:
        return (jnp.zeros_like(rhs), rhs), jnp.sum(rhs**2, axis=0, keepdims=True)

    return iterate_until_converged(
        start_from_zero,
        add_next_term,
        rhs,
        stop,
        keep_best=keep_best,
        reference_norm=reference_norm,
    )


def solve_unnormalized(
    product: MatvecFunction,
    graph: Graph,
    y: Float[Array, "n q"],
    alpha: Float[Array, ""],
    *,
    stop: StopCriterion,
    keep_best: bool,
    initial_guess: InitialGuess,
    precondition: bool = False,
) -> Solution:
    """Solves (D - alpha A) G = D^1/2 Y by conjugate gradient, F = D^1/2 G: eq. 18.

    A = D^1/2 S D^1/2 comes from S and the degrees that `normalize` keeps; a node
    without edges has D = 1 and so F = Y. Residuals are measured as those of
    I - alpha S, so that `rtol` means the same as for every other solver.
    """

    def solve_scaled_columns(system, stop, columns):
        degrees = _nonzero_degrees(system.graph.degrees)
        root = jnp.sqrt(degrees)[:, None]

        def matvec(g):
            s_times_g = product(system.graph, root * g)
            return degrees[:, None] * g - columns.alpha * (root * s_times_g)

        result = cg_loop(
            matvec,
            root * columns.rhs,
            stop,
            keep_best=keep_best,
            reference_norm=columns.reference_norm,
            diagonal=degrees,
            precondition=precondition,
        )
        return result._replace(value=root * result.value)

    # F depends on D through S only: the map to differentiate is that of eq. 17.
    return solve_implicitly(
        product,
        solve_scaled_columns,
        graph,
        y,
        alpha,
        stop=stop,
        initial_guess=initial_guess,
    )


def solve_dense(
    product: MatvecFunction,
    graph: Graph,
    y: Float[Array, "n q"],
    alpha: Float[Array, ""],
    *,
    stop: StopCriterion,
    keep_best: bool,
    initial_guess: InitialGuess,
) -> Solution:
    """Solves the closed form of eq. 4 by a dense factorisation, for small n."""
    del product, keep_best, initial_guess
    n = graph.num_nodes
    if n > MAX_DIRECT_NODES:
        raise ValueError(
            f"graph must have at most {MAX_DIRECT_NODES} nodes to be solved directly, "
            f"got {n}: use another solver."
        )
    rows, columns = graph.rows.reshape(-1), graph.indices.reshape(-1)
    dense = jnp.zeros((n, n), y.dtype)
    dense = dense.at[rows, jnp.maximum(columns, 0)].add(graph.weights.reshape(-1))
    system = jnp.eye(n, dtype=y.dtype) - alpha * dense
    value = jnp.linalg.solve(system, y)
    error = y - jnp.matmul(system, value, precision=jax.lax.Precision.HIGHEST)
    residual = _true_relative_residual(error, y)
    return Solution(
        value, residual, jnp.zeros(y.shape[1], jnp.int32), residual <= stop.rtol
    )


def solve_cg_bcoo(
    product: MatvecFunction,
    graph: Graph,
    y: Float[Array, "n q"],
    alpha: Float[Array, ""],
    *,
    stop: StopCriterion,
    keep_best: bool,
    initial_guess: InitialGuess,
) -> Solution:
    """Solves by JAX's own conjugate gradient on a coordinate matrix, query by query."""
    del product, initial_guess
    rtol: Any = stop.rtol  # Traced, which its annotation leaves out.
    if keep_best:
        raise ValueError(
            "keep_best must be False for solver 'cg-bcoo', which gives its last "
            "iterate, got True."
        )
    matrix = graph.to_bcoo()

    def matvec(x):
        return x - alpha * (matrix @ x)

    def solve_column(column):
        # One system at a time: JAX's solver would take a matrix for one system whose
        # columns share their step sizes.
        return cg(matvec, column, tol=rtol, atol=0.0, maxiter=stop.max_steps)[0]

    value = jax.lax.map(solve_column, y.T).T
    # JAX's solver reports neither residual nor steps; this is the true residual.
    residual = _true_relative_residual(y - jax.lax.map(matvec, value.T).T, y)
    num_steps = jnp.full(y.shape[1], -1, jnp.int32)
    return Solution(value, residual, num_steps, residual <= stop.rtol)


def _nonzero_degrees(degrees: Float[Array, " n"]) -> Float[Array, " n"]:
    """Replaces the degree of nodes without edges by 1."""
    return jnp.where(degrees > 0, degrees, jnp.ones_like(degrees))


def _true_relative_residual(
    error: Float[Array, "n q"], y: Float[Array, "n q"]
) -> Float[Array, " q"]:
    norms = jnp.linalg.norm(y, axis=0)
    safe_norms = jnp.where(norms > 0, norms, jnp.ones_like(norms))
    return jax.lax.stop_gradient(jnp.linalg.norm(error, axis=0) / safe_norms)
