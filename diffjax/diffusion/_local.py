"""Diffusion whose cost does not depend on how many nodes the graph has."""

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

# How near the roots of the degrees are to an eigenvector, of the largest of them:
# single precision and rows of a thousand entries.
_EIGENVECTOR_TOLERANCE = 1e-3

# Queries side by side where there is no kernel: each holds its rows of the graph.
_QUERIES_PER_BATCH = 8


class LocalSolution(NamedTuple):
    """What a local diffusion found, one row or entry per query.

    Attributes:
        nodes: The nodes that it reached, in ascending order; -1 in empty places.
        values: Their scores, 0 in empty places.
        background: The score of every other node that is connected with the query,
            divided by the root of its degree; see `densify`.
        unreached_mass: Share of the exact scores that these nodes do not account for, 0
            to 1, and that the background spreads, each score weighted by the root of
            its node's degree: what tells how local a query is. It lies thin: half of
            the scores may be missed, and the first hundred nodes be right. Has no
            derivative.
        residual: Relative residual |y - (I - alpha S) f| / |y| in the whole graph,
            before the background is added. Has no derivative.
        num_steps: Iterations spent, those between growths included.
        converged: Whether `residual` reached the tolerance, which it seldom does where
            anything is cut off.
    """

    nodes: Int[Array, "q l"]
    values: Float[Array, "q l"]
    background: Float[Array, " q"]
    unreached_mass: Float[Array, " q"]
    residual: Float[Array, " q"]
    num_steps: Int[Array, " q"]
    converged: Bool[Array, " q"]


class _StaticSizes(NamedTuple):
    """What programs are compiled for: most nodes, and most entries of a row."""

    size: int
    width: int


class _SparseRightHandSides(NamedTuple):
    """Right-hand sides [q, s]."""

    nodes: Array
    values: Array


