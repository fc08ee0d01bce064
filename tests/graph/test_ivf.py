import faiss
import numpy as np
import pytest

from diffjax.graph import (
    _ivf,
    affinity,
    cluster_vectors,
    default_cluster_count,
    knn,
    recall,
    refine_neighbors,
    search_clusters,
)

_FEWEST_FOR_IVF = 300


@pytest.fixture(autouse=True)
def fewer(monkeypatch):
    """Starts the approximate search at fewer vectors, read in small blocks."""
    monkeypatch.setattr(_ivf, "_FEWEST_FOR_IVF", _FEWEST_FOR_IVF)
    monkeypatch.setattr(_ivf, "CLUSTER_BLOCK_ROWS", 128)


def draw(n, dtype: type = np.float32, *, dim=16, seed=3):
    """Unit vectors in 30 clusters of very different sizes."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, 31)
    owner = rng.choice(30, size=n, p=share / share.sum())
    vectors = rng.normal(size=(30, dim))[owner] + 0.5 * rng.normal(size=(n, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def vectors(request):
    if request.param == np.float64:
        request.getfixturevalue("x64")
    return draw(600, request.param)


def clustered(vectors, count):
    return cluster_vectors(lambda rows: vectors[rows], len(vectors), count=count)


def searched(vectors, count, k, **settings):
    """Lists by the numbers of the vectors, searched in clusters."""
    clusters = clustered(vectors, count)
    indices = np.empty((len(vectors), k), np.int64)
    similarities = np.empty((len(vectors), k))
    for lists in search_clusters(vectors[clusters.order], clusters, k, **settings):
        rows = clusters.order[lists.start : lists.start + len(lists.indices)]
        indices[rows] = clusters.order[lists.indices]
        similarities[rows] = lists.similarities
    return indices, similarities


@pytest.mark.parametrize("count", [1, 7, 40, 500])
def test_clusters_are_a_partition_and_none_is_large(count):
    vectors = draw(500)
    got = clustered(vectors, count)
    np.testing.assert_array_equal(np.sort(got.order), np.arange(500))
    sizes = np.diff(got.starts)
    assert (got.starts[0], got.starts[-1]) == (0, 500)
    assert sizes.min() >= 1
    assert got.largest == sizes.max() <= max(np.ceil(2 * 500 / count), 2)
    for start, stop in zip(got.starts[:-1], got.starts[1:], strict=True):
        assert (np.diff(got.order[start:stop]) > 0).all()
    np.testing.assert_allclose(np.linalg.norm(got.centroids, axis=1), 1, rtol=1e-5)


def test_members_are_near_their_centroid_and_clusters_near_the_next():
    vectors = draw(1000)
    got = clustered(vectors, 40)
    ordered = vectors[got.order]
    centroids = np.repeat(got.centroids, np.diff(got.starts), axis=0)
    similarity = np.einsum("nd,nd->n", ordered, centroids).mean()
    assert similarity > 0.7
    assert similarity > 3 * (ordered @ got.centroids.T).mean()
    to_next = np.einsum("cd,cd->c", got.centroids[1:], got.centroids[:-1])
    assert to_next.mean() > 2 * (got.centroids @ got.centroids.T).mean()


def test_equal_vectors_are_halved_until_clusters_are_small():
    got = clustered(np.ones((400, 4), np.float32), 8)
    np.testing.assert_array_equal(np.sort(got.order), np.arange(400))
    assert got.largest <= 100


@pytest.mark.parametrize(
    ("count", "k"),
    [
        (6, 1),
        (1, 10),
        (60, 10),
        (6, 600),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in [(1, 1), (60, 1), (6, 10), (1, 600), (60, 600)]
        ),
    ],
)
def test_is_exact_when_all_clusters_are_probed(count, k):
    vectors = draw(600)
    indices, similarities = searched(vectors, count, k, probes=1000)
    products = vectors.astype(float) @ vectors.T.astype(float)
    best = -np.sort(-products, axis=1)[:, :k]
    np.testing.assert_allclose(similarities, best, atol=2e-6)
    listed = np.take_along_axis(products, indices, axis=1)
    np.testing.assert_allclose(listed, best, atol=2e-6)


def test_finds_more_the_more_clusters_are_probed():
    vectors = draw(2000)
    products = vectors @ vectors.T
    tenth = -np.sort(-products, axis=1)[:, 9]
    shares = []
    for probes in (1, 3, 10, 1000):
        indices, _ = searched(vectors, 80, 10, probes=probes)
        listed = np.take_along_axis(products, indices, axis=1)
        shares.append((listed >= tenth[:, None] - 1e-6).mean())
    assert shares == sorted(shares)
    assert shares[0] < 0.9 < shares[2]
    assert shares[3] == 1


def test_compares_no_more_pairs_than_its_probes_allow(monkeypatch):
    # The work is the number of pairs that faiss compares.
    pairs = []
    faiss_knn = faiss.knn

    def count(queries, candidates, *settings):
        pairs.append(len(queries) * len(candidates))
        return faiss_knn(queries, candidates, *settings)

    vectors = draw(2000)
    got = clustered(vectors, 80)
    monkeypatch.setattr(faiss, "knn", count)
    list(search_clusters(vectors[got.order], got, 10, probes=5))
    mean = 2000 / len(got.centroids)
    assert sum(pairs) <= 2000 * (5 * mean + got.largest)


def test_refinement_finds_more_and_loses_no_neighbour():
    vectors = draw(2000)
    got = clustered(vectors, 80)
    ordered = vectors[got.order]
    products = ordered @ ordered.T
    tenth = -np.sort(-products, axis=1)[:, 9:10]
    drafts = list(search_clusters(ordered, got, 10, probes=8))
    lists = np.concatenate([draft.indices for draft in drafts])
    before = np.concatenate([draft.similarities for draft in drafts])
    shares = [(before >= tenth - 1e-6).mean()]
    for max_candidates in (1, 100, 400):
        refined = list(
            refine_neighbors(ordered, got, lists, max_candidates=max_candidates)
        )
        after = np.concatenate([cluster.similarities for cluster in refined])
        assert (after >= before - 1e-6).all()
        indices = np.concatenate([cluster.indices for cluster in refined])
        listed = np.take_along_axis(products, indices, axis=1)
        np.testing.assert_allclose(listed, after, atol=2e-6)
        shares.append((after >= tenth - 1e-6).mean())
    assert shares == sorted(shares)
    assert shares[3] > shares[0] + 0.4 * (1 - shares[0])


def test_refinement_compares_no_more_than_max_candidates(monkeypatch):
    sizes = []
    faiss_knn = faiss.knn
    vectors = draw(2000)
    got = clustered(vectors, 80)
    ordered = vectors[got.order]
    drafts = list(search_clusters(ordered, got, 5, probes=2))
    lists = np.concatenate([draft.indices for draft in drafts])

    def count(queries, candidates, *settings):
        sizes.append(len(candidates) <= max(200, len(queries) * 5))
        return faiss_knn(queries, candidates, *settings)

    monkeypatch.setattr(faiss, "knn", count)
    list(refine_neighbors(ordered, got, lists, max_candidates=200))
    assert len(sizes) == len(got.centroids)
    assert all(sizes)


def test_can_start_at_any_cluster():
    vectors = draw(600)
    got = clustered(vectors, 12)
    ordered = vectors[got.order]
    whole = list(search_clusters(ordered, got, 5, probes=3))
    rest = list(search_clusters(ordered, got, 5, probes=3, first=4))
    for one, other in zip(whole[4:], rest, strict=True):
        assert one.start == other.start
        np.testing.assert_array_equal(one.indices, other.indices)
        np.testing.assert_array_equal(one.similarities, other.similarities)


def test_knn_finds_nearly_all_with_their_similarities(vectors):
    got = knn(vectors, 20, method="clusters")
    assert recall(got, vectors, sample=len(vectors)) > 0.95
    indices = np.asarray(got.indices)
    assert indices.min() >= 0
    products = np.einsum("nkd,nd->nk", vectors[indices], vectors)
    tolerance = 1e-6 if vectors.dtype == np.float32 else 1e-14
    np.testing.assert_allclose(got.similarities, products, atol=tolerance)
    assert got.similarities.dtype == vectors.dtype


def test_lists_are_sorted_without_repetitions_and_hold_the_vector_itself(vectors):
    got = knn(vectors, 20, method="clusters")
    indices, similarities = np.asarray(got.indices), np.asarray(got.similarities)
    assert (indices == np.arange(len(vectors))[:, None]).any(1).all()
    assert (np.diff(np.sort(indices, axis=1), axis=1) > 0).all()
    assert (np.diff(similarities, axis=1) <= 0).all()


def test_a_duplicate_is_in_its_own_list():
    vectors = np.repeat(draw(40), 20, axis=0)
    got = knn(vectors, 5, method="clusters")
    indices = np.asarray(got.indices)
    assert (indices == np.arange(800)[:, None]).any(1).all()
    assert (np.diff(np.sort(indices, axis=1), axis=1) > 0).all()
    np.testing.assert_allclose(got.similarities, 1, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 400])
def test_lists_may_be_short_or_as_long_as_there_are_vectors(k):
    vectors = draw(400)
    got = knn(vectors, k, method="clusters")
    assert got.indices.shape == (400, k)
    assert recall(got, vectors) > 0.95


def test_a_few_vectors_are_searched_exactly():
    vectors = draw(_FEWEST_FOR_IVF)
    got, exact = knn(vectors, 200, method="clusters"), knn(vectors, 200)
    np.testing.assert_array_equal(got.indices, exact.indices)


def test_its_graph_is_nearly_the_exact_one():
    vectors = draw(600)
    exact = affinity(knn(vectors, 20)).to_scipy()
    near = affinity(knn(vectors, 20, method="clusters")).to_scipy()
    assert abs(exact - near).sum() < 0.05 * exact.sum()


def test_clusters_grow_with_the_root_of_the_number_and_hold_k():
    assert default_cluster_count(10_000, 1) == 400
    assert default_cluster_count(1_000_000, 50) == 4000
    assert default_cluster_count(1000, 50) == 20
    assert default_cluster_count(3, 50) == 1
