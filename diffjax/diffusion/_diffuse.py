"""Diffusion: the ranking score of every node for given queries."""

import functools
from typing import Literal, Protocol, get_args

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from diffjax._arguments import check_in_range, check_not_halved
from diffjax.types import Graph, Scalar, Solution

from ._cg import cg_solve
from ._operator import multiply

SolverName = Literal["cg", "cg-bcoo"]


class Solver(Protocol):
    """Solves (I - alpha S) F = Y; one function per name of `SolverName`."""

    def __call__(
        self,
        graph: Graph,
        y: Float[Array, "n q"],
        alpha: Float[Array, ""],
        *,
        rtol: float,
        max_steps: int,
    ) -> Solution:
        """Returns F and its diagnostics, per column."""
        ...


def diffuse(
    graph: Graph,
    y: Float[Array, "n q"],
    *,
    alpha: Scalar = 0.99,
    rtol: float = 1e-6,
    max_steps: int = 20,
    solver: SolverName = "cg",
) -> Solution:
    r"""Diffuses queries over a graph: F = (I - alpha S)^-1 Y.

    The paper's f carries a factor (1 - alpha), which changes no rank and is left out.
    Differentiable in alpha, Y and the graph's weights, by a second solve.

    Args:
        graph: The normalised graph S, in either form; see `normalize`.
        y: Right-hand sides, one query per column; see `query_vectors`.
        alpha: How far scores spread, in [0, 1); may be traced and differentiated.
        rtol: Relative residual at which a query stops. A Python number.
        max_steps: Most iterations, 20 in the paper. Use at least 50 to train through
            the solve. A Python number.
        solver: "cg", conjugate gradient on all queries at once, each with its own
            steps; "cg-bcoo", JAX's own conjugate gradient on a coordinate matrix, one
            query after the other: slower, the reference.

    Returns:
        Scores of all nodes and, per query, residual, iterations and whether the
        tolerance was met. Trouble inside compiled code shows there.

    Raises:
        ValueError: If `alpha` or `rtol` is outside [0, 1), `max_steps` is below 1,
            `solver` is unknown, or sizes do not match.

    References:
        Iscen et al., CVPR 2017, eq. 4 and 17, https://arxiv.org/abs/1611.05113.
    """
    check_in_range("alpha", alpha, low=0, high=1, closed_low=True)
    check_in_range("rtol", rtol, low=0, high=1, closed_low=True)
    check_not_halved("y", y)
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}.")
    if solver not in _SOLVERS:
        raise ValueError(
            f"solver must be one of {get_args(SolverName)}, got {solver!r}."
        )
    if y.shape[0] != graph.num_nodes:
        raise ValueError(
            f"y must have one row per node, {graph.num_nodes}, got {y.shape[0]}."
        )
    return _diffuse(graph, y, alpha, rtol=rtol, max_steps=max_steps, solver=solver)


@functools.partial(jax.jit, static_argnames=("rtol", "max_steps", "solver"))
def _diffuse(graph, y, alpha, *, rtol, max_steps, solver):
    alpha = jnp.asarray(alpha, y.dtype)
    return _SOLVERS[solver](graph, y, alpha, rtol=rtol, max_steps=max_steps)


def _matvec(graph, alpha, x):
    return x - alpha * multiply(graph, x)


def _solve_cg(graph, y, alpha, *, rtol, max_steps):
    matvec = functools.partial(_matvec, graph, alpha)
    return Solution(*cg_solve(matvec, y, rtol=rtol, max_steps=max_steps))


def _solve_cg_bcoo(graph, y, alpha, *, rtol, max_steps):
    matrix = graph.to_bcoo()

    def matvec(x):
        return x - alpha * (matrix @ x)

    def solve(column):
        # As a batch of one system each: given a matrix, JAX's solver would take it
        # for one system whose columns share their step sizes.
        return cg(matvec, column, tol=rtol, atol=0.0, maxiter=max_steps)[0]

    value = jax.lax.map(solve, y.T).T
    # JAX's solver tells neither; this is the true residual.
    rest = y - jax.lax.map(matvec, value.T).T
    size = jnp.linalg.norm(y, axis=0)
    safe = jnp.where(size > 0, size, jnp.ones_like(size))
    residual = jax.lax.stop_gradient(jnp.linalg.norm(rest, axis=0) / safe)
    return Solution(
        value=value,
        residual=residual,
        num_steps=jnp.full(y.shape[1], -1, jnp.int32),
        converged=residual <= rtol,
    )


_SOLVERS: dict[str, Solver] = {"cg": _solve_cg, "cg-bcoo": _solve_cg_bcoo}
