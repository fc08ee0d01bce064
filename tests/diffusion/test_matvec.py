import itertools

import jax
import jax.numpy as jnp
import kernels
import numpy as np
import pytest
from finite_differences import check_gradient

from diffjax.diffusion import multiply
from diffjax.graph import affinity, compress, knn


@pytest.fixture(params=["padded", "compressed"])
def graph(request, collection, x64):
    padded = affinity(knn(collection.vectors, 6))
    return padded if request.param == "padded" else compress(padded)


CASES = [
    (jnp.float32, 1),
    (jnp.float32, 9),
    (jnp.float64, 0),
    (jnp.float64, 7),
    (jnp.float64, 33),
]


# Seven columns are padded to the eight of XLA's kernel, nine are not.
@pytest.mark.parametrize(
    ("dtype", "columns"),
    [
        *CASES,
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in itertools.product(
                [jnp.float32, jnp.float64], [0, 1, 7, 8, 9, 33]
            )
            if case not in CASES
        ),
    ],
)
def test_agrees_with_the_dense_product(graph, columns, dtype):
    x = jnp.asarray(
        np.random.default_rng(0).normal(size=(graph.num_nodes, columns)), dtype
    )
    graph = graph._replace(weights=graph.weights.astype(dtype))
    got = multiply(graph, x)
    assert got.dtype == dtype
    tolerance = 1e-5 if dtype == jnp.float32 else 1e-13
    np.testing.assert_allclose(
        got, graph.to_scipy().toarray() @ np.asarray(x), atol=tolerance
    )


def test_gradients_match_finite_differences_in_edges_and_columns(graph):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(graph.num_nodes, 2)))

    def product(weights, x):
        return multiply(graph._replace(weights=weights), jnp.asarray(x))

    check_gradient(product, (graph.weights, x), order=2, tolerance=1e-6)


def test_derivatives_hold_for_a_matrix_that_is_not_symmetric(graph):
    # The two directions of an edge have different weights.
    rng = np.random.default_rng(1)
    uneven = graph.weights * rng.uniform(size=graph.weights.shape)
    change = graph.weights * rng.uniform(size=graph.weights.shape)
    x, cotangent = (jnp.asarray(rng.normal(size=(86, 3))) for _ in range(2))
    a, d_a = (
        graph._replace(weights=weights).to_scipy().toarray()
        for weights in (uneven, change)
    )

    def backward(weights):
        def product(x):
            return multiply(graph._replace(weights=weights), x)

        return jax.vjp(product, x)[1](cotangent)[0]

    got, d_got = jax.jvp(backward, (uneven,), (change,))
    np.testing.assert_allclose(got, a.T @ cotangent, atol=1e-13)
    np.testing.assert_allclose(d_got, d_a.T @ cotangent, atol=1e-13)


def test_lowers_for_every_kind_of_device(graph):
    x = jnp.zeros((graph.num_nodes, 3))
    exported = jax.export.export(
        jax.jit(multiply),
        platforms=["cpu", "cuda", "tpu"],
        disabled_checks=kernels.UNPROMISED,
    )
    assert set(exported(graph, x).platforms) == {"cpu", "cuda", "tpu"}


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("graph", ["compressed"], indirect=True)
def test_a_block_of_another_size_is_refused(graph, transform):
    with pytest.raises(ValueError, match="x must have one row per node, 86, got"):
        transform(multiply)(graph, jnp.ones((85, 2)))
