"""Local diffusion: on the nodes that a query reaches."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import kernels
import numpy as np
import pytest

from diffjax.diffusion import densify, diffuse, diffuse_local
from diffjax.graph import affinity, compress, knn, normalize, truncate
from diffjax.types import Graph

# Two queries: one with padding, one with a repeated node.
NODES = np.array([[3, 5, 7, -1], [10, 10, 2, 4]], np.int32)
VALUES = np.array([[1, 0.5, 0.2, 7], [0.3, 0.2, 0.1, 0.7]])
ALPHA = 0.9
# Tests in single precision share the programs of this size.
SIZE = 16

# The path without a kernel compiles for seconds: its long tests are in the full grid.
kernel_by_default = pytest.mark.parametrize(
    "form",
    ["kernel", pytest.param("padded", marks=pytest.mark.full)],
    indirect=True,
)


@pytest.fixture(params=["kernel", "padded"])
def form(request, monkeypatch):
    """Converts a graph to the form of a path: the native kernel, or JAX."""
    if request.param == "kernel" and kernels.needed.args[0]:
        pytest.skip(kernels.needed.kwargs["reason"])
    kernels.switch(monkeypatch, request.param == "kernel")
    yield (lambda graph: graph) if request.param == "padded" else compress
    kernels.forget()


@pytest.fixture
def graph(collection, form) -> Graph:
    return form(normalize(affinity(knn(collection.vectors.astype(np.float32), 8))))


@pytest.fixture
def graph64(x64, collection, form) -> Graph:
    return form(normalize(affinity(knn(collection.vectors, 8))))


def dense(graph: Graph) -> np.ndarray:
    return graph.to_scipy().toarray().astype(np.float64)


def right_hand_sides(n: int) -> np.ndarray:
    y = np.zeros((n, len(NODES)))
    for query, (nodes, values) in enumerate(zip(NODES, VALUES, strict=True)):
        for node, value in zip(nodes, values, strict=True):
            if node >= 0:
                y[node, query] += value
    return y


def all_scores(got, graph: Graph) -> np.ndarray:
    return np.asarray(densify(got, graph))


def conjugate(a, b, x, steps):
    """Conjugate gradient as in a textbook."""
    r = b - a @ x
    p = r.copy()
    for _ in range(steps):
        if np.linalg.norm(r) <= 1e-14:
            break
        step = (r @ r) / (p @ a @ p)
        x, new = x + step * p, r - step * (a @ p)
        p, r = new + (new @ new) / (r @ r) * p, new
    return x


def solve_by_loops(
    s, y, *, size, num_seeds, steps_per_expansion, max_steps
) -> tuple[list[int], np.ndarray]:
    """Nodes and their local scores of one query, by loops over a dense matrix."""
    a = np.eye(len(s)) - ALPHA * s
    members, x = np.flatnonzero(y).tolist(), np.zeros(len(s))
    count = num_seeds
    while count < size:
        inside = np.ix_(members, members)
        x[members] = conjugate(a[inside], y[members], x[members], steps_per_expansion)
        count = min(2 * count, size)
        outside = ALPHA * s @ x
        others = [j for j in range(len(s)) if j not in members and outside[j] > 0]
        others.sort(key=lambda j: (-outside[j], j))
        if not others:
            break
        members = sorted(members + others[: count - len(members)])
    inside = np.ix_(members, members)
    x[members] = conjugate(a[inside], y[members], x[members], max_steps)
    return members, x


@pytest.mark.parametrize(
    ("form", "size"),
    [
        ("kernel", 4),
        ("kernel", 11),
        ("kernel", 100),
        pytest.param("padded", 11, marks=pytest.mark.full),
        pytest.param("padded", 4, marks=pytest.mark.full),
        pytest.param("padded", 100, marks=pytest.mark.full),
    ],
    indirect=["form"],
)
def test_nodes_and_scores_are_those_of_loops(graph64, size):
    steps: dict[str, Any] = {"steps_per_expansion": 3, "max_steps": 5}
    got = diffuse_local(
        graph64, NODES, VALUES, size=size, alpha=ALPHA, rtol=1e-12, **steps
    )
    s, y = dense(graph64), right_hand_sides(graph64.num_nodes)
    root = np.sqrt(np.asarray(graph64.degrees))
    capacity = min(size, graph64.num_nodes)
    assert got.nodes.shape == got.values.shape == (2, capacity)
    for query in range(2):
        members, x = solve_by_loops(s, y[:, query], size=size, num_seeds=4, **steps)
        nodes = np.asarray(got.nodes[query])
        assert nodes[nodes >= 0].tolist() == members
        assert (nodes[len(members) :] == -1).all()
        error = y[:, query] - (x - ALPHA * s @ x)
        expected = np.linalg.norm(error) / np.linalg.norm(y[:, query])
        np.testing.assert_allclose(got.residual[query], expected, rtol=1e-9)
        # The projection of the missing scores on the leading eigenvector.
        background = root @ error / (1 - ALPHA) / (root @ root)
        scores = all_scores(got, graph64)[:, query]
        np.testing.assert_allclose(scores, x + background * root, atol=1e-10)


def test_the_unreached_mass_is_exact(graph64):
    got = diffuse_local(graph64, NODES, VALUES, size=11, alpha=ALPHA)
    s, y = dense(graph64), right_hand_sides(graph64.num_nodes)
    exact = np.linalg.solve(np.eye(len(s)) - ALPHA * s, y)
    root = np.sqrt(np.asarray(graph64.degrees))
    background = root @ root * np.asarray(got.background)
    np.testing.assert_allclose(
        got.unreached_mass, background / (root @ exact), atol=1e-12
    )
    assert (np.asarray(got.unreached_mass) > 0.01).all()
    # With the background no mass is lost: it only lies at other nodes.
    scores = all_scores(got, graph64)
    np.testing.assert_allclose(root @ scores, root @ exact, rtol=1e-12)
    # No other multiple of the eigenvector brings them nearer to the exact scores.
    error = scores - exact
    np.testing.assert_allclose(root @ error, 0, atol=1e-12)
    without = error - root[:, None] * np.asarray(got.background)
    assert (np.linalg.norm(error, axis=0) < np.linalg.norm(without, axis=0)).all()


@kernel_by_default
def test_with_all_nodes_it_is_diffuse(collection, form):
    # With lists that are long enough to reach all nodes while their number doubles.
    vectors = collection.vectors.astype(np.float32)
    graph, n = form(normalize(affinity(knn(vectors, 40)))), len(vectors)
    y = jnp.asarray(right_hand_sides(n), jnp.float32)
    expected = diffuse(graph, y, alpha=ALPHA, rtol=1e-6, max_steps=200)
    got = diffuse_local(
        graph, NODES, VALUES.astype(np.float32), size=2 * n, alpha=ALPHA, max_steps=200
    )
    assert (np.asarray(got.unreached_mass) < 1e-4).all()
    scores = all_scores(got, graph)
    np.testing.assert_allclose(scores, expected.value, atol=1e-5 * scores.max())
    assert got.nodes.shape == (2, n)


@kernel_by_default
def test_more_nodes_leave_less_unreached_mass(graph):
    values = VALUES.astype(np.float32)
    unreached_mass = [
        np.asarray(
            diffuse_local(graph, NODES, values, size=size, alpha=ALPHA).unreached_mass
        )
        for size in (4, SIZE, 64)
    ]
    assert (np.diff(unreached_mass, axis=0) < 0).all()


@pytest.mark.full
def test_the_compressed_form_without_a_kernel_is_the_padded_one(
    collection, monkeypatch
):
    kernels.switch(monkeypatch, usable=False)
    padded = normalize(affinity(knn(collection.vectors.astype(np.float32), 8)))
    values = VALUES.astype(np.float32)
    one, other = (
        diffuse_local(graph, NODES, values, size=SIZE)
        for graph in (padded, compress(padded))
    )
    kernels.forget()
    np.testing.assert_array_equal(one.nodes, other.nodes)
    np.testing.assert_allclose(one.values, other.values, rtol=1e-6)


@kernel_by_default
def test_nodes_of_other_components_cost_nothing(collection, form):
    """The same scores, steps and arithmetic with thirty times as many nodes."""
    vectors = collection.vectors.astype(np.float32)
    raw = affinity(knn(vectors, 8))
    n = len(vectors)
    copies = [np.where(raw.indices >= 0, raw.indices + i * n, -1) for i in range(30)]
    copied = Graph(jnp.concatenate(copies), jnp.tile(raw.weights, (30, 1)))
    values = VALUES.astype(np.float32)
    small, large = (form(normalize(g)) for g in (raw, copied))
    run = functools.partial(diffuse_local, size=SIZE, alpha=ALPHA, max_degree=8)
    expected, got = run(small, NODES, values), run(large, NODES, values)
    # The copies are not connected with the queries, so they have no score either.
    for name in expected._fields:
        np.testing.assert_allclose(
            getattr(got, name), getattr(expected, name), rtol=1e-6, err_msg=name
        )
    scores = np.asarray(densify(got, large))
    assert (scores[:n] > 0).any()
    assert (scores[n:] == 0).all()

    def flops(graph):
        compiled = jax.jit(run).lower(graph, NODES, values).compile()
        return (compiled.cost_analysis() or {})["flops"]

    # The degrees of a traced graph are summed; nothing else depends on n.
    assert 0 <= flops(large) - flops(small) <= 30 * n


def test_other_settings_compile_no_other_program(graph, compiled):
    values = VALUES.astype(np.float32)
    diffuse_local(graph, NODES, values, size=SIZE)
    before = len(compiled)
    diffuse_local(
        graph, NODES, 2 * values, size=SIZE, alpha=0.5, rtol=1e-3, max_steps=7
    )
    assert len(compiled) == before


@kernel_by_default
def test_derivatives_are_those_of_finite_differences(graph64):
    n = graph64.num_nodes
    factors = jnp.asarray(np.random.default_rng(0).normal(size=n + 1))
    # Both directions of an edge change together, so that the graph stays symmetric.
    ends = np.asarray(graph64.rows), np.asarray(graph64.indices)
    low, high = np.minimum(*ends), np.maximum(*ends)
    change = np.sin(low * 7 + high * 3.0)

    def total(at):
        weights = graph64.weights * (1 + at[0] * change)
        got = diffuse_local(
            graph64._replace(weights=weights),
            NODES,
            jnp.asarray(VALUES) * jnp.stack([1 + at[1], 1 - at[1]])[:, None],
            size=11,
            alpha=ALPHA + at[2],
            rtol=1e-13,
            max_steps=300,
            max_degree=8,
        )
        return jnp.sum(jnp.sin(factors[got.nodes] * got.values))

    origin, value = jnp.zeros(3), jax.jit(total)
    gradient = jax.jit(jax.grad(total))(origin)
    for argument in range(3):
        step = jnp.zeros(3).at[argument].set(1e-6)
        difference = (value(origin + step) - value(origin - step)) / 2e-6
        np.testing.assert_allclose(gradient[argument], difference, rtol=1e-6)
    forward = jax.jit(lambda x: jax.jvp(total, (x,), (jnp.ones(3),))[1])(origin)
    np.testing.assert_allclose(forward, gradient.sum(), rtol=1e-9)


@kernel_by_default
def test_batches_are_the_queries_one_by_one(graph):
    values = jnp.asarray(VALUES, jnp.float32)
    run = functools.partial(diffuse_local, size=SIZE, max_degree=8)
    together = run(graph, NODES, values)
    single = [run(graph, NODES[q : q + 1], values[q : q + 1]) for q in range(2)]
    mapped = jax.vmap(lambda nodes, values: run(graph, nodes[None], values[None]))(
        NODES, values
    )
    alphas = jax.vmap(lambda alpha: run(graph, NODES, values, alpha=alpha))(
        jnp.array([0.99, 0.5])
    )
    compiled = jax.jit(run)(graph, NODES, values)
    for name in ("nodes", "values", "unreached_mass", "residual", "num_steps"):
        expected = np.asarray(getattr(together, name))
        for q in range(2):
            np.testing.assert_allclose(
                getattr(single[q], name)[0], expected[q], 1e-5, 1e-6
            )
            np.testing.assert_allclose(
                getattr(mapped, name)[q, 0], expected[q], 1e-5, 1e-6
            )
        np.testing.assert_allclose(getattr(alphas, name)[0], expected, 1e-5, 1e-6)
        np.testing.assert_allclose(getattr(compiled, name), expected, 1e-5, 1e-6)


@kernel_by_default
def test_zero_empty_tiny_and_nan_right_hand_sides(graph):
    def run(values, nodes=NODES):
        return diffuse_local(graph, nodes, jnp.asarray(values, jnp.float32), size=SIZE)

    usual, zero = run(VALUES), run(0 * VALUES)
    assert (np.asarray(zero.values) == 0).all()
    assert np.asarray(zero.converged).all()
    assert (np.asarray(zero.unreached_mass) == 0).all()
    empty = run(VALUES, np.full_like(NODES, -1))
    assert (np.asarray(empty.nodes) == -1).all()
    assert (np.asarray(empty.residual) == 0).all()
    # The squares of these values underflow in float32.
    tiny = run(1e-30 * VALUES)
    np.testing.assert_allclose(tiny.values, 1e-30 * np.asarray(usual.values), 1e-4)
    broken = VALUES.copy()
    broken[1, 0] = np.nan
    got = run(broken)
    np.testing.assert_array_equal(got.values[0], usual.values[0])
    assert np.isnan(np.asarray(got.values)[1][np.asarray(got.nodes)[1] >= 0]).all()
    assert not got.converged[1]
    # The value of a padding entry does not count.
    broken = VALUES.copy()
    broken[0, 3] = np.inf
    np.testing.assert_array_equal(run(broken).values, usual.values)


@kernel_by_default
def test_zero_queries_are_accepted(graph):
    values = jnp.zeros((0, 4), jnp.float32)
    assert diffuse_local(graph, NODES[:0], values, size=SIZE).nodes.shape == (0, SIZE)


@kernel_by_default
def test_a_node_without_edges_keeps_its_value(form):
    lists = np.array([[1, -1], [0, -1], [-1, -1]], np.int32)
    weights = np.array([[1, 0], [1, 0], [0, 0]], np.float32)
    graph = form(normalize(Graph(jnp.asarray(lists), jnp.asarray(weights))))
    got = diffuse_local(
        graph, np.array([[2]], np.int32), np.array([[0.5]], np.float32), size=3
    )
    assert np.asarray(got.nodes).tolist() == [[2, -1, -1]]
    assert np.asarray(got.values).tolist() == [[0.5, 0, 0]]
    assert got.unreached_mass[0] == got.residual[0] == 0
    assert got.converged[0]
    # It has no neighbours, so no other node has its background.
    assert densify(got, graph)[:, 0].tolist() == [0, 0, 0.5]

    def total(weights):
        padded = normalize(Graph(jnp.asarray(lists), weights))
        nodes, ones = np.array([[0]], np.int32), jnp.ones((1, 1))
        local = diffuse_local(padded, nodes, ones, size=2, alpha=0.9)
        return local.values.sum() + densify(local, padded).sum()

    # Nodes without edges have the root of 0, whose derivative is not finite.
    assert np.isfinite(jax.grad(total)(jnp.asarray(weights))).all()


@kernel_by_default
def test_a_graph_without_edges(form):
    lists = jnp.full((3, 2), -1, jnp.int32)
    graph = form(normalize(Graph(lists, jnp.zeros((3, 2)))))
    nodes, values = np.array([[1, -1]], np.int32), np.array([[0.5, 0]], np.float32)
    got = diffuse_local(graph, nodes, values, size=2)
    assert np.asarray(got.nodes).tolist() == [[1, -1]]
    assert np.asarray(got.values).tolist() == [[0.5, 0]]


def test_the_residual_is_the_true_one(graph):
    """Also near alpha 1, where the recurrence of conjugate gradient drifts away."""
    settings = {"alpha": 0.9999, "max_steps": 300, "size": SIZE}
    got = diffuse_local(graph, NODES, VALUES.astype(np.float32), **settings)
    local = np.zeros((graph.num_nodes, 2))
    root = np.sqrt(np.asarray(graph.degrees, np.float64))
    for query in range(2):
        nodes = np.asarray(got.nodes[query])
        nodes = nodes[nodes >= 0]
        values = np.asarray(got.values[query], np.float64)[: len(nodes)]
        local[nodes, query] = values - float(got.background[query]) * root[nodes]
    y = right_hand_sides(graph.num_nodes)
    error = y - (local - 0.9999 * dense(graph) @ local)
    exact = np.linalg.norm(error, axis=0) / np.linalg.norm(y, axis=0)
    np.testing.assert_allclose(got.residual, exact, rtol=0.5, atol=1e-5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"size": 3}, "size must be at least the columns of nodes, 4, got 3"),
        ({"alpha": 1.0}, "alpha must be in"),
        ({"rtol": -1.0}, "rtol must be in"),
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ({"steps_per_expansion": 0}, "steps_per_expansion must be at least 1, got 0"),
        ({"nodes": NODES + 80}, r"nodes must be in -1\.\.85, got 79\.\.90"),
        ({"nodes": NODES[0]}, r"\[q, s\].* got \[4\] and \[2, 4\]"),
        ({"values": VALUES[:, :3].astype(np.float32)}, r"got \[2, 4\] and \[2, 3\]"),
        ({"values": VALUES}, "values"),
        ({"values": -VALUES.astype(np.float32)}, "values must be at least 0, got -7"),
    ],
)
def test_bad_arguments_are_named(collection, changed, complaint):
    vectors = collection.vectors.astype(np.float32)
    graph = normalize(affinity(knn(vectors, 8)))
    arguments = {"nodes": NODES, "values": VALUES.astype(np.float32), "size": SIZE}
    with pytest.raises(ValueError, match=complaint):
        diffuse_local(graph, **arguments | changed)


@pytest.mark.usefixtures("unchecked")
def test_raw_traced_and_truncated_graphs_are_refused(collection):
    raw = affinity(knn(collection.vectors.astype(np.float32), 8))
    values = VALUES.astype(np.float32)
    with pytest.raises(ValueError, match="normalised"):
        diffuse_local(raw, NODES, values, size=SIZE)
    graph = compress(normalize(raw))
    with pytest.raises(ValueError, match="max_degree must be given under jit"):
        jax.jit(functools.partial(diffuse_local, size=SIZE))(graph, NODES, values)
    cut = truncate(graph, np.arange(20))
    with pytest.raises(ValueError, match="whole as normalize returns it"):
        diffuse_local(cut, NODES, values, size=SIZE)
    with pytest.raises(ValueError, match="max_degree must be at least"):
        diffuse_local(graph, NODES, values, size=SIZE, max_degree=1)
