"""Diffusion on the nodes that a query reaches."""

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

# Two queries: one with an empty place, one that names a node twice.
NODES = np.array([[3, 5, 7, -1], [10, 10, 2, 4]], np.int32)
VALUES = np.array([[1, 0.5, 0.2, 7], [0.3, 0.2, 0.1, 0.7]])
ALPHA = 0.9


@pytest.fixture(params=["kernel", "padded"])
def form(request, monkeypatch):
    """Makes a graph as each of the paths takes it."""
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


def all_scores(found, graph: Graph) -> np.ndarray:
    return np.asarray(densify(found, graph))


def conjugate(a, b, x, steps):
    """Conjugate gradient as in a textbook: the oracle's own."""
    r = b - a @ x
    p = r.copy()
    for _ in range(steps):
        if np.linalg.norm(r) <= 1e-14:
            break
        step = (r @ r) / (p @ a @ p)
        x, new = x + step * p, r - step * (a @ p)
        p, r = new + (new @ new) / (r @ r) * p, new
    return x


def grown(
    s, y, *, size, places, steps_per_expansion, max_steps
) -> tuple[list[int], np.ndarray]:
    """Nodes and their own scores of one query, by loops over a dense matrix."""
    a = np.eye(len(s)) - ALPHA * s
    members, x = np.flatnonzero(y).tolist(), np.zeros(len(s))
    most = places
    while most < size:
        inside = np.ix_(members, members)
        x[members] = conjugate(a[inside], y[members], x[members], steps_per_expansion)
        most = min(2 * most, size)
        outside = ALPHA * s @ x
        others = [j for j in range(len(s)) if j not in members and outside[j] > 0]
        others.sort(key=lambda j: (-outside[j], j))
        if not others:
            break
        members = sorted(members + others[: most - len(members)])
    inside = np.ix_(members, members)
    x[members] = conjugate(a[inside], y[members], x[members], max_steps)
    return members, x


@pytest.mark.parametrize("size", [4, 11, 100])
def test_nodes_and_scores_are_those_of_loops(graph64, size):
    steps: dict[str, Any] = {"steps_per_expansion": 3, "max_steps": 5}
    found = diffuse_local(
        graph64, NODES, VALUES, size=size, alpha=ALPHA, rtol=1e-12, **steps
    )
    s, y = dense(graph64), right_hand_sides(graph64.num_nodes)
    root = np.sqrt(np.asarray(graph64.degrees))
    places = min(size, graph64.num_nodes)
    assert found.nodes.shape == found.values.shape == (2, places)
    for query in range(2):
        members, x = grown(s, y[:, query], size=size, places=4, **steps)
        own = np.asarray(found.nodes[query])
        assert own[own >= 0].tolist() == members
        assert (own[len(members) :] == -1).all()
        rest = y[:, query] - (x - ALPHA * s @ x)
        expected = np.linalg.norm(rest) / np.linalg.norm(y[:, query])
        np.testing.assert_allclose(found.residual[query], expected, rtol=1e-9)
        # What is missing, as far as it is known where it is.
        known = root @ rest / (1 - ALPHA) / (root @ root)
        scores = all_scores(found, graph64)[:, query]
        np.testing.assert_allclose(scores, x + known * root, atol=1e-10)


def test_what_is_missed_is_told_exactly(graph64):
    found = diffuse_local(graph64, NODES, VALUES, size=20, alpha=ALPHA)
    s, y = dense(graph64), right_hand_sides(graph64.num_nodes)
    exact = np.linalg.solve(np.eye(len(s)) - ALPHA * s, y)
    root = np.sqrt(np.asarray(graph64.degrees))
    background = root @ root * np.asarray(found.background)
    np.testing.assert_allclose(
        found.unreached_mass, background / (root @ exact), atol=1e-12
    )
    assert (np.asarray(found.unreached_mass) > 0.01).all()
    # With the background nothing is lost: it only lies elsewhere.
    scores = all_scores(found, graph64)
    np.testing.assert_allclose(root @ scores, root @ exact, rtol=1e-12)
    # And no vector of such form is nearer to the exact scores.
    error = scores - exact
    np.testing.assert_allclose(root @ error, 0, atol=1e-12)
    own = error - root[:, None] * np.asarray(found.background)
    assert (np.linalg.norm(error, axis=0) < np.linalg.norm(own, axis=0)).all()


def test_with_all_nodes_it_is_diffuse(collection, form):
    # With lists long enough for all to be reached while the number doubles.
    vectors = collection.vectors.astype(np.float32)
    graph, n = form(normalize(affinity(knn(vectors, 40)))), len(vectors)
    y = jnp.asarray(right_hand_sides(n), jnp.float32)
    expected = diffuse(graph, y, alpha=ALPHA, rtol=1e-6, max_steps=200)
    found = diffuse_local(
        graph, NODES, VALUES.astype(np.float32), size=2 * n, alpha=ALPHA, max_steps=200
    )
    assert (np.asarray(found.unreached_mass) < 1e-4).all()
    scores = all_scores(found, graph)
    np.testing.assert_allclose(scores, expected.value, atol=1e-5 * scores.max())
    assert found.nodes.shape == (2, n)


