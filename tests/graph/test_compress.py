import itertools

import numpy as np
import pytest
import scipy.sparse

from diffjax.graph import affinity, compress, knn, normalize
from diffjax.types import Graph


@pytest.fixture
def padded(collection):
    return affinity(knn(collection.vectors.astype(np.float32), 9))


def test_is_the_same_matrix_with_no_empty_slot(padded):
    got = compress(padded)
    np.testing.assert_array_equal(got.to_scipy().toarray(), padded.to_scipy().toarray())
    assert got.weights.shape == (padded.to_scipy().nnz,)
    assert (np.asarray(got.weights) > 0).all()


def test_rows_are_sorted_by_column(padded):
    got = compress(padded)
    starts, columns = np.asarray(got.starts), np.asarray(got.indices)
    for first, last in itertools.pairwise(starts):
        assert (np.diff(columns[first:last]) > 0).all()


def test_normalising_before_or_after_gives_the_same(padded):
    before, after = compress(normalize(padded)), normalize(compress(padded))
    np.testing.assert_allclose(before.weights, after.weights, rtol=1e-6)
    assert before.degrees is not None
    assert after.degrees is not None
    np.testing.assert_allclose(before.degrees, after.degrees, rtol=1e-6)


def test_compressing_twice_changes_nothing(padded):
    once = compress(padded)
    for a, b in zip(once, compress(once), strict=True):
        if a is not None:
            np.testing.assert_array_equal(a, b)


def test_rows_property_names_the_row_of_every_entry(padded):
    got = compress(padded)
    np.testing.assert_array_equal(got.rows, got.to_scipy().tocoo().row)


def test_bcoo_and_scipy_views_are_the_same_matrix(padded):
    for graph in padded, compress(padded):
        np.testing.assert_array_equal(
            graph.to_bcoo().todense(), graph.to_scipy().toarray()
        )


def test_from_scipy_is_the_inverse_of_to_scipy(padded):
    matrix = padded.to_scipy()
    np.testing.assert_array_equal(
        Graph.from_scipy(matrix).to_scipy().toarray(), matrix.toarray()
    )


@pytest.mark.parametrize(
    ("matrix", "complaint"),
    [
        (np.ones((2, 3)), "square, got 2 x 3"),
        (np.array([[0, 1.0], [0.5, 0]]), "symmetric, got weights that differ by up to"),
        (np.array([[0, -1.0], [-1.0, 0]]), "non-negative, got -1.0"),
        (np.array([[0, np.nan], [np.nan, 0]]), "finite, got NaN"),
        (np.eye(2), "zero diagonal, got self-loops"),
    ],
)
def test_from_scipy_refuses_what_is_no_affinity(matrix, complaint):
    with pytest.raises(ValueError, match=complaint):
        Graph.from_scipy(scipy.sparse.csr_array(matrix.astype(np.float32)))