class _StepLimits(NamedTuple):
    """When solves end: those between growths, and the last one."""

    grow: int | Array
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
    r"""Diffuses queries over the nodes that they reach, at a cost without n.

    Starts on the s nodes where y is not 0. In turns, `steps_per_expansion` iterations
    of conjugate gradient solve (I - alpha S_LL) f_L = y_L on the nodes L reached so
    far, and the nodes outside with the largest residual, (alpha S f)_j, join until
    there are 2 s, 4 s, ... or `size` of them, or all that have a residual. Then
    `max_steps` more iterations, from where they are.
    S_LL is cut out of S as it is: what leads out of L is lost. How much is known, and
    where most of it goes. The roots v of the degrees, on the components of the graph in
    which the query starts, are a leading eigenvector, S v = v, so the exact scores have
    v' f = v' y / (1 - alpha). What is left of it, c = (v' y / (1 - alpha) - v_L' f_L) /
    v' v of v, is the projection of the error on v, and is added:

        values = f_L + c v_L, background = c, missed = 1 - (1 - alpha) v_L' f_L / v' y.

    Differentiable in alpha, the values and the graph's weights, by a second solve on
    the nodes that were reached; which those are has no derivative.

    Args:
        graph: The normalised graph S, in either form, whole as `normalize` gives it;
            the compressed form is the faster one. Its components are found once; one
            that is traced is taken for connected, and all its degrees are summed.
        nodes: Nodes where the right-hand side of each query is not 0, such as its
            nearest neighbours; -1 in empty places. What is named twice adds up.
        values: Right-hand sides there, at least 0, such as similarities that `kernel`
            has raised. Taken in the precision of the graph's weights.
        size: Most nodes to reach, at least s. Memory and time of a query grow with the
            entries of their rows; a thread keeps that memory, and 4 bytes for each node
            of the graph. A Python number.
        alpha: How far scores spread, in [0, 1); may be traced and differentiated.
        rtol: Relative residual on the nodes reached at which a solve stops. A Python
            number.
        max_steps: Iterations once all nodes are there. To train through the solve take
            at least 50: derivatives are solved from the start with as many. A Python
            number.
        steps_per_expansion: Iterations before nodes join. A Python number.
        max_degree: Most entries of any row of a compressed graph, a Python number;
            needed where the graph is traced. A query that then meets a wider row gets
            NaN for all numbers.
        degree_sums: Sums of the degrees on the components in which each query starts,
            v' v above, where they are known: nothing that grows with n is read then.
            None to find them.

    Returns:
        Nodes, their scores and, per query, what tells how good they are; l is `size`,
        or the larger of n and s where `size` is more.

    Raises:
        ValueError: If `alpha` or `rtol` is outside [0, 1), a count is below 1, `size`
            below s, sizes do not match, a node is not in the graph, a value is below 0,
            the graph is not normalised, was cut after it was, or has weights that are
            negative, not finite or not symmetric, or `max_degree` is missing under jit,
            or too small for a graph that is concrete.

    References:
        The system of Iscen et al., CVPR 2017, eq. 4, https://arxiv.org/abs/1611.05113;
        growth by residual after Andersen, Chung and Lang, Local graph partitioning
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
    places, n = nodes.shape[1], graph.num_nodes
    if places < 1:
        raise ValueError(f"nodes must have a place at least, got {list(nodes.shape)}.")
    if size < places:
        raise ValueError(
            f"size must be at least the places of a query, {places}, got {size}."
        )
    if degree_sums is not None and degree_sums.shape != nodes.shape[:1]:
        raise ValueError(
            f"degree_sums must be one per query, {nodes.shape[0]}, got "
            f"{list(degree_sums.shape)}."
        )
    if degree_sums is not None and is_concrete(degree_sums):
        host = np.asarray(degree_sums)
        if not (np.isfinite(host) & (host >= 0)).all():
            raise ValueError(f"degree_sums must be finite and at least 0, got {host}.")
    _check_normalised(graph)
    check_graph("graph", graph)
    shape = _StaticSizes(
        min(size, max(n, places)), max(max_row_entries(graph, max_degree), 1)
    )
    steps = _StepLimits(steps_per_expansion, StopCriterion(rtol, max_steps))
    components = _components_of(graph) if degree_sums is None else None
    return _diffuse_local(
        *(graph, (nodes, values), alpha, steps, components),
        degree_sums=degree_sums,
        shape=shape,
    )


def densify(found: LocalSolution, graph: Graph) -> Float[Array, "n q"]:
    """Scores of all nodes, as `diffuse` gives them.

    Args:
        found: From `diffuse_local`.
        graph: The graph that it was given.

    Returns:
        The scores of what each query reached, and the background of all other nodes
        that are connected with it; of all others, where the graph is traced.

    Raises:
        ValueError: If the graph is not normalised, or was cut after it was.
    """
    _check_normalised(graph)
    return _densify(found, graph, _components_of(graph))


@jax.jit
def _densify(found, graph, components):
    n, q = graph.num_nodes, found.nodes.shape[0]
    here, column = found.nodes >= 0, jnp.arange(q)[:, None]
    places = jnp.where(here, found.nodes, n)
    # Which components each query is in.
    own = jnp.where(here, components.labels[jnp.maximum(found.nodes, 0)], n)
    connected = jnp.zeros((n, q), bool).at[own, column].set(here, mode="drop")
    scores = _sqrt_degrees(graph.degrees)[:, None] * found.background[None, :]
    scores = scores * connected[components.labels].astype(scores.dtype)
    return scores.at[places, column].set(found.values, mode="drop")


def _check_normalised(graph) -> None:
    if graph.degrees is None:
        raise ValueError(
            "graph must be normalised, got one without degrees: give it to normalize."
        )


def _check_values(values) -> None:
    if is_concrete(values) and values.size and (low := np.asarray(values).min()) < 0:
        raise ValueError(f"values must be at least 0, got {low}.")


class _Components(NamedTuple):
    """For every node its component, and the sum of the degrees there."""

    labels: Array
    degree_sums: Array


def _components_of(graph: Graph) -> _Components:
    if all(is_concrete(leaf) for leaf in jax.tree.leaves(graph)):
        return _cached_components(graph)
    degrees = jnp.asarray(graph.degrees)
    labels = jnp.zeros(graph.num_nodes, jnp.int32)
    return _Components(labels, jnp.full_like(degrees, jnp.sum(degrees)))


def _label_components(graph: Graph) -> _Components:
    """On the host, with a look whether the roots of the degrees are an eigenvector."""
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415  # Slow.

    matrix, degrees = graph.to_scipy(), np.asarray(graph.degrees)
    root = np.sqrt(degrees.astype(np.float64))
    furthest = np.abs(matrix @ root - root).max(initial=0)
    if not furthest <= _EIGENVECTOR_TOLERANCE * root.max(initial=0):
        raise ValueError(
            "graph must be whole as normalize gives it, got one whose degrees are not "
            "those of its edges: cut before it is normalised."
        )
    _, labels = connected_components(matrix, directed=False)
    sums = np.bincount(labels, weights=degrees, minlength=1)
    # What is remembered must not belong to a program that is being traced.
    with jax.ensure_compile_time_eval():
        return _Components(
            jnp.asarray(labels, jnp.int32), jnp.asarray(sums[labels], degrees.dtype)
        )


_cached_components = cache_by_identity(_label_components)


@functools.partial(jax.jit, static_argnames="shape")
def _diffuse_local(graph, seeds, alpha, steps, components, *, degree_sums, shape):
    dtype, n = graph.weights.dtype, graph.num_nodes
    nodes, values = seeds
    nodes = jnp.asarray(nodes, jnp.int32)
    here = (nodes >= 0) & (nodes < n)
    nodes = jnp.where(here, nodes, -1)
    values = jnp.asarray(values, dtype)
    seeds = _SparseRightHandSides(
        nodes, jnp.where(here, values, jnp.zeros_like(values))
    )
    alpha = jnp.asarray(alpha, dtype)
    found = _solve(shape, graph, seeds, alpha, steps)
    fits = _rows_fit(graph, found.nodes, shape.width)
    found = found._replace(
        values=jnp.where(fits[:, None], found.values, jnp.nan),
        residual=jnp.where(fits, found.residual, jnp.nan),
    )

    def roots(nodes):
        own = graph.degrees[jnp.maximum(nodes, 0)]
        return _sqrt_degrees(own) * (nodes >= 0).astype(dtype)

    v = roots(found.nodes)
    if degree_sums is None:
        degree_sums = _component_degree_sums(seeds.nodes, components, n)
    total = jnp.asarray(degree_sums, dtype)
    due = jnp.sum(roots(seeds.nodes) * seeds.values, axis=1)
    left = due - (1 - alpha) * jnp.sum(v * found.values, axis=1)
    background = left / ((1 - alpha) * safe_divisor(total))
    residual = jax.lax.stop_gradient(found.residual)
    return LocalSolution(
        found.nodes,
        found.values + background[:, None] * v,
        background,
        # Rounding may leave less than nothing.
        jax.lax.stop_gradient(jnp.maximum(left / safe_divisor(due), 0)),
        residual,
        found.num_steps,
        residual <= steps.stop.rtol,
    )


def _sqrt_degrees(degrees):
    # The root of 0 has no derivative.
    return jnp.sqrt(safe_divisor(degrees)) * (degrees > 0).astype(degrees.dtype)


def _rows_fit(graph, nodes, width):
    """Whether no row of a query is wider than was told: [q]."""
    if graph.starts is None:
        return jnp.ones(nodes.shape[0], bool)
    row = jnp.maximum(nodes, 0)
    entries = graph.starts[row + 1] - graph.starts[row]
    return jnp.all((nodes < 0) | (entries <= width), axis=1)


def _component_degree_sums(nodes, components, n):
    """Sum of the degrees in the components of each query's nodes: [q]."""
    here = nodes >= 0
    labels = jnp.where(here, components.labels[jnp.maximum(nodes, 0)], n)
    order = jnp.argsort(labels, axis=1)
    labels = jnp.take_along_axis(labels, order, axis=1)
    nodes = jnp.take_along_axis(nodes, order, axis=1)
    first = jnp.diff(labels, axis=1, prepend=-1) > 0
    degree_sums = components.degree_sums[jnp.maximum(nodes, 0)]
    return jnp.sum(degree_sums, axis=1, where=first & (labels < n))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _solve(shape, graph, seeds, alpha, steps) -> LocalResult:
    """Every query, by the kernel where there is one."""
    arguments = graph, seeds, alpha, steps

    def by_kernel(graph, seeds, alpha, steps):
        found = csr_local(
            graph.weights,
            graph.indices,
            graph.starts,
            seeds.nodes,
            seeds.values,
            alpha=jnp.broadcast_to(alpha, seeds.nodes.shape[:1]),
            size=shape.size,
            steps_per_expansion=steps.grow,
            **steps.stop._asdict(),
        )
        return LocalResult(*found)

    def by_jax(graph, seeds, alpha, steps):
        def one(seeds):
            kwargs = {"steps_per_expansion": steps.grow, "stop": steps.stop}
            nodes, values = seeds
            return solve_local(graph, nodes, values, alpha, **shape._asdict(), **kwargs)

        return jax.lax.map(one, seeds, batch_size=_QUERIES_PER_BATCH)

    matrix = graph.weights, graph.indices, graph.starts
    if not seeds.nodes.size or not has_csr_kernel(*matrix, seeds.values):
        return by_jax(*arguments)
    return jax.lax.platform_dependent(*arguments, cpu=by_kernel, default=by_jax)


