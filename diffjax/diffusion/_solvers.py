"""The solvers by name: each gives the same F = (I - alpha S)^-1 Y."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, get_args

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from diffjax.native import csr_cg, has_kernel
from diffjax.types import Graph, Solution

from ._cg import cg_loop
from ._chebyshev import Interval, chebyshev_loop
from ._implicit import Columns, Loop, System, implicit_solve
from ._iteration import iteration_loop
from ._loop import LoopResult, Stop, column_norms, or_one
from ._operator import Product, multiply
from ._spectral import Basis, spectral_guess

SolverName = Literal[
    "cg",
    "cg-bcoo",
    "chebyshev",
    "iterate",
    "unnormalized",
    "unnormalized-jacobi",
    "direct",
]
# Those that iterate in code of ours, and so may start anywhere and on any mesh.
OWN_SOLVERS = frozenset(get_args(SolverName)) - {"cg-bcoo", "direct"}

# A dense factorisation beyond this takes gigabytes and minutes.
MOST_DIRECT_NODES = 10_000


class Known(NamedTuple):
    """What is known before a solve.

    Attributes:
        basis: Leading eigenvectors of the graph.
        start: Scores to start from.
    """

    basis: Basis | None = None
    start: Float[Array, "n q"] | None = None


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
        known: Known,
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
    known: Known,
) -> Solution:
    """Conjugate gradient on all columns at once, each with its own steps."""

    def step_by_step(graph, stop, columns):
        matvec = functools.partial(_minus_spread, product, graph, columns.alpha)
        return cg_loop(
            matvec, columns.rhs, stop, keep_best=keep_best, size=columns.size
        )

    def at_once(graph, stop, columns):
        matrix = graph.weights, graph.indices, graph.starts
        alpha, rhs, size = columns
        share = jnp.ones((1, rhs.shape[1]), rhs.dtype)
        if size is not None:
            # The kernel's residuals are relative to the right-hand side.
            share = column_norms(rhs) / or_one(size)
            stop = stop._replace(rtol=stop.rtol / or_one(share)[0, 0])
        found = csr_cg(*matrix, alpha, rhs, **stop._asdict(), keep_best=keep_best)
        return LoopResult(found.value, found.residual * share[0], found.num_steps)

    def loop(system, stop, columns):
        arguments = system.graph, stop, columns
        graph, rhs = system.graph, columns.rhs
        # The kernel has one tolerance for all columns.
        of_one = columns.size is None or rhs.shape[1] == 1
        has_one = has_kernel(graph.weights, graph.indices, graph.starts, rhs)
        if product is not multiply or not rhs.size or not has_one or not of_one:
            return step_by_step(*arguments)
        # The same iteration with one call for all of its steps.
        return jax.lax.platform_dependent(*arguments, cpu=at_once, default=step_by_step)

    return _solve(product, loop, graph, y, alpha, stop=stop, known=known)


def solve_by_iteration(
    product: Product,
    graph: Graph,
    y: Float[Array, "n q"],
    alpha: Float[Array, ""],
    *,
    stop: Stop,
    keep_best: bool,
    known: Known,
) -> Solution:
    """The classic iteration of eq. 3."""

    def loop(system, stop, columns):
        return iteration_loop(
            lambda x: columns.alpha * product(system.graph, x),
            columns.rhs,
            stop,
            keep_best=keep_best,
            size=columns.size,
        )

    return _solve(product, loop, graph, y, alpha, stop=stop, known=known)


def solve_by_chebyshev(
    product: Product,
    graph: Graph,
    y: Float[Array, "n q"],
    alpha: Float[Array, ""],
    *,
    stop: Stop,
    keep_best: bool,
    known: Known,
) -> Solution:
    """Chebyshev's iteration: eigenvalues of S are in [-1, 1], or below a basis."""
    if keep_best:
        raise ValueError(
            "keep_best must be False for solver 'chebyshev', which looks at residuals "
            "at the end only, got True."
        )

    def loop(system, stop, columns):
        matvec = functools.partial(_minus_spread, product, system.graph, columns.alpha)
        most = 1 if system.basis is None else system.basis.values[-1].astype(y.dtype)
        within = Interval(1 - columns.alpha * most, 1 + columns.alpha)
        return chebyshev_loop(
            matvec, columns.rhs, stop, within=within, size=columns.size
        )

    return _solve(product, loop, graph, y, alpha, stop=stop, known=known)


def solve_unnormalized(
    product: Product,
    graph: Graph,
    y: Float[Array, "n q"],
    alpha: Float[Array, ""],
    *,
    stop: Stop,
    keep_best: bool,
    known: Known,
    precondition: bool = False,
) -> Solution:
    """Conjugate gradient on (D - alpha A) G = D^1/2 Y, F = D^1/2 G: eq. 18.

    A = D^1/2 S D^1/2 comes from S and the degrees that `normalize` kept; a node without
    edges has D = 1 and so F = Y. Residuals are measured as those of I - alpha S, so
    that `rtol` means the same as for every other solver.
    """

    def loop(system, stop, columns):
        degrees = _degrees(system.graph.degrees)
        root = jnp.sqrt(degrees)[:, None]

        def matvec(g):
            spread = product(system.graph, root * g)
            return degrees[:, None] * g - columns.alpha * (root * spread)

        found = cg_loop(
            matvec,
            root * columns.rhs,
            stop,
            keep_best=keep_best,
            size=columns.size,
            diagonal=degrees,
            precondition=precondition,
        )
        return found._replace(value=root * found.value)

    # F depends on D through S only: the map to differentiate is that of eq. 17.
    return _solve(product, loop, graph, y, alpha, stop=stop, known=known)


def solve_directly(
    product: Product,
    graph: Graph,
    y: Float[Array, "n q"],
    alpha: Float[Array, ""],
    *,
    stop: Stop,
    keep_best: bool,
    known: Known,
) -> Solution:
    """The closed form of eq. 4 by a dense factorisation, for small n."""
    del product, keep_best, known
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
    known: Known,
) -> Solution:
    """JAX's own conjugate gradient on a coordinate matrix, query by query."""
    del product, known
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


def _solve(product, loop: Loop, graph, y, alpha, *, stop, known: Known) -> Solution:
    """Solves by a loop, differentiating (I - alpha S) F = Y whatever the loop does."""
    matvec: Callable[..., Array] = functools.partial(_minus_spread, product)

    def from_basis(system, stop, columns):
        alpha, rhs, size = columns
        guess = spectral_guess(system.basis, alpha, rhs)
        rest = Columns(
            alpha,
            rhs - matvec(system.graph, alpha, guess),
            column_norms(rhs) if size is None else size,
        )
        found = loop(system, stop, rest)
        return found._replace(value=guess + found.value)

    found = implicit_solve(
        matvec,
        loop if known.basis is None else from_basis,
        System(graph, known.basis),
        alpha,
        y,
        stop=stop,
        start=known.start,
    )
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
        "chebyshev": solve_by_chebyshev,
        "iterate": solve_by_iteration,
        "unnormalized": solve_unnormalized,
        "unnormalized-jacobi": functools.partial(solve_unnormalized, precondition=True),
        "direct": solve_directly,
    }
)
