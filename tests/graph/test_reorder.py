import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from diffjax.diffusion import diffuse
from diffjax.graph import affinity, compress, knn, normalize, reorder
from diffjax.types import Graph


def ring(n, step):
    """Nodes on a ring whose numbers jump by `step`."""
    at = np.arange(n) * step % n
    rows = np.concatenate([at, np.roll(at, -1)])
    columns = np.concatenate([np.roll(at, -1), at])
    matrix = scipy.sparse.coo_array((np.ones(2 * n, np.float32), (rows, columns)))
    return Graph.from_scipy(matrix.tocsr())


def mean_edge_length(graph):
    """Mean distance in memory between the two ends of an edge."""
    return np.abs(np.asarray(graph.rows) - np.asarray(graph.indices)).mean()


def test_neighbours_lie_near_each_other():
    scattered = ring(997, 353)
    assert mean_edge_length(scattered) > 300
    assert mean_edge_length(reorder(scattered).graph) <= 2


@pytest.mark.parametrize("finish", [compress, lambda a: a], ids=["rows", "padded"])
def test_it_is_the_same_graph(collection, finish):
    graph = normalize(finish(affinity(knn(collection.vectors.astype(np.float32), 7))))
    moved = reorder(graph)
    order, inverse_order = np.asarray(moved.order), np.asarray(moved.inverse_order)
    before, after = graph.to_scipy().toarray(), moved.graph.to_scipy().toarray()
    np.testing.assert_array_equal(after, before[order][:, order])
    np.testing.assert_array_equal(order[inverse_order], np.arange(graph.num_nodes))
    assert graph.degrees is not None
    assert moved.graph.degrees is not None
    np.testing.assert_array_equal(moved.graph.degrees, graph.degrees[moved.order])
    back = moved.restore_graph()
    np.testing.assert_array_equal(back.to_scipy().toarray(), before)
    np.testing.assert_array_equal(back.degrees, graph.degrees)


def test_scores_do_not_depend_on_the_order(collection):
    graph = normalize(compress(affinity(knn(collection.vectors.astype(np.float32), 7))))
    y = jnp.asarray(np.random.default_rng(0).random((graph.num_nodes, 3)), jnp.float32)
    moved = reorder(graph)
    got = moved.unpermute(diffuse(moved.graph, moved.permute(y), max_steps=50).value)
    np.testing.assert_allclose(got, diffuse(graph, y, max_steps=50).value, rtol=1e-5)


def test_isolated_nodes_and_negative_similarities_are_reordered():
    matrix = np.zeros((5, 5), np.float32)
    matrix[1, 3] = matrix[3, 1] = -0.5
    weights = jnp.asarray(matrix[matrix != 0])
    graph = Graph(
        jnp.array([3, 1], jnp.int32), weights, jnp.array([0, 0, 1, 1, 2, 2], jnp.int32)
    )
    moved = reorder(graph)
    assert sorted(np.asarray(moved.order)) == [0, 1, 2, 3, 4]
    assert moved.graph.weights.tolist() == [-0.5, -0.5]


def test_an_asymmetric_graph_is_refused():
    graph = Graph(jnp.array([1]), jnp.array([0.5]), jnp.array([0, 1, 1]))
    with pytest.raises(ValueError, match="graph must be symmetric"):
        reorder(graph)


def test_a_known_order_is_used():
    graph = ring(97, 35)
    first = reorder(graph)
    again = reorder(graph, order=np.asarray(first.order)[::-1])
    np.testing.assert_array_equal(again.order, first.order[::-1])
    np.testing.assert_array_equal(
        again.restore_graph().to_scipy().toarray(), graph.to_scipy().toarray()
    )


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1], [0, 1, 3]])
def test_an_order_without_every_node_is_refused(order):
    with pytest.raises(ValueError, match=r"order must have every node of 0\.\.2 once"):
        reorder(ring(3, 1), order=np.array(order))
