import faiss
import numpy as np
import pytest

from diffjax.graph import _knn, affinity, knn, recall

_FEWEST_FOR_NN_DESCENT = 300


@pytest.fixture(autouse=True)
def fewer(monkeypatch):
    """Starts the approximate search at fewer vectors, to be done sooner."""
    monkeypatch.setattr(_knn, "_FEWEST_FOR_NN_DESCENT", _FEWEST_FOR_NN_DESCENT)


def draw(n, dtype: type = np.float32):
    """Unit vectors in 30 clusters of very different sizes."""
    rng = np.random.default_rng(3)
    share = 1 / np.arange(1, 31)
    owner = rng.choice(30, size=n, p=share / share.sum())
    vectors = rng.normal(size=(30, 16))[owner] + 0.5 * rng.normal(size=(n, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def vectors(request):
    if request.param == np.float64:
        request.getfixturevalue("x64")
    return draw(400, request.param)


def test_finds_nearly_all_with_their_similarities(vectors):
    got = knn(vectors, 20, method="nn-descent")
    assert recall(got, vectors, sample=len(vectors)) > 0.98
    indices = np.asarray(got.indices)
    assert indices.min() >= 0
    products = np.einsum("nkd,nd->nk", vectors[indices], vectors)
    tolerance = 1e-6 if vectors.dtype == np.float32 else 1e-14
    np.testing.assert_allclose(got.similarities, products, atol=tolerance)
    assert got.similarities.dtype == vectors.dtype


def test_lists_are_sorted_without_repetitions_and_hold_the_vector_itself(vectors):
    got = knn(vectors, 20, method="nn-descent")
    indices, similarities = np.asarray(got.indices), np.asarray(got.similarities)
    assert (indices == np.arange(len(vectors))[:, None]).any(1).all()
    assert (np.diff(np.sort(indices, axis=1), axis=1) > 0).all()
    steps = np.diff(similarities, axis=1)
    assert (steps <= 0).all()
    assert (np.diff(indices, axis=1)[steps == 0] > 0).all()


@pytest.mark.parametrize("k", [1, 2, 100])
def test_lists_may_be_short_or_long(k):
    vectors = draw(400)
    got = knn(vectors, k, method="nn-descent")
    assert got.indices.shape == (400, k)
    assert recall(got, vectors) > 0.95


def test_the_same_seed_gives_the_same_lists_on_one_thread(monkeypatch):
    # So short a search misses some neighbours, which ones depends on the start.
    for name in "_JOINED_PER_ROUND", "_SPARE_NEIGHBORS", "_MIN_REMEMBERED":
        monkeypatch.setattr(_knn, name, 8)
    vectors = np.random.default_rng(0).normal(size=(400, 32)).astype(np.float32)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        runs = [knn(vectors, 5, method="nn-descent", seed=s) for s in (1, 1, 2)]
    finally:
        faiss.omp_set_num_threads(threads)
    first, again, other = (np.asarray(run.indices) for run in runs)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_few_vectors_are_searched_exactly():
    vectors = draw(_FEWEST_FOR_NN_DESCENT)
    got, exact = knn(vectors, 200, method="nn-descent"), knn(vectors, 200)
    np.testing.assert_array_equal(got.indices, exact.indices)


def test_equal_vectors_have_full_lists():
    got = knn(np.ones((400, 4), np.float32), 9, method="nn-descent")
    assert np.asarray(got.indices).min() >= 0
    np.testing.assert_array_equal(got.similarities, 4.0)


@pytest.mark.usefixtures("x64")
def test_doubles_beyond_single_precision_are_searched():
    vectors = draw(400, np.float64)
    got = knn(vectors * 2.0**200, 9, method="nn-descent")
    assert recall(got, vectors) > 0.98


def test_its_graph_is_nearly_the_exact_one():
    vectors = draw(400)
    exact = affinity(knn(vectors, 20)).to_scipy()
    near = affinity(knn(vectors, 20, method="nn-descent")).to_scipy()
    assert abs(exact - near).sum() < 0.02 * exact.sum()


def test_rejects_a_k_above_500():
    with pytest.raises(ValueError, match=r"k must be at most 500 .* got 501"):
        knn(draw(600), 501, method="nn-descent")