def test_more_nodes_miss_less(graph):
    values = VALUES.astype(np.float32)
    unreached_mass = [
        np.asarray(
            diffuse_local(graph, NODES, values, size=size, alpha=ALPHA).unreached_mass
        )
        for size in (4, 16, 64)
    ]
    assert (np.diff(unreached_mass, axis=0) < 0).all()


def test_rows_of_any_length_are_those_of_lists(collection, monkeypatch):
    """The compressed form without a kernel."""
    kernels.switch(monkeypatch, usable=False)
    padded = normalize(affinity(knn(collection.vectors.astype(np.float32), 8)))
    values = VALUES.astype(np.float32)
    one, other = (
        diffuse_local(graph, NODES, values, size=11)
        for graph in (padded, compress(padded))
    )
    kernels.forget()
    np.testing.assert_array_equal(one.nodes, other.nodes)
    np.testing.assert_allclose(one.values, other.values, rtol=1e-6)


def test_nodes_elsewhere_cost_nothing(collection, form):
    """The same answer, steps and arithmetic with thirty times as many nodes."""
    vectors = collection.vectors.astype(np.float32)
    raw = affinity(knn(vectors, 8))
    n = len(vectors)
    many = [np.where(raw.indices >= 0, raw.indices + i * n, -1) for i in range(30)]
    everywhere = Graph(jnp.concatenate(many), jnp.tile(raw.weights, (30, 1)))
    values = VALUES.astype(np.float32)
    one, all_of_them = (form(normalize(g)) for g in (raw, everywhere))
    run = functools.partial(diffuse_local, size=12, alpha=ALPHA, max_degree=8)
    few, found = run(one, NODES, values), run(all_of_them, NODES, values)
    # They are not connected with it, so that they get nothing, either.
    for name in few._fields:
        np.testing.assert_array_equal(getattr(few, name), getattr(found, name))
    scores = np.asarray(densify(found, all_of_them))
    assert (scores[:n] > 0).any()
    assert (scores[n:] == 0).all()

    def flops(graph):
        made = jax.jit(run).lower(graph, NODES, values).compile()
        return (made.cost_analysis() or {})["flops"]

    # Of a traced graph the degrees are added up: the rest does not see n.
    assert 0 <= flops(all_of_them) - flops(one) <= 30 * n


def test_no_program_is_compiled_for_other_numbers(graph, compiled):
    values = VALUES.astype(np.float32)
    diffuse_local(graph, NODES, values, size=16)
    before = len(compiled)
    diffuse_local(graph, NODES, 2 * values, size=16, alpha=0.5, rtol=1e-3, max_steps=7)
    assert len(compiled) == before


def test_derivatives_are_those_of_finite_differences(graph64):
    n = graph64.num_nodes
    turn = jnp.asarray(np.random.default_rng(0).normal(size=n + 1))
    # Both directions of an edge change alike, or the graph would not be symmetric.
    ends = np.asarray(graph64.rows), np.asarray(graph64.indices)
    low, high = np.minimum(*ends), np.maximum(*ends)
    change = np.sin(low * 7 + high * 3.0)

    def total(at):
        weights = graph64.weights * (1 + at[0] * change)
        found = diffuse_local(
            graph64._replace(weights=weights),
            NODES,
            jnp.asarray(VALUES) * jnp.stack([1 + at[1], 1 - at[1]])[:, None],
            size=12,
            alpha=ALPHA + at[2],
            rtol=1e-13,
            max_steps=300,
            max_degree=8,
        )
        return jnp.sum(jnp.sin(turn[found.nodes] * found.values))

    here = jnp.zeros(3)
    gradient = jax.jit(jax.grad(total))(here)
    for place in range(3):
        step = jnp.zeros(3).at[place].set(1e-6)
        difference = (total(here + step) - total(here - step)) / 2e-6
        np.testing.assert_allclose(gradient[place], difference, rtol=1e-6)
    forward = jax.jvp(total, (here,), (jnp.ones(3),))[1]
    np.testing.assert_allclose(forward, gradient.sum(), rtol=1e-9)


def test_batches_are_the_queries_one_by_one(graph):
    values = jnp.asarray(VALUES, jnp.float32)
    run = functools.partial(diffuse_local, size=12, max_degree=8)
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


