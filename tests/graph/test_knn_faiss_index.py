import faiss
import numpy as np
import pytest

from diffjax.graph import knn, recall


def make(kind, vectors):
    """A faiss index of a user, trained and filled."""
    d = vectors.shape[1]
    single = vectors.astype(np.float32)
    if kind == "inverted lists":
        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(d), d, 4, faiss.METRIC_INNER_PRODUCT
        )
        index.nprobe = 4
        # So few vectors a list make faiss warn on standard error.
        index.cp.min_points_per_centroid = 1
        index.train(single)
    else:
        index = {
            "flat, product": faiss.IndexFlatIP,
            "flat, distance": faiss.IndexFlatL2,
            "graph": lambda d: faiss.IndexHNSWFlat(d, 16),
            "coarse": lambda d: faiss.IndexScalarQuantizer(
                d, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
            ),
        }[kind](d)
        if kind == "coarse":
            index.train(single)
    index.add(single)
    return index


@pytest.fixture
def vectors(collection):
    return collection.vectors.astype(np.float32)


@pytest.mark.parametrize(
    "kind", ["flat, product", "flat, distance", "inverted lists", "graph"]
)
def test_an_index_that_finds_all_gives_the_exact_lists(vectors, kind):
    got, exact = knn(vectors, 7, index=make(kind, vectors)), knn(vectors, 7)
    np.testing.assert_array_equal(got.indices, exact.indices)
    np.testing.assert_allclose(got.similarities, exact.similarities, atol=1e-6)


def test_similarities_are_those_of_the_vectors_not_of_the_index(vectors):
    got = knn(vectors, 7, index=make("coarse", vectors))
    indices = np.asarray(got.indices)
    np.testing.assert_allclose(
        got.similarities,
        np.einsum("nkd,nd->nk", vectors[indices], vectors),
        atol=1e-6,
    )
    assert (np.diff(np.asarray(got.similarities), axis=1) <= 0).all()
    assert recall(got, vectors) > 0.9


@pytest.mark.usefixtures("x64")
def test_doubles_get_double_similarities(collection):
    got = knn(collection.vectors, 7, index=make("flat, product", collection.vectors))
    exact = knn(collection.vectors, 7)
    np.testing.assert_array_equal(got.indices, exact.indices)
    np.testing.assert_allclose(got.similarities, exact.similarities, rtol=1e-14)


def test_missing_results_are_empty_slots_but_the_vector_itself_is_listed():
    # Two distant clusters of 3, one list searched: no vector sees the other cluster.
    vectors = np.repeat(np.eye(2, dtype=np.float32), 3, axis=0)
    quantizer = faiss.IndexFlatIP(2)
    index = faiss.IndexIVFFlat(quantizer, 2, 2, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1
    index.train(vectors)
    index.add(vectors)
    got = knn(vectors, 5, index=index)
    np.testing.assert_array_equal(got.indices[0], [0, 1, 2, -1, -1])
    np.testing.assert_array_equal(got.indices[4], [3, 4, 5, -1, -1])
    np.testing.assert_array_equal(got.similarities[0], [1, 1, 1, 0, 0])


def test_a_vector_that_the_index_omits_among_duplicates_is_inserted():
    vectors = np.ones((9, 2), np.float32)
    got = np.asarray(knn(vectors, 2, index=make("flat, product", vectors)).indices)
    assert (got == np.arange(9)[:, None]).any(1).all()


@pytest.mark.parametrize("subset", [np.s_[:-1], np.s_[:, :-1]])
def test_rejects_an_index_of_another_size(vectors, subset):
    other = make("flat, product", np.ascontiguousarray(vectors[subset]))
    with pytest.raises(ValueError, match=r"index must hold the \d+ vectors of 12 dim"):
        knn(vectors, 3, index=other)


def test_rejects_an_index_with_numbers_of_its_own(vectors):
    n, d = vectors.shape
    index = faiss.IndexIDMap(faiss.IndexFlatIP(d))
    index.add_with_ids(vectors, np.arange(n) + 100)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ValueError, match="index must number the vectors from 0 to"):
        knn(vectors, 3, index=index)


@pytest.mark.parametrize("method", ["nn-descent", "sharded"])
def test_rejects_an_index_together_with_another_search(vectors, method):
    index = make("flat, product", vectors)
    with pytest.raises(ValueError, match=f"index must be None with method '{method}'"):
        knn(vectors, 3, index=index, method=method)
