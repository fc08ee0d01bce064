"""The solvers by name: each gives the same F = (I - alpha S)^-1 Y."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from diffjax.native import csr_cg, has_kernel
from diffjax.types import Graph, Solution

from ._cg import cg_loop
from ._implicit import Loop, implicit_solve
from ._iteration import iteration_loop
from ._loop import LoopResult, Stop
from ._operator import Product, multiply

SolverName = Literal[
    "cg", "cg-bcoo", "iterate", "unnormalized", "unnormalized-jacobi", "direct"
]

# A dense factorisation beyond this takes gigabytes and minutes.
MOST_DIRECT_NODES = 10_000


class Solver(Protocol):
    """Solves (I - alpha S) F = Y; one function per name of `SolverName`."""

    def __call__(
        self,
        product: Product,
        graph: Graph,
        y: Float[Array, "n q"],
        alpha: Float[Array, ""],
        *,
        stop: Stop,
        keep_best: bool,
    ) -> Solution:
        """Returns F and its diagnostics, per column."""
        ...


def solve_cg(
    product: Product,
    graph: Graph,
    y: Float[Array, "n q"],
    alpha: Float[Array, ""],
    *,
    stop: Stop,
    keep_best: bool,
) -> Solution:
    """Conjugate gradient on all columns at once, each with its own steps."""

    def step_by_step(graph, stop, alpha, rhs):
        matvec = functools.partial(_minus_spread, product, graph, alpha)
        return cg_loop(matvec, rhs, stop, keep_best=keep_best)

    def at_once(graph, stop, alpha, rhs):
        matrix = graph.weights, graph.indices, graph.starts
        return LoopResult(
            *csr_cg(*matrix, alpha, rhs, **stop._asdict(), keep_best=keep_best)
        )

    def loop(graph, stop, alpha, rhs):
        arguments = graph, stop, alpha, rhs
        matrix = graph.weights, graph.indices, graph.starts
        if product is not multiply or not rhs.size or not has_kernel(*matrix, rhs):
            return step_by_step(*arguments)
        # The same iteration with one call for all of its steps.
        return jax.lax.platform_dependent(*arguments, cpu=at_once, default=step_by_step)

    return _solve(product, loop, graph, y, alpha, stop=stop)


def solve_by_iteration(
    product: Product,
    graph: Graph,
    y: Float[Array, "n q"],
    alpha: Float[Array, ""],
    *,
    stop: Stop,
    keep_best: bool,
) -> Solution:
    """The classic iteration of eq. 3."""

    def loop(graph, stop, alpha, rhs):
        return iteration_loop(
            lambda x: alpha * product(graph, x), rhs, stop, keep_best=keep_best
        )

    return _solve(product, loop, graph, y, alpha, stop=stop)


def solve_unnormalized(
    product: Product,
    graph: Graph,
    y: Float[Array, "n q"],
    alpha: Float[Array, ""],
    *,
    stop: Stop,
    keep_best: bool,
    precondition: bool = False,
) -> Solution:
    """Conjugate gradient on (D - alpha A) G = D^1/2 Y, F = D^1/2 G: eq. 18.

    A = D^1/2 S D^1/2 comes from S and the degrees that `normalize` kept; a node without
    edges has D = 1 and so F = Y. Residuals are measured as those of I - alpha S, so
    that `rtol` means the same as for every other solver.
    """

    def loop(graph, stop, alpha, rhs):
        degrees = _degrees(graph.degrees)
        root = jnp.sqrt(degrees)[:, None]

        def matvec(g):
            return degrees[:, None] * g - alpha * (root * product(graph, root * g))

        found = cg_loop(
            matvec,
            root * rhs,
            stop,
            keep_best=keep_best,
            diagonal=degrees,
            precondition=precondition,
        )
        return found._replace(value=root * found.value)

    # F depends on D through S only: the map to differentiate is that of eq. 17.
    return _solve(product, loop, graph, y, alpha, stop=stop)


def solve_directly(
    product: Product,
    graph: Graph,
    y: Float[Array, "n q"],
    alpha: Float[Array, ""],
    *,
    stop: Stop,
    keep_best: bool,
) -> Solution:
    """The closed form of eq. 4 by a dense factorisation, for small n."""
    del product, keep_best
    n = graph.num_nodes
    if n > MOST_DIRECT_NODES:
        raise ValueError(
            f"graph must have at most {MOST_DIRECT_NODES} nodes to be solved directly, "
            f"got {n}: use another solver."
        )
    rows, columns = graph.rows.reshape(-1), graph.indices.reshape(-1)
    dense = jnp.zeros((n, n), y.dtype)
    dense = dense.at[rows, jnp.maximum(columns, 0)].add(graph.weights.reshape(-1))
    system = jnp.eye(n, dtype=y.dtype) - alpha * dense
    value = jnp.linalg.solve(system, y)
    rest = y - jnp.matmul(system, value, precision=jax.lax.Precision.HIGHEST)
    residual = _relative(rest, y)
    return Solution(
        value, residual, jnp.zeros(y.shape[1], jnp.int32), residual <= stop.rtol
    )


def solve_cg_bcoo(
    product: Product,
    graph: Graph,
    y: Float[Array, "n q"],
    alpha: Float[Array, ""],
    *,
    stop: Stop,
    keep_best: bool,
) -> Solution:
    """JAX's own conjugate gradient on a coordinate matrix, query by query."""
    del product
    rtol: Any = stop.rtol  # Traced, which its annotation leaves out.
    if keep_best:
        raise ValueError(
            "keep_best must be False for solver 'cg-bcoo', which gives its last "
            "iterate, got True."
        )
    matrix = graph.to_bcoo()

    def matvec(x):
        return x - alpha * (matrix @ x)

    def solve(column):
        # As a batch of one system each: given a matrix, JAX's solver would take it
        # for one system whose columns share their step sizes.
        return cg(matvec, column, tol=rtol, atol=0.0, maxiter=stop.max_steps)[0]

    value = jax.lax.map(solve, y.T).T
    # JAX's solver tells neither; this is the true residual.
    residual = _relative(y - jax.lax.map(matvec, value.T).T, y)
    num_steps = jnp.full(y.shape[1], -1, jnp.int32)
    return Solution(value, residual, num_steps, residual <= stop.rtol)


def _solve(product: Product, loop: Loop, graph, y, alpha, *, stop) -> Solution:
    """Solves by a loop, differentiating (I - alpha S) F = Y whatever the loop does."""
    matvec: Callable[..., Array] = functools.partial(_minus_spread, product)
    found = implicit_solve(matvec, loop, graph, alpha, y, stop=stop)
    return Solution(*found, converged=found.residual <= stop.rtol)


def _minus_spread(product, graph, alpha, x):
    return x - alpha * product(graph, x)


def _degrees(degrees: Float[Array, " n"]) -> Float[Array, " n"]:
    """D with 1 for nodes without edges."""
    return jnp.where(degrees > 0, degrees, jnp.ones_like(degrees))


def _relative(rest, y):
    size = jnp.linalg.norm(y, axis=0)
    safe = jnp.where(size > 0, size, jnp.ones_like(size))
    return jax.lax.stop_gradient(jnp.linalg.norm(rest, axis=0) / safe)


SOLVERS: Mapping[SolverName, Solver] = MappingProxyType(
    {
        "cg": solve_cg,
        "cg-bcoo": solve_cg_bcoo,
        "iterate": solve_by_iteration,
        "unnormalized": solve_unnormalized,
        "unnormalized-jacobi": functools.partial(solve_unnormalized, precondition=True),
        "direct": solve_directly,
    }
)
