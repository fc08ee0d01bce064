import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.graph import affinity, compress, knn, normalize, truncate
from diffjax.types import Graph


@pytest.fixture(params=["padded", "compressed"])
def graph(request, collection, x64) -> Graph:
    padded = affinity(knn(collection.vectors, 9))
    return padded if request.param == "padded" else compress(padded)


@pytest.fixture
def nodes(graph) -> np.ndarray:
    """Seven nodes out of order, with edges between them and out of them."""
    degrees = (dense(graph) > 0).sum(0)
    (near,) = np.nonzero(dense(graph)[degrees.argmax()])
    return np.array([degrees.argmax(), *near[3::-1], *(np.arange(86)[:2] * 40 + 1)])


def dense(graph):
    return graph.to_scipy().toarray()


@pytest.mark.parametrize(
    "transform",
    [jax.jit, pytest.param(lambda f: f, marks=pytest.mark.full)],
    ids=["jit", "eager"],
)
def test_keeps_rows_and_columns_in_the_order_of_the_nodes(graph, nodes, transform):
    cut = transform(functools.partial(truncate, max_degree=20))
    expected = dense(graph)[np.ix_(nodes, nodes)]
    assert expected.any()
    np.testing.assert_array_equal(dense(cut(graph, jnp.asarray(nodes))), expected)


def test_padding_becomes_a_node_without_edges(graph):
    nodes = np.array([-1, 5, 0, -1, 17, 33])
    got = truncate(graph, nodes)
    is_node = nodes >= 0
    original_nodes = nodes[is_node]
    assert not dense(got)[~is_node].any()
    np.testing.assert_array_equal(
        dense(got)[np.ix_(is_node, is_node)],
        dense(graph)[np.ix_(original_nodes, original_nodes)],
    )


def test_early_and_late_truncation_differ_by_the_lost_degrees(graph, nodes):
    early = dense(normalize(truncate(graph, nodes)))
    late = dense(truncate(normalize(graph), nodes))
    original_nodes = np.ix_(nodes, nodes)
    np.testing.assert_allclose(
        early, oracle.normalized(dense(graph)[original_nodes]), rtol=1e-12
    )
    np.testing.assert_allclose(
        late, oracle.normalized(dense(graph))[original_nodes], rtol=1e-12
    )
    assert np.abs(early - late).max() > 0.1
    # The late truncation loses the weight of edges to other nodes.
    assert (late <= early + 1e-12).all()


def test_degrees_travel_with_their_nodes(graph):
    normalized = normalize(graph)
    got = truncate(normalized, np.array([5, -1, 17]))
    assert normalized.degrees is not None
    np.testing.assert_array_equal(
        got.degrees, [normalized.degrees[5], 0, normalized.degrees[17]]
    )


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000))
def test_truncation_to_everything_is_a_permutation(seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(12, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    graph = affinity(knn(vectors, 6))
    order = rng.permutation(12)
    for form in graph, compress(graph):
        got = dense(truncate(form, order))
        np.testing.assert_array_equal(got, dense(graph)[np.ix_(order, order)])


def test_a_batch_of_lists_is_one_call(graph, nodes):
    lists = jnp.asarray(np.stack([nodes, nodes[::-1], np.roll(nodes, 2)]))
    cut = functools.partial(truncate, max_degree=20)
    batch = jax.jit(jax.vmap(cut, in_axes=(None, 0)))(graph, lists)
    for i, member_nodes in enumerate(np.asarray(lists)):
        member = jax.tree.map(lambda leaf, i=i: leaf[i], batch)
        expected = dense(graph)[np.ix_(member_nodes, member_nodes)]
        np.testing.assert_array_equal(dense(member), expected)


def test_gradients_reach_the_edges_that_were_kept(graph, nodes):
    def total(weights):
        subgraph = truncate(graph._replace(weights=weights), jnp.asarray(nodes))
        return normalize(subgraph).weights.sum()

    gradient = jax.grad(total)(graph.weights)
    assert jnp.isfinite(gradient).all()
    inside = np.isin(graph.rows, nodes) & np.isin(graph.indices, nodes)
    assert (np.asarray(gradient)[~inside] == 0).all()
    assert gradient.any()


def test_a_graph_without_edges_can_be_truncated():
    empty = compress(Graph(jnp.full((4, 1), -1, jnp.int32), jnp.zeros((4, 1))))
    assert dense(truncate(empty, np.array([2, 0]))).shape == (2, 2)


@pytest.mark.parametrize(
    ("nodes", "complaint"),
    [
        ([0, 99], r"nodes must be in -1\.\.\d+, got 0\.\.99"),
        ([-2, 1], r"nodes must be in -1\.\.\d+, got -2\.\.1"),
        ([3, 1, 3], "nodes must name each node once, got 3 2 times"),
    ],
)
def test_refuses_nodes_that_are_invalid_or_repeated(graph, nodes, complaint):
    with pytest.raises(ValueError, match=complaint):
        truncate(graph, np.array(nodes))


def test_a_compressed_graph_needs_a_width_under_jit(graph, nodes):
    graph = compress(graph)
    with pytest.raises(ValueError, match="max_degree must be given under jit"):
        jax.jit(truncate)(graph, jnp.asarray(nodes))
    with pytest.raises(ValueError, match=r"max_degree must be at least \d, got 1"):
        truncate(graph, nodes, max_degree=1)
