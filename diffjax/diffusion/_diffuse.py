"""Diffusion: the ranking score of every node for given queries."""

import functools
from typing import get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_in_range, check_matrix, check_not_halved
from diffjax.graph import check_graph
from diffjax.types import Graph, Scalar, Solution

from ._loop import Stop
from ._operator import multiply
from ._sharded import cut_back, fill_up, sharded_product
from ._solvers import OWN_SOLVERS, SOLVERS, Known, SolverName
from ._spectral import Basis

_NOTHING = Known()


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
    basis: Basis | None = None,
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
    check_not_halved("y", y)
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
    if solver not in OWN_SOLVERS:
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
        Stop(rtol, max_steps),
        solver=solver,
        keep_best=keep_best,
        mesh=mesh,
        known=Known(basis, start),
    )


@functools.partial(jax.jit, static_argnames=("solver", "keep_best", "mesh"))
def diffuse_until(
    graph: Graph,
    y: Float[Array, "n q"],
    alpha: Scalar | Int[Array, ""],
    stop: Stop,
    *,
    solver: SolverName = "cg",
    keep_best: bool = False,
    mesh: jax.sharding.Mesh | None = None,
    known: Known = _NOTHING,
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
        known: The basis and the start.

    Returns:
        What `diffuse` gives.
    """
    n = graph.num_nodes
    product = multiply
    if mesh is not None:
        product = sharded_product(mesh)
        basis, start = known
        vectors = None if basis is None else basis.vectors
        graph, y, start, vectors = fill_up(graph, y, start, vectors, mesh)
        known = Known(basis and basis._replace(vectors=vectors), start)
    found = SOLVERS[solver](
        product,
        graph,
        y,
        jnp.asarray(alpha, y.dtype),
        stop=stop,
        keep_best=keep_best,
        known=known,
    )
    return found if mesh is None else cut_back(found, n, mesh)
