import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.diffusion import diffuse, query_vectors
from diffjax.index import Index, IndexConfig
from diffjax.pooling import pool
from experiments._batched_diffusion import diffuse_in_batches


@pytest.fixture
def index(collection):
    """Index of the small collection."""
    vectors = collection.vectors.astype(np.float32)
    return Index.build(vectors, collection.image_ids, config=IndexConfig.of(k=10))


@pytest.fixture
def y(collection, index):
    """Right-hand sides of its five queries."""
    queries = jnp.asarray(collection.queries, jnp.float32)
    return query_vectors(index.vectors, queries, collection.query_ids, k=3)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_batches_agree_with_one_solve_of_all_queries(index, y, batch_size):
    scores, residual = diffuse_in_batches(
        index, y, batch_size=batch_size, alpha=0.9, max_steps=5
    )
    solution = diffuse(index.graph, y, alpha=0.9, max_steps=5)
    expected = pool(solution.value, index.image_ids, weights=index.weights)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(residual, solution.residual.max(), rtol=1e-3)


def test_a_given_graph_replaces_that_of_the_index(index, y):
    graph = index.graph
    without_weights = graph._replace(weights=jnp.zeros_like(graph.weights))
    scores, residual = diffuse_in_batches(index, y, graph=without_weights)
    expected = pool(y, index.image_ids, weights=index.weights)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert residual == 0