@_solve.defjvp
def _(shape, primals, tangents):
    graph, seeds, alpha, steps = primals
    d_graph, d_seeds, d_alpha, _ = tangents
    found = _solve(shape, graph, seeds, alpha, steps)
    d_graph = graph._replace(weights=d_graph.weights)

    def change(query):
        local_nodes, x, nodes, d_values = query
        cut = induced_subgraph(graph, local_nodes, width=shape.width)
        d_cut = induced_subgraph(d_graph, local_nodes, width=shape.width)
        # (I - alpha S) df = dy + d(alpha S) f.
        turn = d_alpha * cut.weights + alpha * d_cut.weights
        spread = jnp.sum(turn * x[jnp.maximum(cut.indices, 0)], axis=1)
        n = graph.num_nodes
        dy = scatter_to_nodes(
            jnp.where(local_nodes >= 0, local_nodes, n), nodes, d_values, n
        )
        return diffuse_until(cut, (dy + spread)[:, None], alpha, steps.stop).value[:, 0]

    queries = found.nodes, found.values, seeds.nodes, d_seeds.values
    tangent = jax.tree.map(_zero_tangent, found)
    return found, tangent._replace(values=jax.vmap(change)(queries))


def _zero_tangent(x):
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.zeros_like(x)
    return np.zeros(x.shape, jax.dtypes.float0)
