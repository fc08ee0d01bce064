import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from diffjax.graph import _edges, affinity, compress, edge_similarities, knn
from diffjax.types import Graph


@pytest.fixture(params=["padded", "compressed"])
def graph(request, collection, x64) -> Graph:
    padded = affinity(knn(collection.vectors, 6))
    return padded if request.param == "padded" else compress(padded)


@pytest.mark.parametrize("numbers", [2**22, 12 * 5])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_kernel_of_them_is_the_graph_again(
    collection, graph, transform, numbers, monkeypatch
):
    monkeypatch.setattr(_edges, "_NUMBERS_AT_ONCE", numbers)
    jax.clear_caches()  # The number is read when the program is compiled.
    raw = transform(edge_similarities)(graph, jnp.asarray(collection.vectors))
    np.testing.assert_allclose(affinity(raw).weights, graph.weights, atol=1e-14)
    dense = raw.to_scipy().toarray()
    np.testing.assert_array_equal(dense, dense.T)


def test_an_edge_may_turn_negative_and_is_then_none(collection, graph):
    flipped = jnp.asarray(collection.vectors).at[3].multiply(-1.0)
    raw = edge_similarities(graph, flipped)
    assert (raw.weights < 0).any()
    got = affinity(raw).to_scipy().toarray()
    assert not got[3].any()
    assert (got >= 0).all()


def test_gradients_match_finite_differences(collection, graph):
    def weights(vectors):
        return affinity(edge_similarities(graph, jnp.asarray(vectors))).weights

    vectors = jnp.asarray(collection.vectors)
    check_grads(weights, (vectors,), order=1, atol=1e-5, rtol=1e-5)


def test_refuses_vectors_of_another_number(collection, graph):
    with pytest.raises(ValueError, match="vectors must have one row per node"):
        edge_similarities(graph, jnp.asarray(collection.vectors[1:]))
