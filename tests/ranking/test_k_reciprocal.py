import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import global_descriptors
from small_collection import scorer_arguments

from diffjax.ranking import _k_reciprocal, k_reciprocal, nearest_neighbors

EYE = jnp.asarray(np.eye(3, dtype=np.float32))


def scores_by_definition(images, queries, *, k1=20, k2=6, lam=0.3):
    """Scores by the definition: dense, in Python sets, one query at a time."""
    return np.stack([scores_of_query(images, q, k1, k2, lam) for q in queries], axis=1)


def scores_of_query(images, query, k1, k2, lam):
    everything = np.vstack([images, query])
    similar = everything @ everything.T
    # One vector everywhere: any distance is 0, and so is its share of the largest.
    largest = (1 - similar).max(axis=1, keepdims=True)
    distance = (1 - similar) / np.where(largest > 0, largest, 1)
    itself_first = similar + np.diag(np.full(len(similar), np.inf))
    order = np.argsort(-itself_first, axis=1, kind="stable")

    def reciprocal(k):
        near = [set(row[: k + 1].tolist()) for row in order]
        return [{g for g in near[p] if p in near[g]} for p in range(len(near))]

    weights = np.zeros_like(similar)
    halves = reciprocal(round(k1 / 2))
    for p, members in enumerate(reciprocal(k1)):
        grown = set(members)
        for half in [halves[c] for c in members]:
            if len(half & members) > 2 / 3 * len(half):
                grown |= half
        for g in grown:
            weights[p, g] = np.exp(-distance[p, g])
        weights[p] /= weights[p].sum()
    averaged = np.array([weights[order[p, :k2]].mean(0) for p in range(len(order))])
    of_query = averaged[-1]
    smaller = np.minimum(of_query, averaged)
    larger = np.maximum(of_query, averaged)
    jaccard = 1 - smaller.sum(1) / larger.sum(1)
    return (1 - (1 - lam) * jaccard - lam * distance[-1])[:-1]


