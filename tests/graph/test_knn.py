import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.graph import knn

METHODS = "exact", "nn-descent", "sharded"


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def vectors(request, collection):
    """The collection's vectors; double precision with x64 turned on."""
    if request.param == np.float64:
        request.getfixturevalue("x64")
    return collection.vectors.astype(request.param)


@pytest.mark.parametrize(
    ("k", "method"), [(1, "exact"), (20, "exact"), *((5, method) for method in METHODS)]
)
def test_agrees_with_sorting_all_products(vectors, k, method):
    got = knn(vectors, k, method=method)
    products = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    expected = np.argsort(-products, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(got.indices, expected)
    tolerance = 1e-6 if vectors.dtype == np.float32 else 1e-14
    np.testing.assert_allclose(
        got.similarities,
        np.take_along_axis(products, expected, axis=1),
        atol=tolerance,
    )
    assert got.similarities.dtype == vectors.dtype
    assert got.indices.dtype == np.int32


def test_a_vector_is_among_its_own_neighbours(vectors):
    got = np.asarray(knn(vectors, 2).indices)
    assert (got == np.arange(len(vectors))[:, None]).any(1).all()


def test_all_vectors_may_be_neighbours(vectors):
    got = np.sort(np.asarray(knn(vectors, len(vectors)).indices), axis=1)
    assert (got == np.arange(len(vectors))).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_single_vector_is_its_own_neighbour(method):
    got = knn(np.array([[0.6, 0.8]], np.float32), 1, method=method)
    np.testing.assert_array_equal(got.indices, [[0]])
    np.testing.assert_allclose(got.similarities, [[1.0]], rtol=1e-6)


def test_takes_jax_arrays(collection):
    vectors = collection.vectors.astype(np.float32)
    np.testing.assert_array_equal(
        knn(jnp.asarray(vectors), 4).indices, knn(vectors, 4).indices
    )


def test_takes_arrays_that_are_not_contiguous(collection):
    vectors = collection.vectors.astype(np.float32)
    np.testing.assert_array_equal(
        knn(np.asfortranarray(vectors), 4).indices, knn(vectors, 4).indices
    )


@pytest.mark.parametrize("k", [0, 1000])
def test_rejects_a_k_outside_one_to_n(vectors, k):
    with pytest.raises(ValueError, match=rf"k must be in 1\.\.\d+ \(n\), got {k}"):
        knn(vectors, k)


@pytest.mark.usefixtures("unchecked")
def test_rejects_an_unknown_method(vectors):
    with pytest.raises(ValueError, match="method must be one of"):
        knn(vectors, 1, method="psychic")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rejects_vectors_that_are_not_finite_and_names_the_row(vectors, bad):
    vectors[[7, 9], 1] = bad
    with pytest.raises(ValueError, match=r"finite, got .* 2 of .* first in row 7"):
        knn(vectors, 3)


def test_refuses_doubles_that_jax_would_halve(collection):
    with pytest.raises(ValueError, match="vectors must be float32 here"):
        knn(collection.vectors, 3)
