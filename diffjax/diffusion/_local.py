"""Local diffusion: its cost does not depend on the number of nodes of the graph."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from diffjax._arguments import check_in_range, is_concrete
from diffjax._array_cache import cache_by_identity
from diffjax.graph import check_graph, max_row_entries
from diffjax.native import csr_local, has_csr_kernel
from diffjax.types import Graph, Scalar

from ._cg import StopCriterion, safe_divisor
from ._local_jax import LocalResult, induced_subgraph, scatter_to_nodes, solve_local
from ._query import check_seeds
from ._solve import diffuse_until

# Largest error of the roots of the degrees as an eigenvector, relative to the largest
# root: single precision and rows of a thousand entries.
_EIGENVECTOR_TOLERANCE = 1e-3
# Queries solved side by side without a kernel: each holds its rows of the graph.
_QUERIES_PER_BATCH = 8


class LocalSolution(NamedTuple):
    """Solution of a local diffusion, one row or entry per query.

    Attributes:
        nodes: Reached nodes in ascending order, padded with -1.
        values: Their scores, padded with 0.
        background: Score of every other node that is connected with the query, divided
            by the root of its degree; see `densify`.
        unreached_mass: Share of the exact scores, 0 to 1, that the reached nodes do not
            account for and that the background spreads, each score weighted by the root
            of its node's degree. It measures how local a query is. The unreached mass
            is spread thinly: even at one half the first hundred nodes may be right. Has
            no derivative.
        residual: Relative residual |y - (I - alpha S) f| / |y| in the whole graph,
            before the background is added. Has no derivative.
        num_steps: Iterations spent, including those between expansions.
        converged: Whether `residual` reached the tolerance, which is rare unless all
            nodes with scores are reached.
    """

    nodes: Int[Array, "q l"]
    values: Float[Array, "q l"]
    background: Float[Array, " q"]
    unreached_mass: Float[Array, " q"]
    residual: Float[Array, " q"]
    num_steps: Int[Array, " q"]
    converged: Bool[Array, " q"]


class _StaticSizes(NamedTuple):
    """Static sizes of a program: most nodes, and most entries of a row."""

    size: int
    width: int


class _SparseRightHandSides(NamedTuple):
    """Right-hand sides [q, s] as nodes and values."""

    nodes: Array
    values: Array


class _StepLimits(NamedTuple):
    """Iterations between expansions, and the stopping rule of the last solve."""

    between_expansions: int | Array
    stop: StopCriterion


def diffuse_local(
    graph: Graph,
    nodes: Int[Array | np.ndarray, "q s"],
    values: Float[Array | np.ndarray, "q s"],
    *,
    size: int = 4000,
    alpha: Scalar = 0.99,
    rtol: float = 1e-6,
    max_steps: int = 10,
    steps_per_expansion: int = 3,
    max_degree: int | None = None,
    degree_sums: Float[Array | np.ndarray, " q"] | None = None,
) -> LocalSolution:
    r"""Diffuses queries over the nodes that they reach; the cost does not grow with n.

    The set L of reached nodes starts as the s nodes where y is not 0. In turns,
    `steps_per_expansion` iterations of conjugate gradient solve
    (I - alpha S_LL) f_L = y_L, and the outside nodes of largest residual,
    (alpha S f)_j, join L until it has 2 s, 4 s, ... or `size` nodes, or all nodes that
    have a residual. Then `max_steps` more iterations continue from that solution.

    S_LL is cut out of S as it is, so scores that flow out of L are lost. The lost mass
    is known, and so is where most of it goes: the roots v of the degrees, on the
    components of the graph in which the query starts, are a leading eigenvector,
    S v = v, so the exact scores have v' f = v' y / (1 - alpha). The difference,
    c = (v' y / (1 - alpha) - v_L' f_L) / v' v times v, is the projection of the error
    on v, and is added:

        values = f_L + c v_L, background = c,
        unreached_mass = 1 - (1 - alpha) v_L' f_L / v' y.

    Differentiable in alpha, the values and the graph's weights, by a second solve on
    the reached nodes; the choice of these nodes has no derivative.

    Args:
        graph: The normalised graph S, in either form, all of it as `normalize` returns
            it; the compressed form is faster. Its components are computed once. A
            traced graph is taken for connected, and all its degrees are summed.
        nodes: Nodes where the right-hand side of each query is not 0, such as its
            nearest neighbours, padded with -1. A repeated node adds up.
        values: Right-hand sides at these nodes, at least 0, such as similarities after
            `kernel`. Converted to the precision of the graph's weights.
        size: Largest number of reached nodes, at least s. Memory and time of a query
            grow with the entries of their rows; each thread keeps that memory, and 4
            bytes for each node of the graph. A Python number.
        alpha: How far scores spread, in [0, 1); may be traced and differentiated.
        rtol: Relative residual on the reached nodes at which a solve stops. A Python
            number.
        max_steps: Iterations after the last expansion. Use at least 50 to train through
            the solve: derivatives are solved from 0 with the same number. A Python
            number.
        steps_per_expansion: Iterations before each expansion. A Python number.
        max_degree: Largest number of entries of any row of a compressed graph, a Python
            number; needed where the graph is traced. A query that then meets a wider
            row gets NaN in all numbers.
        degree_sums: Sums of the degrees on the components in which each query starts,
            v' v above, if they are known: then nothing that grows with n is read. None
            to compute them.

    Returns:
        Nodes, their scores and diagnostics per query; l is `size`, but at most the
        larger of n and s.

    Raises:
        ValueError: If `alpha` or `rtol` is outside [0, 1), a count is below 1, `size`
            below s, sizes do not match, a node is not in the graph, a value is below 0,
            the graph is not normalised, was truncated after normalisation, or has
            weights that are negative, not finite or not symmetric, or `max_degree` is
            missing under jit, or too small for a concrete graph.

    References:
        The system of Iscen et al., CVPR 2017, eq. 4, https://arxiv.org/abs/1611.05113;
        expansion by residual after Andersen, Chung and Lang, Local graph partitioning
        using PageRank vectors, FOCS 2006, in rounds and with conjugate gradient for
        their push.
    """
    check_in_range("alpha", alpha, low=0, high=1, closed_low=True)
    check_in_range("rtol", rtol, low=0, high=1, closed_low=True)
    for name, value in (
        ("max_steps", max_steps),
        ("steps_per_expansion", steps_per_expansion),
    ):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    check_seeds(nodes, values, num_nodes=graph.num_nodes)
    _check_values(values)
    num_seeds, n = nodes.shape[1], graph.num_nodes
    if num_seeds < 1:
        raise ValueError(
            f"nodes must have at least one column, got {list(nodes.shape)}."
        )
    if size < num_seeds:
        raise ValueError(
            f"size must be at least the columns of nodes, {num_seeds}, got {size}."
        )
    if degree_sums is not None and degree_sums.shape != nodes.shape[:1]:
        raise ValueError(
            f"degree_sums must have one entry per query, {nodes.shape[0]}, got "
            f"{list(degree_sums.shape)}."
        )
    if degree_sums is not None and is_concrete(degree_sums):
        host = np.asarray(degree_sums)
        if not (np.isfinite(host) & (host >= 0)).all():
            raise ValueError(f"degree_sums must be finite and at least 0, got {host}.")
    _check_normalised(graph)
    check_graph("graph", graph)
    shape = _StaticSizes(
        min(size, max(n, num_seeds)), max(max_row_entries(graph, max_degree), 1)
    )
    steps = _StepLimits(steps_per_expansion, StopCriterion(rtol, max_steps))
    components = _components_of(graph) if degree_sums is None else None
    return _diffuse_local(
        *(graph, (nodes, values), alpha, steps, components),
        degree_sums=degree_sums,
        shape=shape,
    )


def densify(solution: LocalSolution, graph: Graph) -> Float[Array, "n q"]:
    """Expands a local solution to scores of all nodes, in the form of `diffuse`.

    Args:
        solution: Solution of `diffuse_local`.
        graph: The graph of that solution.

    Returns:
        The scores of the reached nodes, and the background at all other nodes that are
        connected with the query; at all others, where the graph is traced.

    Raises:
        ValueError: If the graph is not normalised, or was truncated afterwards.
    """
    _check_normalised(graph)
    return _densify(solution, graph, _components_of(graph))


@jax.jit
def _densify(solution, graph, components):
    n, q = graph.num_nodes, solution.nodes.shape[0]
    is_node, column = solution.nodes >= 0, jnp.arange(q)[:, None]
    rows = jnp.where(is_node, solution.nodes, n)
    labels = components.labels[jnp.maximum(solution.nodes, 0)]
    # Whether a query touches a component, by the label of the component.
    is_touched = (
        jnp.zeros((n, q), bool)
        .at[jnp.where(is_node, labels, n), column]
        .set(is_node, mode="drop")
    )
    scores = _sqrt_degrees(graph.degrees)[:, None] * solution.background[None, :]
    scores = scores * is_touched[components.labels].astype(scores.dtype)
    return scores.at[rows, column].set(solution.values, mode="drop")


def _check_normalised(graph) -> None:
    if graph.degrees is None:
        raise ValueError(
            "graph must be normalised, got one without degrees: give it to normalize."
        )


def _check_values(values) -> None:
    if is_concrete(values) and values.size and (low := np.asarray(values).min()) < 0:
        raise ValueError(f"values must be at least 0, got {low}.")


class _Components(NamedTuple):
    """Component of every node, and the sum of the degrees in it."""

    labels: Array
    degree_sums: Array


def _components_of(graph: Graph) -> _Components:
    if all(is_concrete(leaf) for leaf in jax.tree.leaves(graph)):
        return _cached_components(graph)
    degrees = jnp.asarray(graph.degrees)
    labels = jnp.zeros(graph.num_nodes, jnp.int32)
    return _Components(labels, jnp.full_like(degrees, jnp.sum(degrees)))


def _label_components(graph: Graph) -> _Components:
    """Labels components on the host, and checks the leading eigenvector of S.

    Raises:
        ValueError: If the roots of the degrees are not an eigenvector.
    """
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415  # Slow.

    matrix, degrees = graph.to_scipy(), np.asarray(graph.degrees)
    root = np.sqrt(degrees.astype(np.float64))
    largest_error = np.abs(matrix @ root - root).max(initial=0)
    if not largest_error <= _EIGENVECTOR_TOLERANCE * root.max(initial=0):
        raise ValueError(
            "graph must be whole as normalize returns it, got one whose degrees are "
            "not those of its edges: truncate it before it is normalised."
        )
    _, labels = connected_components(matrix, directed=False)
    sums = np.bincount(labels, weights=degrees, minlength=1)
    # A cached array must not belong to a program that is being traced.
    with jax.ensure_compile_time_eval():
        return _Components(
            jnp.asarray(labels, jnp.int32), jnp.asarray(sums[labels], degrees.dtype)
        )


_cached_components = cache_by_identity(_label_components)


@functools.partial(jax.jit, static_argnames="shape")
def _diffuse_local(graph, seeds, alpha, steps, components, *, degree_sums, shape):
    dtype, n = graph.weights.dtype, graph.num_nodes
    seed_nodes, seed_values = seeds
    seed_nodes = jnp.asarray(seed_nodes, jnp.int32)
    is_node = (seed_nodes >= 0) & (seed_nodes < n)
    seed_nodes = jnp.where(is_node, seed_nodes, -1)
    seed_values = jnp.asarray(seed_values, dtype)
    seeds = _SparseRightHandSides(
        seed_nodes, jnp.where(is_node, seed_values, jnp.zeros_like(seed_values))
    )
    alpha = jnp.asarray(alpha, dtype)
    result = _solve(shape, graph, seeds, alpha, steps)
    fits = _rows_fit(graph, result.nodes, shape.width)
    result = result._replace(
        values=jnp.where(fits[:, None], result.values, jnp.nan),
        residual=jnp.where(fits, result.residual, jnp.nan),
    )

    def eigenvector_at(nodes):
        root = _sqrt_degrees(graph.degrees[jnp.maximum(nodes, 0)])
        return root * (nodes >= 0).astype(dtype)

    v = eigenvector_at(result.nodes)
    if degree_sums is None:
        degree_sums = _component_degree_sums(seeds.nodes, components, n)
    v_dot_v = jnp.asarray(degree_sums, dtype)
    # (1 - alpha) times the mass v' f of the exact scores, and what L lacks of it.
    total_mass = jnp.sum(eigenvector_at(seeds.nodes) * seeds.values, axis=1)
    missing_mass = total_mass - (1 - alpha) * jnp.sum(v * result.values, axis=1)
    background = missing_mass / ((1 - alpha) * safe_divisor(v_dot_v))
    unreached_mass = missing_mass / safe_divisor(total_mass)
    residual = jax.lax.stop_gradient(result.residual)
    return LocalSolution(
        result.nodes,
        result.values + background[:, None] * v,
        background,
        # Rounding may make it negative.
        jax.lax.stop_gradient(jnp.maximum(unreached_mass, 0)),
        residual,
        result.num_steps,
        residual <= steps.stop.rtol,
    )


def _sqrt_degrees(degrees):
    # The root of 0 has no finite derivative.
    return jnp.sqrt(safe_divisor(degrees)) * (degrees > 0).astype(degrees.dtype)


def _rows_fit(graph, nodes, width):
    """Whether all rows of a query have at most `width` entries: [q]."""
    if graph.starts is None:
        return jnp.ones(nodes.shape[0], bool)
    row = jnp.maximum(nodes, 0)
    entries = graph.starts[row + 1] - graph.starts[row]
    return jnp.all((nodes < 0) | (entries <= width), axis=1)


def _component_degree_sums(nodes, components, n):
    """Sums the degrees in the components of each query's nodes: [q]."""
    labels = jnp.where(nodes >= 0, components.labels[jnp.maximum(nodes, 0)], n)
    order = jnp.argsort(labels, axis=1)
    labels = jnp.take_along_axis(labels, order, axis=1)
    nodes = jnp.take_along_axis(nodes, order, axis=1)
    is_first = jnp.diff(labels, axis=1, prepend=-1) > 0
    degree_sums = components.degree_sums[jnp.maximum(nodes, 0)]
    return jnp.sum(degree_sums, axis=1, where=is_first & (labels < n))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _solve(shape, graph, seeds, alpha, steps) -> LocalResult:
    """Solves every query, by the native kernel if there is one."""
    arguments = graph, seeds, alpha, steps

    def solve_by_kernel(graph, seeds, alpha, steps):
        result = csr_local(
            graph.weights,
            graph.indices,
            graph.starts,
            seeds.nodes,
            seeds.values,
            alpha=jnp.broadcast_to(alpha, seeds.nodes.shape[:1]),
            size=shape.size,
            steps_per_expansion=steps.between_expansions,
            **steps.stop._asdict(),
        )
        return LocalResult(*result)

    def solve_by_jax(graph, seeds, alpha, steps):
        def solve_query(query_seeds):
            nodes, values = query_seeds
            return solve_local(
                *(graph, nodes, values, alpha),
                steps_per_expansion=steps.between_expansions,
                stop=steps.stop,
                **shape._asdict(),
            )

        return jax.lax.map(solve_query, seeds, batch_size=_QUERIES_PER_BATCH)

    matrix = graph.weights, graph.indices, graph.starts
    if not seeds.nodes.size or not has_csr_kernel(*matrix, seeds.values):
        return solve_by_jax(*arguments)
    return jax.lax.platform_dependent(
        *arguments, cpu=solve_by_kernel, default=solve_by_jax
    )