def clustered(images, queries, seed=0):
    """Unit vectors in 6 clusters, float64."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(6, 5))

    def draw(count):
        vectors = centres[rng.integers(6, size=count)]
        vectors = vectors + 0.6 * rng.normal(size=vectors.shape)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return draw(images), draw(queries)


def scores(images, queries, **settings):
    """Scores of images and queries of one vector each."""
    ids = np.arange(len(images)), np.arange(len(queries))
    return np.asarray(
        k_reciprocal(
            jnp.asarray(images), ids[0], jnp.asarray(queries), ids[1], **settings
        )
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"k1": 1, "k2": 1},
        pytest.param({"k1": 5, "k2": 3, "lam": 0.0}, marks=pytest.mark.full),
        {"k1": 7, "k2": 12, "lam": 0.7},
        {"k1": 30},
        {"k1": 200, "k2": 200},
    ],
    ids=str,
)
def test_agrees_with_the_dense_definition(chosen):
    images, queries = clustered(30, 4)
    got = scores(images, queries, **chosen)
    assert got.dtype == np.float64
    np.testing.assert_allclose(
        got, scores_by_definition(images, queries, **chosen), atol=1e-13
    )


@pytest.mark.usefixtures("x64")
def test_agrees_with_the_definition_on_images_of_several_regions(collection):
    vectors, ids, queries, query_ids = collection
    got = k_reciprocal(
        jnp.asarray(vectors), ids, jnp.asarray(queries), query_ids, k1=6, k2=3
    )
    images, wanted = (
        global_descriptors(vectors, ids),
        global_descriptors(queries, query_ids),
    )
    np.testing.assert_allclose(
        got, scores_by_definition(images, wanted, k1=6, k2=3), atol=1e-13
    )


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    # Widths of the lists that other tests have, but for one.
    k1=st.sampled_from([1, 7, 40]),
    k2=st.sampled_from([1, 12]),
    lam=st.floats(0, 1),
)
def test_any_collection_agrees_with_the_definition(seed, k1, k2, lam):
    chosen = {"k1": k1, "k2": k2, "lam": lam}
    with jax.enable_x64(True):
        images, queries = clustered(30, 4, seed)
        got = scores(images, queries, **chosen)
    np.testing.assert_allclose(
        got, scores_by_definition(images, queries, **chosen), atol=1e-13
    )
    assert got.min() >= 0
    assert got.max() <= 1


def test_single_precision_is_close_to_the_definition():
    images, queries = clustered(30, 4)
    got = scores(images.astype(np.float32), queries.astype(np.float32), k1=7)
    assert got.dtype == np.float32
    np.testing.assert_allclose(
        got, scores_by_definition(images, queries, k1=7), atol=1e-5
    )


def test_lam_1_ranks_like_nearest_neighbours(collection):
    arguments = scorer_arguments(collection)
    got = np.asarray(k_reciprocal(*arguments, lam=1))
    similar = np.asarray(nearest_neighbors(*arguments))
    np.testing.assert_array_equal(
        np.argsort(-got, axis=0), np.argsort(-similar, axis=0)
    )
    expected = 1 - (1 - similar) / (1 - similar).max(0)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_images_with_shared_neighbours_rank_above_nearer_strangers():
    # Degrees on a circle. The query at 0 is of the group at 6 to 24; what lies at -20
    # is nearer to it than 24 is, but has a group of its own, down to -28.
    degrees = np.deg2rad([6, 10, 14, 18, 24, -20, -22, -24, -26, -28])
    images = np.stack([np.cos(degrees), np.sin(degrees)], axis=1).astype(np.float32)
    query = np.array([[1, 0]], np.float32)
    similarities = (images @ query.T)[:, 0]
    assert similarities[5] > similarities[4]
    order = np.argsort(-scores(images, query, k1=4, k2=2)[:, 0])
    assert set(order[:5].tolist()) == {0, 1, 2, 3, 4}


def test_permuting_images_permutes_scores():
    images, queries = (x.astype(np.float32) for x in clustered(30, 4))
    order = np.random.default_rng(0).permutation(30)
    got = scores(images[order], queries, k1=7)
    expected = scores(images, queries, k1=7)[order]
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_scores_of_a_query_do_not_depend_on_other_queries():
    images, queries = (x.astype(np.float32) for x in clustered(30, 4))
    # Two that are alike would be neighbours in one set.
    queries[3] = queries[2]
    together = scores(images, queries, k1=7)
    np.testing.assert_array_equal(together[:, 3], together[:, 2])
    for query in (0, 2):
        alone = scores(images, queries[query : query + 1], k1=7)
        np.testing.assert_allclose(alone[:, 0], together[:, query], atol=1e-6)


def test_small_blocks_of_rows_agree_with_the_definition(monkeypatch):
    monkeypatch.setattr(_k_reciprocal, "_BLOCK_ROWS", 7)
    images, queries = clustered(29, 4)  # Of no other test, which keeps its programs.
    got = scores(images.astype(np.float32), queries.astype(np.float32), k1=7)
    np.testing.assert_allclose(
        got, scores_by_definition(images, queries, k1=7), atol=1e-5
    )


@pytest.mark.parametrize("k1", [1, 20])
def test_one_image_and_duplicates_agree_with_the_definition(k1):
    eye = np.eye(3, dtype=np.float32)
    for numbers in ([0], [0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 2, 0, 1]):
        images, queries = eye[numbers], eye[:2]
        got = scores(images, queries, k1=k1, k2=2)
        expected = scores_by_definition(images, queries, k1=k1, k2=2)
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_rounding_differences_of_equal_vectors_are_ignored():
    # The product of a vector with itself is not exactly 1, but above or below it.
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(12, 1, 48)).astype(np.float32)
    for vector in vectors / np.linalg.norm(vectors, axis=2, keepdims=True):
        got = scores(np.repeat(vector, 9, axis=0), vector, k1=3, k2=1, lam=1)
        np.testing.assert_allclose(got, 1, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_a_distant_query_rescales_distances_between_images():
    # It is among nobody's nearest, but everybody's farthest.
    images, _ = clustered(30, 4)
    images[:, 0] = 3 + np.abs(images[:, 0])
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    query = np.eye(5)[:1] * -1
    got = scores(images, query, k1=4, k2=3)
    np.testing.assert_allclose(
        got, scores_by_definition(images, query, k1=4, k2=3), atol=1e-13
    )


def test_empty_images_and_queries_score_zero_and_change_no_others(collection):
    arguments = scorer_arguments(collection)
    got = np.asarray(k_reciprocal(*arguments, k1=6, num_images=26, num_queries=6))
    np.testing.assert_array_equal(got[24:], 0)
    np.testing.assert_array_equal(got[:, 5], 0)
    expected = k_reciprocal(*arguments, k1=6)
    np.testing.assert_allclose(got[:24, :5], expected, atol=1e-6)


def test_zero_queries_or_zero_images_give_empty_scores():
    eye = np.eye(3, dtype=np.float32)
    assert scores(eye, eye[:0]).shape == (3, 0)
    assert scores(eye[:0], eye).shape == (0, 3)


def test_arguments_are_not_modified():
    images, queries = (x.astype(np.float32) for x in clustered(30, 4))
    vectors, wanted = jnp.asarray(images), jnp.asarray(queries)
    k_reciprocal(vectors, np.arange(30), wanted, np.arange(4))
    np.testing.assert_array_equal(vectors, images)
    np.testing.assert_array_equal(wanted, queries)


def test_rejects_traced_arguments():
    arguments = EYE, jnp.asarray(np.arange(3)), EYE, jnp.asarray(np.arange(3))
    with pytest.raises(ValueError, match="got traced ones: k_reciprocal runs on the"):
        jax.jit(lambda *a: k_reciprocal(*a, num_images=3, num_queries=3))(*arguments)
    with pytest.raises(ValueError, match="got traced ones"):
        jax.grad(lambda v: k_reciprocal(v, *arguments[1:]).sum())(arguments[0])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("chosen", "complaint"),
    [
        ({"k1": 0}, "k1 must be at least 1, got 0"),
        ({"k2": 0}, "k2 must be at least 1, got 0"),
        ({"lam": -0.1}, r"lam must be in \[0, 1\], got -0.1"),
        ({"lam": 1.5}, r"lam must be in \[0, 1\], got 1.5"),
        ({"lam": float("nan")}, r"lam must be in \[0, 1\], got nan"),
        ({"num_images": 2}, "num_images must be at least 3, got 2"),
    ],
)
def test_rejects_bad_settings(chosen, complaint):
    arguments = EYE, np.arange(3), EYE, np.arange(3)
    with pytest.raises(ValueError, match=complaint):
        k_reciprocal(*arguments, **chosen)


@pytest.mark.usefixtures("unchecked")
def test_rejects_bad_vectors_and_ids():
    good = EYE, np.arange(3), EYE, np.arange(3)
    with pytest.raises(ValueError, match="image_ids must start at 0, got 1"):
        k_reciprocal(good[0], np.arange(1, 4), *good[2:])
    with pytest.raises(ValueError, match="the database's 3 dimensions, got 2"):
        k_reciprocal(*good[:2], jnp.asarray(np.eye(2, dtype=np.float32)), np.arange(2))
    double = [np.eye(3), *good[1:]]
    with pytest.raises(ValueError, match="vectors must be float32 here, got float64"):
        k_reciprocal(*double)
