import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from diffjax.graph import affinity, compress, knn, normalize
from diffjax.types import Graph


@pytest.fixture(params=["padded", "compressed"])
def graph(request, collection) -> Graph:
    """The affinity of the collection in both forms, with an isolated node or more."""
    padded = affinity(knn(collection.vectors.astype(np.float32), 3))
    return padded if request.param == "padded" else compress(padded)


def test_agrees_with_the_dense_formula(graph):
    dense = graph.to_scipy().toarray()
    np.testing.assert_allclose(
        normalize(graph).to_scipy().toarray(), oracle.normalized(dense), atol=1e-6
    )


def test_keeps_the_degrees(graph):
    got = normalize(graph)
    assert got.degrees is not None
    np.testing.assert_allclose(
        got.degrees, graph.to_scipy().toarray().sum(1), rtol=1e-6
    )


def test_spectral_radius_is_one_where_there_are_edges(graph):
    # D^1/2 1 is an eigenvector of S to the eigenvalue 1.
    values = np.linalg.eigvalsh(normalize(graph).to_scipy().toarray())
    np.testing.assert_allclose(values.max(), 1.0, rtol=1e-5)
    assert values.min() >= -1 - 1e-5


def test_is_exactly_symmetric(graph):
    dense = normalize(graph).to_scipy().toarray()
    np.testing.assert_array_equal(dense, dense.T)


def test_a_node_without_edges_keeps_an_empty_row_and_a_finite_gradient(graph):
    isolated = np.flatnonzero(graph.to_scipy().toarray().sum(1) == 0)
    assert isolated.size
    assert (normalize(graph).to_scipy().toarray()[isolated] == 0).all()

    def total(weights):
        return normalize(graph._replace(weights=weights)).weights.sum()

    assert np.isfinite(jax.grad(total)(graph.weights)).all()


def test_refuses_doubles_that_jax_would_halve(graph):
    doubled = graph._replace(weights=np.asarray(graph.weights, np.float64))
    with pytest.raises(ValueError, match="graph must be float32 here, got float64"):
        normalize(doubled)


def test_a_single_node_is_a_graph():
    got = normalize(Graph(jnp.full((1, 1), -1, jnp.int32), jnp.zeros((1, 1))))
    np.testing.assert_array_equal(got.weights, [[0.0]])
