"""Diffusion solvers by name, and `diffuse`: F = (I - alpha S)^-1 Y."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, get_args

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_in_range, check_matrix, check_not_downcast
from diffjax.graph import check_graph
from diffjax.native import csr_cg, has_csr_kernel
from diffjax.types import Graph, Scalar, Solution

from ._cg import (
    IterationResult,
    SpectralInterval,
    StopCriterion,
    cg_loop,
    chebyshev_loop,
    column_norms,
    safe_divisor,
)
from ._implicit import IterativeMethod, LinearSystem, QueryColumns, implicit_solve
from ._matvec import (
    MatvecFunction,
    multiply,
    pad_to_mesh,
    sharded_multiply,
    trim_mesh_padding,
)
from ._reference import iteration_loop
from ._spectral import SpectralBasis, spectral_guess

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
ITERATIVE_SOLVERS = frozenset(get_args(SolverName)) - {"cg-bcoo", "direct"}

# A dense factorisation beyond this takes gigabytes and minutes.
MAX_DIRECT_NODES = 10_000


class InitialGuess(NamedTuple):
    """What is known before a solve.

    Attributes:
        basis: Leading eigenvectors of the graph.
        start: Scores to start from.
    """

    basis: SpectralBasis | None = None
    start: Float[Array, "n q"] | None = None


class Solver(Protocol):
    """Solves (I - alpha S) F = Y; one function per name of `SolverName`."""

    def __call__(
        self,
        product: MatvecFunction,
        graph: Graph,
        y: Float[Array, "n q"],
        alpha: Float[Array, ""],
        *,
        stop: StopCriterion,
        keep_best: bool,
        initial_guess: InitialGuess,
    ) -> Solution:
        """Returns F and its diagnostics, per column."""
        ...


def solve_cg(
    product: MatvecFunction,
    graph: Graph,
    y: Float[Array, "n q"],
    alpha: Float[Array, ""],
    *,
    stop: StopCriterion,
    keep_best: bool,
    initial_guess: InitialGuess,
) -> Solution:
    """Conjugate gradient on all columns at once, each with its own steps."""

    def step_by_step(graph, stop, columns):
        matvec = functools.partial(_apply_system, product, graph, columns.alpha)
        return cg_loop(
            matvec,
            columns.rhs,
            stop,
            keep_best=keep_best,
            reference_norm=columns.reference_norm,
        )

    def at_once(graph, stop, columns):
        matrix = graph.weights, graph.indices, graph.starts
        alpha, rhs, size = columns
        share = jnp.ones((1, rhs.shape[1]), rhs.dtype)
        if size is not None:
            # The kernel's residuals are relative to the right-hand side.
            share = column_norms(rhs) / safe_divisor(size)
            stop = stop._replace(rtol=stop.rtol / safe_divisor(share)[0, 0])
        found = csr_cg(*matrix, alpha, rhs, **stop._asdict(), keep_best=keep_best)
        return IterationResult(found.value, found.residual * share[0], found.num_steps)

    def loop(system, stop, columns):
        arguments = system.graph, stop, columns
        graph, rhs = system.graph, columns.rhs
        # The kernel has one tolerance for all columns.
        of_one = columns.reference_norm is None or rhs.shape[1] == 1
        has_one = has_csr_kernel(graph.weights, graph.indices, graph.starts, rhs)
        if product is not multiply or not rhs.size or not has_one or not of_one:
            return step_by_step(*arguments)
        # The same iteration with one call for all of its steps.
        return jax.lax.platform_dependent(*arguments, cpu=at_once, default=step_by_step)

    return _solve_implicitly(
        product, loop, graph, y, alpha, stop=stop, initial_guess=initial_guess
    )


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
    """The classic iteration of eq. 3."""

    def loop(system, stop, columns):
        return iteration_loop(
            lambda x: columns.alpha * product(system.graph, x),
            columns.rhs,
            stop,
            keep_best=keep_best,
            reference_norm=columns.reference_norm,
        )

    return _solve_implicitly(
        product, loop, graph, y, alpha, stop=stop, initial_guess=initial_guess
    )


def solve_chebyshev(
    product: MatvecFunction,
    graph: Graph,
    y: Float[Array, "n q"],
    alpha: Float[Array, ""],
    *,
    stop: StopCriterion,
    keep_best: bool,
    initial_guess: InitialGuess,
) -> Solution:
    """Chebyshev's iteration: eigenvalues of S are in [-1, 1], or below a basis."""
    if keep_best:
        raise ValueError(
            "keep_best must be False for solver 'chebyshev', which looks at residuals "
            "at the end only, got True."
        )

    def loop(system, stop, columns):
        matvec = functools.partial(_apply_system, product, system.graph, columns.alpha)
        most = 1 if system.basis is None else system.basis.values[-1].astype(y.dtype)
        interval = SpectralInterval(1 - columns.alpha * most, 1 + columns.alpha)
        return chebyshev_loop(
            matvec,
            columns.rhs,
            stop,
            interval=interval,
            reference_norm=columns.reference_norm,
        )

    return _solve_implicitly(
        product, loop, graph, y, alpha, stop=stop, initial_guess=initial_guess
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
    """Conjugate gradient on (D - alpha A) G = D^1/2 Y, F = D^1/2 G: eq. 18.

    A = D^1/2 S D^1/2 comes from S and the degrees that `normalize` kept; a node without
    edges has D = 1 and so F = Y. Residuals are measured as those of I - alpha S, so
    that `rtol` means the same as for every other solver.
    """

    def loop(system, stop, columns):
        degrees = _nonzero_degrees(system.graph.degrees)
        root = jnp.sqrt(degrees)[:, None]

        def matvec(g):
            spread = product(system.graph, root * g)
            return degrees[:, None] * g - columns.alpha * (root * spread)

        found = cg_loop(
            matvec,
            root * columns.rhs,
            stop,
            keep_best=keep_best,
            reference_norm=columns.reference_norm,
            diagonal=degrees,
            precondition=precondition,
        )
        return found._replace(value=root * found.value)

    # F depends on D through S only: the map to differentiate is that of eq. 17.
    return _solve_implicitly(
        product, loop, graph, y, alpha, stop=stop, initial_guess=initial_guess
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
    """The closed form of eq. 4 by a dense factorisation, for small n."""
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
    rest = y - jnp.matmul(system, value, precision=jax.lax.Precision.HIGHEST)
    residual = _true_relative_residual(rest, y)
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
    """JAX's own conjugate gradient on a coordinate matrix, query by query."""
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

    def solve(column):
        # As a batch of one system each: given a matrix, JAX's solver would take it
        # for one system whose columns share their step sizes.
        return cg(matvec, column, tol=rtol, atol=0.0, maxiter=stop.max_steps)[0]

    value = jax.lax.map(solve, y.T).T
    # JAX's solver tells neither; this is the true residual.
    residual = _true_relative_residual(y - jax.lax.map(matvec, value.T).T, y)
    num_steps = jnp.full(y.shape[1], -1, jnp.int32)
    return Solution(value, residual, num_steps, residual <= stop.rtol)


def _solve_implicitly(
    product,
    loop: IterativeMethod,
    graph,
    y,
    alpha,
    *,
    stop,
    initial_guess: InitialGuess,
) -> Solution:
    """Solves by a loop, differentiating (I - alpha S) F = Y whatever the loop does."""
    matvec: Callable[..., Array] = functools.partial(_apply_system, product)

    def from_basis(system, stop, columns):
        alpha, rhs, size = columns
        guess = spectral_guess(system.basis, alpha, rhs)
        rest = QueryColumns(
            alpha,
            rhs - matvec(system.graph, alpha, guess),
            column_norms(rhs) if size is None else size,
        )
        found = loop(system, stop, rest)
        return found._replace(value=guess + found.value)

    found = implicit_solve(
        matvec,
        loop if initial_guess.basis is None else from_basis,
        LinearSystem(graph, initial_guess.basis),
        alpha,
        y,
        stop=stop,
        start=initial_guess.start,
    )
    return Solution(*found, converged=found.residual <= stop.rtol)


def _apply_system(product, graph, alpha, x):
    return x - alpha * product(graph, x)


def _nonzero_degrees(degrees: Float[Array, " n"]) -> Float[Array, " n"]:
    """D with 1 for nodes without edges."""
    return jnp.where(degrees > 0, degrees, jnp.ones_like(degrees))


def _true_relative_residual(rest, y):
    size = jnp.linalg.norm(y, axis=0)
    safe = jnp.where(size > 0, size, jnp.ones_like(size))
    return jax.lax.stop_gradient(jnp.linalg.norm(rest, axis=0) / safe)


SOLVERS: Mapping[SolverName, Solver] = MappingProxyType(
    {
        "cg": solve_cg,
        "cg-bcoo": solve_cg_bcoo,
        "chebyshev": solve_chebyshev,
        "iterate": solve_classic_iteration,
        "unnormalized": solve_unnormalized,
        "unnormalized-jacobi": functools.partial(solve_unnormalized, precondition=True),
        "direct": solve_dense,
    }
)


_NO_GUESS = InitialGuess()


def diffuse(
    graph: Graph,
    y: Float[Array, "n q"],
    *,
    alpha: Scalar = 0.99,
    rtol: float = 1e-6,
    max_steps: int = 20,
    solver: SolverName = "cg",
    keep_best: bool = False,
    mesh: jax.sharding.Mesh | None = None,
    basis: SpectralBasis | None = None,
    start: Float[Array, "n q"] | None = None,
) -> Solution:
    r"""Diffuses queries over a graph: F = (I - alpha S)^-1 Y.

    The paper's f carries a factor (1 - alpha), which changes no rank and is left out.
    Differentiable in alpha, Y and the graph's weights, forwards and backwards, by a
    second solve. `vmap` over Y or alpha is the same solve with more columns.

    Args:
        graph: The normalised graph S, in either form; see `normalize`.
        y: Right-hand sides, one query per column; see `query_vectors`.
        alpha: How far scores spread, in [0, 1); may be traced and differentiated.
        rtol: Relative residual |y - (I - alpha S) f| / |y| at which a query stops. A
            Python number.
        max_steps: Most iterations, 20 in the paper. Use at least 50 to train through
            the solve. 0, with `basis` or `start`, tells how right those are. A Python
            number.
        solver: "cg", conjugate gradient on all queries at once, each with its own
            steps. "chebyshev", as fast where the worst is assumed, that eigenvalues of
            S reach from -1 to 1 (or to the last of `basis`): how many steps `rtol`
            takes is known at the start, and there are no sums over nodes before the
            end, where the residual is taken. "iterate", the classic iteration of eq. 3,
            which needs several times as many. "unnormalized", conjugate gradient on
            eq. 18, and "unnormalized-jacobi", the same preconditioned, whose iterates
            are those of "cg"; both need the degrees that `normalize` keeps. "direct",
            eq. 4 by a dense factorisation, up to 10,000 nodes. "cg-bcoo", JAX's own
            conjugate gradient on a coordinate matrix, one query after the other: the
            reference.
        keep_best: Give the iterate of smallest residual instead of the last one, as
            MATLAB's pcg does, the start among them; not for "cg-bcoo" and
            "chebyshev".
        mesh: Devices, also those of other processes, to share the work, each taking an
            equal part of the rows of a graph in the padded form and of `y`; an
            iteration sends each of them the n q numbers of its search directions. Not
            for "direct" and "cg-bcoo". None leaves everything where it is. Take
            gradients on a mesh inside `jit`: outside, what JAX keeps for backwards may
            be laid out as it has no name for.
        basis: Leading eigenvectors of S, from `leading_eigenvectors`: the part of the
            solution in their space is given at once, and what is left takes fewer
            steps. They need not be exact, nor of this very graph: residuals are those
            of this system. "chebyshev" trusts the last of them, and stops short of the
            tolerance, as the residual tells, where S has larger eigenvalues beside. Not
            for "direct" and "cg-bcoo".
        start: Scores to start from, one column per query, such as those of a query
            before it was refined, or for another alpha. Neither `rtol` nor the
            residual change their meaning. Has no derivative; not for "direct" and
            "cg-bcoo".

    Returns:
        Scores of all nodes, on a mesh row-sharded where n is a multiple of its devices,
        and, per query, residual, iterations and whether the tolerance was met. Trouble
        inside compiled code shows there.

    Raises:
        ValueError: If `alpha` or `rtol` is outside [0, 1), `max_steps` is below 1, or
            0, `solver` is unknown or can't do what is asked, sizes do not match, `y` is
            no matrix of floating point, or the graph is not normalised or has weights
            that are negative, not finite or not symmetric.

    References:
        Iscen et al., CVPR 2017, eq. 3, 4, 17 and 18, https://arxiv.org/abs/1611.05113.
        `basis`: Iscen, Avrithis, Tolias, Furon and Chum, Hybrid Diffusion:
        Spectral-Temporal Graph Filtering for Manifold Ranking, ACCV 2018,
        https://arxiv.org/abs/1807.08692; here one more product makes it robust.
    """
    check_in_range("alpha", alpha, low=0, high=1, closed_low=True)
    check_in_range("rtol", rtol, low=0, high=1, closed_low=True)
    check_matrix("y", y)
    check_not_downcast("y", y)
    least = 1 if basis is None and start is None else 0
    if max_steps < least:
        raise ValueError(f"max_steps must be at least {least}, got {max_steps}.")
    if solver not in SOLVERS:
        raise ValueError(
            f"solver must be one of {get_args(SolverName)}, got {solver!r}."
        )
    if y.shape[0] != graph.num_nodes:
        raise ValueError(
            f"y must have one row per node, {graph.num_nodes}, got {y.shape[0]}."
        )
    if solver not in ITERATIVE_SOLVERS:
        for name, given in (("mesh", mesh), ("basis", basis), ("start", start)):
            if given is not None:
                got = given if name == "mesh" else "one"
                raise ValueError(
                    f"{name} must be None for solver {solver!r}, got {got}."
                )
    if start is not None and (start.shape, start.dtype) != (y.shape, y.dtype):
        raise ValueError(
            f"start must be like y, {y.dtype} {list(y.shape)}, got {start.dtype} "
            f"{list(start.shape)}."
        )
    if basis is not None and basis.vectors.shape[0] != graph.num_nodes:
        raise ValueError(
            f"basis must have one row per node, {graph.num_nodes}, got "
            f"{basis.vectors.shape[0]}."
        )
    if graph.degrees is None:
        raise ValueError(
            "graph must be normalised, got one without degrees: give it to normalize "
            "first; a ready-made S gets them by ._replace(degrees=jnp.ones(n))."
        )
    check_graph("graph", graph)
    return diffuse_until(
        graph,
        y,
        alpha,
        StopCriterion(rtol, max_steps),
        solver=solver,
        keep_best=keep_best,
        mesh=mesh,
        initial_guess=InitialGuess(basis, start),
    )


@functools.partial(jax.jit, static_argnames=("solver", "keep_best", "mesh"))
def diffuse_until(
    graph: Graph,
    y: Float[Array, "n q"],
    alpha: Scalar | Int[Array, ""],
    stop: StopCriterion,
    *,
    solver: SolverName = "cg",
    keep_best: bool = False,
    mesh: jax.sharding.Mesh | None = None,
    initial_guess: InitialGuess = _NO_GUESS,
) -> Solution:
    """As `diffuse`, of arguments that were checked, and `stop` may be traced.

    Args:
        graph: The normalised graph.
        y: Right-hand sides.
        alpha: How far scores spread.
        stop: When a query is done.
        solver: See `diffuse`.
        keep_best: See `diffuse`.
        mesh: See `diffuse`.
        initial_guess: The basis and the start.

    Returns:
        What `diffuse` gives.
    """
    n = graph.num_nodes
    product = multiply
    if mesh is not None:
        product = sharded_multiply(mesh)
        basis, start = initial_guess
        vectors = None if basis is None else basis.vectors
        graph, y, start, vectors = pad_to_mesh(graph, y, start, vectors, mesh)
        initial_guess = InitialGuess(basis and basis._replace(vectors=vectors), start)
    found = SOLVERS[solver](
        product,
        graph,
        y,
        jnp.asarray(alpha, y.dtype),
        stop=stop,
        keep_best=keep_best,
        initial_guess=initial_guess,
    )
    return found if mesh is None else trim_mesh_padding(found, n, mesh)