@_solve.defjvp
def _(shape, primals, tangents):
    graph, seeds, alpha, steps = primals
    d_graph, d_seeds, d_alpha, _ = tangents
    result = _solve(shape, graph, seeds, alpha, steps)
    d_graph = graph._replace(weights=d_graph.weights)

    def scores_tangent(query):
        local_nodes, scores, seed_nodes, d_seed_values = query
        local = induced_subgraph(graph, local_nodes, width=shape.width)
        d_local = induced_subgraph(d_graph, local_nodes, width=shape.width)
        # (I - alpha S) df = dy + d(alpha S) f.
        d_alpha_s = d_alpha * local.weights + alpha * d_local.weights
        d_alpha_s_f = jnp.sum(d_alpha_s * scores[jnp.maximum(local.indices, 0)], axis=1)
        n = graph.num_nodes
        dy = scatter_to_nodes(
            jnp.where(local_nodes >= 0, local_nodes, n), seed_nodes, d_seed_values, n
        )
        rhs = (dy + d_alpha_s_f)[:, None]
        return diffuse_until(local, rhs, alpha, steps.stop).value[:, 0]

    queries = result.nodes, result.values, seeds.nodes, d_seeds.values
    tangent = jax.tree.map(_zero_tangent, result)
    return result, tangent._replace(values=jax.vmap(scores_tangent)(queries))


def _zero_tangent(x):
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.zeros_like(x)
    return np.zeros(x.shape, jax.dtypes.float0)