def test_odd_right_hand_sides(graph):
    def run(values, nodes=NODES):
        return diffuse_local(graph, nodes, jnp.asarray(values, jnp.float32), size=16)

    usual, nothing = run(VALUES), run(0 * VALUES)
    assert (np.asarray(nothing.values) == 0).all()
    assert np.asarray(nothing.converged).all()
    assert (np.asarray(nothing.unreached_mass) == 0).all()
    nobody = run(VALUES, np.full_like(NODES, -1))
    assert (np.asarray(nobody.nodes) == -1).all()
    assert (np.asarray(nobody.residual) == 0).all()
    # Whose squares float32 does not hold.
    tiny = run(1e-30 * VALUES)
    np.testing.assert_allclose(tiny.values, 1e-30 * np.asarray(usual.values), 1e-4)
    broken = VALUES.copy()
    broken[1, 0] = np.nan
    found = run(broken)
    np.testing.assert_array_equal(found.values[0], usual.values[0])
    assert np.isnan(np.asarray(found.values)[1][np.asarray(found.nodes)[1] >= 0]).all()
    assert not found.converged[1]
    # What stands in an empty place is nothing.
    broken = VALUES.copy()
    broken[0, 3] = np.inf
    np.testing.assert_array_equal(run(broken).values, usual.values)
    none = diffuse_local(graph, NODES[:0], jnp.zeros((0, 4), jnp.float32), size=16)
    assert none.nodes.shape == (0, 16)


def test_a_node_without_edges_keeps_its_value(form):
    lists = np.array([[1, -1], [0, -1], [-1, -1]], np.int32)
    weights = np.array([[1, 0], [1, 0], [0, 0]], np.float32)
    graph = form(normalize(Graph(jnp.asarray(lists), jnp.asarray(weights))))
    found = diffuse_local(
        graph, np.array([[2]], np.int32), np.array([[0.5]], np.float32), size=3
    )
    assert np.asarray(found.nodes).tolist() == [[2, -1, -1]]
    assert np.asarray(found.values).tolist() == [[0.5, 0, 0]]
    assert found.unreached_mass[0] == found.residual[0] == 0
    assert found.converged[0]
    # Nobody is its neighbour, so nobody has its background.
    assert densify(found, graph)[:, 0].tolist() == [0, 0, 0.5]

    def total(weights):
        own = normalize(Graph(jnp.asarray(lists), weights))
        nodes, ones = np.array([[0]], np.int32), jnp.ones((1, 1))
        reached = diffuse_local(own, nodes, ones, size=2, alpha=0.9)
        return reached.values.sum() + densify(reached, own).sum()

    # Nodes without edges have the root of 0, of which there is no derivative.
    assert np.isfinite(jax.grad(total)(jnp.asarray(weights))).all()


def test_a_graph_without_edges(form):
    lists = jnp.full((3, 2), -1, jnp.int32)
    graph = form(normalize(Graph(lists, jnp.zeros((3, 2)))))
    nodes, values = np.array([[1, -1]], np.int32), np.array([[0.5, 0]], np.float32)
    found = diffuse_local(graph, nodes, values, size=2)
    assert np.asarray(found.nodes).tolist() == [[1, -1]]
    assert np.asarray(found.values).tolist() == [[0.5, 0]]


def test_the_residual_is_that_of_the_answer(graph):
    """Also near alpha 1, where what an iteration carries along drifts away from it."""
    settings = {"alpha": 0.9999, "max_steps": 300, "size": 200}
    found = diffuse_local(graph, NODES, VALUES.astype(np.float32), **settings)
    own = np.zeros((graph.num_nodes, 2))
    root = np.sqrt(np.asarray(graph.degrees, np.float64))
    for query in range(2):
        here = np.asarray(found.nodes[query])
        here = here[here >= 0]
        values = np.asarray(found.values[query], np.float64)[: len(here)]
        own[here, query] = values - float(found.background[query]) * root[here]
    y = right_hand_sides(graph.num_nodes)
    rest = y - (own - 0.9999 * dense(graph) @ own)
    exact = np.linalg.norm(rest, axis=0) / np.linalg.norm(y, axis=0)
    np.testing.assert_allclose(found.residual, exact, rtol=0.5, atol=1e-5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"size": 3}, "size must be at least the places of a query, 4, got 3"),
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
def test_bad_arguments_are_named(collection, changed, what):
    vectors = collection.vectors.astype(np.float32)
    graph = normalize(affinity(knn(vectors, 8)))
    given = {"nodes": NODES, "values": VALUES.astype(np.float32), "size": 16}
    with pytest.raises(ValueError, match=what):
        diffuse_local(graph, **given | changed)


@pytest.mark.usefixtures("unchecked")
def test_graphs_that_are_not_ready_are_refused(collection):
    raw = affinity(knn(collection.vectors.astype(np.float32), 8))
    values = VALUES.astype(np.float32)
    with pytest.raises(ValueError, match="normalised"):
        diffuse_local(raw, NODES, values, size=16)
    graph = compress(normalize(raw))
    with pytest.raises(ValueError, match="max_degree must be given under jit"):
        jax.jit(functools.partial(diffuse_local, size=16))(graph, NODES, values)
    cut = truncate(graph, np.arange(20))
    with pytest.raises(ValueError, match="whole as normalize gives it"):
        diffuse_local(cut, NODES, values, size=16)
    with pytest.raises(ValueError, match="max_degree must be at least"):
        diffuse_local(graph, NODES, values, size=16, max_degree=1)
