"""`diffuse`, F = (I - alpha S)^-1 Y, and the table of its solvers."""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_in_range, check_matrix, check_not_downcast
from diffjax._choices import SolverName
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
from ._implicit import InitialGuess, apply_system, solve_implicitly
from ._matvec import (
    MatvecFunction,
    multiply,
    pad_to_mesh,
    sharded_multiply,
    trim_mesh_padding,
)
from ._reference import (
    solve_cg_bcoo,
    solve_classic_iteration,
    solve_dense,
    solve_unnormalized,
)
from ._spectral import SpectralBasis

# Solvers that iterate in this package's code: they take any start and any mesh.
ITERATIVE_SOLVERS = frozenset(get_args(SolverName)) - {"cg-bcoo", "direct"}
_NO_GUESS = InitialGuess()


class Solver(Protocol):
    """Solver of (I - alpha S) F = Y; one function per name of `SolverName`."""

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
    """Solves by conjugate gradient on all columns at once, each with its own steps."""

    def solve_by_jax(graph, stop, columns):
        matvec = functools.partial(apply_system, product, graph, columns.alpha)
        return cg_loop(
            matvec,
            columns.rhs,
            stop,
            keep_best=keep_best,
            reference_norm=columns.reference_norm,
        )

    def solve_by_kernel(graph, stop, columns):
        matrix = graph.weights, graph.indices, graph.starts
        alpha, rhs, reference_norm = columns
        norm_ratio = jnp.ones((1, rhs.shape[1]), rhs.dtype)
        if reference_norm is not None:
            # The kernel's residuals are relative to the right-hand side.
            norm_ratio = column_norms(rhs) / safe_divisor(reference_norm)
            stop = stop._replace(rtol=stop.rtol / safe_divisor(norm_ratio)[0, 0])
        result = csr_cg(*matrix, alpha, rhs, **stop._asdict(), keep_best=keep_best)
        return IterationResult(
            result.value, result.residual * norm_ratio[0], result.num_steps
        )

    def run_cg(system, stop, columns):
        arguments = system.graph, stop, columns
        graph, rhs = system.graph, columns.rhs
        # The kernel has one tolerance for all columns.
        one_tolerance = columns.reference_norm is None or rhs.shape[1] == 1
        has_kernel = has_csr_kernel(graph.weights, graph.indices, graph.starts, rhs)
        if product is not multiply or not (rhs.size and has_kernel and one_tolerance):
            return solve_by_jax(*arguments)
        # The same iteration with one call for all of its steps.
        return jax.lax.platform_dependent(
            *arguments, cpu=solve_by_kernel, default=solve_by_jax
        )

    return solve_implicitly(
        product, run_cg, graph, y, alpha, stop=stop, initial_guess=initial_guess
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
    """Solves by Chebyshev iteration, for eigenvalues of S in [-1, 1].

    With a basis the upper end is its last eigenvalue instead of 1.
    """
    if keep_best:
        raise ValueError(
            "keep_best must be False for solver 'chebyshev', which looks at residuals "
            "at the end only, got True."
        )

    def run_chebyshev(system, stop, columns):
        matvec = functools.partial(apply_system, product, system.graph, columns.alpha)
        largest = 1 if system.basis is None else system.basis.values[-1].astype(y.dtype)
        interval = SpectralInterval(1 - columns.alpha * largest, 1 + columns.alpha)
        return chebyshev_loop(
            matvec,
            columns.rhs,
            stop,
            interval=interval,
            reference_norm=columns.reference_norm,
        )

    return solve_implicitly(
        product, run_chebyshev, graph, y, alpha, stop=stop, initial_guess=initial_guess
    )


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

    The paper's factor (1 - alpha) is left out, as it changes no rank. Differentiable in
    alpha, Y and the graph's weights, in forward and reverse mode, by a second solve.
    `vmap` over Y or alpha is the same solve with more columns.

    Args:
        graph: The normalised graph S, in either form; see `normalize`.
        y: Right-hand sides, one query per column; see `query_vectors`.
        alpha: How far scores spread, in [0, 1); may be traced and differentiated.
        rtol: Relative residual |y - (I - alpha S) f| / |y| at which a query stops. A
            Python number.
        max_steps: Largest number of iterations, 20 in the paper. Use at least 50 to
            train through the solve. 0 is allowed with `basis` or `start` and measures
            their residual. A Python number.
        solver: Name of the method.
            "cg": conjugate gradient on all queries at once, each with its own steps.
            "chebyshev": Chebyshev iteration for eigenvalues of S in [-1, 1] (up to the
            last one of `basis`), as fast as "cg" if they fill that interval. The number
            of steps for `rtol` is known at the start, and sums over nodes are taken
            only at the end, for the residual.
            "iterate": the classic iteration of eq. 3, which needs several times the
            steps.
            "unnormalized": conjugate gradient on eq. 18; "unnormalized-jacobi": the
            same preconditioned, with the iterates of "cg". Both need the degrees that
            `normalize` keeps.
            "direct": eq. 4 by a dense factorisation, up to 10,000 nodes.
            "cg-bcoo": JAX's own conjugate gradient on a coordinate matrix, one query
            after the other, as a reference.
        keep_best: Whether to return the iterate of smallest residual instead of the
            last one, as MATLAB's pcg does, the start among them; not for "cg-bcoo" and
            "chebyshev".
        mesh: Devices, also of other processes, that share the work; each takes an equal
            share of the rows of a padded graph and of `y`. An iteration sends the n q
            numbers of its search directions to every device. Not for "direct" and
            "cg-bcoo". None leaves all arrays where they are. Take gradients on a mesh
            inside `jit`: outside of it, JAX may lay out saved arrays in a way that has
            no name.
        basis: Leading eigenvectors of S, from `leading_eigenvectors`: the part of the
            solution in their space is computed directly, and the remainder takes fewer
            steps. They may be inexact, or of a similar graph: residuals are those of
            this system. "chebyshev" trusts the last eigenvalue, and stops short of the
            tolerance if S has larger ones outside the basis, as the residual shows. Not
            for "direct" and "cg-bcoo".
        start: Scores to start from, one column per query, such as the scores of the
            query before it was refined, or for another alpha. `rtol` and the residual
            keep their meaning. Has no derivative; not for "direct" and "cg-bcoo".

    Returns:
        Scores of all nodes, on a mesh row-sharded if n is a multiple of its devices,
        and residual, iterations and convergence of each query. Numerical trouble inside
        compiled code shows in these diagnostics.

    Raises:
        ValueError: If `alpha` or `rtol` is outside [0, 1), `max_steps` is below 1 (0
            with `basis` or `start`), `solver` is unknown or does not support an option,
            sizes do not match, `y` is not a floating-point matrix, or the graph is not
            normalised or has weights that are negative, not finite or not symmetric.

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
    min_steps = 1 if basis is None and start is None else 0
    if max_steps < min_steps:
        raise ValueError(f"max_steps must be at least {min_steps}, got {max_steps}.")
    if solver not in SOLVERS:
        raise ValueError(
            f"solver must be one of {get_args(SolverName)}, got {solver!r}."
        )
    if y.shape[0] != graph.num_nodes:
        raise ValueError(
            f"y must have one row per node, {graph.num_nodes}, got {y.shape[0]}."
        )
    if solver not in ITERATIVE_SOLVERS:
        for name, value in (("mesh", mesh), ("basis", basis), ("start", start)):
            if value is not None:
                received = value if name == "mesh" else "one"
                raise ValueError(
                    f"{name} must be None for solver {solver!r}, got {received}."
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
    """Runs `diffuse` on checked arguments; `stop` may be traced.

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
        The result of `diffuse`.
    """
    n = graph.num_nodes
    product = multiply
    if mesh is not None:
        product = sharded_multiply(mesh)
        basis, start = initial_guess
        vectors = None if basis is None else basis.vectors
        graph, y, start, vectors = pad_to_mesh(graph, y, start, vectors, mesh)
        initial_guess = InitialGuess(basis and basis._replace(vectors=vectors), start)
    solution = SOLVERS[solver](
        product,
        graph,
        y,
        jnp.asarray(alpha, y.dtype),
        stop=stop,
        keep_best=keep_best,
        initial_guess=initial_guess,
    )
    return solution if mesh is None else trim_mesh_padding(solution, n, mesh)
