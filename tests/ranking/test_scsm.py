import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import global_descriptors
from small_collection import scorer_arguments

from diffjax.ranking import _neighbor_reranking, nearest_neighbors, scsm_reranking

FULL = pytest.mark.full


def ranks_for(vector, images):
    """Ranks of images by similarity from 1, ties by lower index, and their order."""
    similar = [float(image @ vector) for image in images]
    order = sorted(range(len(images)), key=lambda x: (-similar[x], x))
    return {image: position + 1 for position, image in enumerate(order)}, order


def scores_by_definition(images, queries, k):
    """Scores by the definition, by loops."""
    scores = np.zeros((len(images), len(queries)))
    for j, query in enumerate(queries):
        query_ranks, order = ranks_for(query, images)
        for x in range(len(images)):
            scores[x, j] = 1 / query_ranks[x]
            for i, neighbor in enumerate(order[:k], start=1):
                ranks, _ = ranks_for(images[neighbor], images)
                scores[x, j] += 1 / (i + 1) / ranks[x]
    return scores


@pytest.fixture(scope="module")
def planted():
    """Images a, b, u, t and a query; a and b are near t, and u to none of them.

    The query's own order is a, b, u, t.
    """
    similar = np.eye(5)
    for pair, value in {
        (0, 1): 0.75,
        (0, 2): 0.73,
        (0, 3): 0.6,
        (0, 4): 0.5,
        (1, 2): 0.6,
        (1, 3): 0.3,
        (1, 4): 0.7,
        (2, 3): 0.3,
        (2, 4): 0.7,
        (3, 4): 0.1,
    }.items():
        similar[pair] = similar[pair[::-1]] = value
    vectors = np.linalg.cholesky(similar).astype(np.float32)
    return jnp.asarray(vectors[1:]), jnp.asarray(vectors[:1])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "k", [1000, *(pytest.param(k, marks=FULL) for k in (0, 3, 24))]
)
def test_agrees_with_the_definition_by_loops(collection, k):
    vectors, ids, queries, query_ids = collection
    got = scsm_reranking(
        jnp.asarray(vectors), ids, jnp.asarray(queries), query_ids, k=k
    )
    expected = scores_by_definition(
        global_descriptors(vectors, ids), global_descriptors(queries, query_ids), k
    )
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_agrees_with_four_images_by_hand(planted):
    images, query = planted
    got = np.asarray(scsm_reranking(images, np.arange(4), query, np.arange(1), k=2))
    # Ranks of a, b, u, t: 1 2 3 4 for the query, 1 3 4 2 for a, 3 1 4 2 for b.
    expected = [
        1 / 1 + 1 / 2 * 1 / 1 + 1 / 3 * 1 / 3,
        1 / 2 + 1 / 2 * 1 / 3 + 1 / 3 * 1 / 1,
        1 / 3 + 1 / 2 * 1 / 4 + 1 / 3 * 1 / 4,
        1 / 4 + 1 / 2 * 1 / 2 + 1 / 3 * 1 / 2,
    ]
    np.testing.assert_allclose(got[:, 0], expected, rtol=1e-6)


def test_images_near_the_nearest_images_rank_above_nearer_strangers(planted):
    images, query = planted
    arguments = images, np.arange(4), query, np.arange(1)
    near, reranked = (
        np.argsort(-np.asarray(scores)[:, 0]).tolist()
        for scores in (nearest_neighbors(*arguments), scsm_reranking(*arguments, k=2))
    )
    assert near == [0, 1, 2, 3]
    assert reranked == [0, 1, 3, 2]


def test_k_0_ranks_like_nearest_neighbours(collection):
    arguments = scorer_arguments(collection)
    got, near = (
        np.asarray(scores)
        for scores in (scsm_reranking(*arguments, k=0), nearest_neighbors(*arguments))
    )
    order = np.argsort(-near, axis=0)
    np.testing.assert_array_equal(np.argsort(-got, axis=0), order)
    first_to_last = np.take_along_axis(got, order, axis=0)
    np.testing.assert_allclose(first_to_last[:, 0], 1 / np.arange(1.0, 25), rtol=1e-6)


def test_single_precision_with_default_k_agrees_with_loops(collection):
    vectors, ids, queries, query_ids = collection
    got = scsm_reranking(*scorer_arguments(collection))
    expected = scores_by_definition(
        global_descriptors(vectors, ids), global_descriptors(queries, query_ids), 10
    )
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_permuting_images_permutes_scores(collection):
    vectors, ids, queries, query_ids = scorer_arguments(collection)
    order = np.random.default_rng(0).permutation(24)
    moved = np.concatenate([np.flatnonzero(ids == image) for image in order])
    new = np.repeat(np.arange(24), np.bincount(ids)[order])
    moved_vectors = jnp.asarray(np.asarray(vectors)[moved])
    np.testing.assert_allclose(
        scsm_reranking(moved_vectors, new, queries, query_ids),
        np.asarray(scsm_reranking(vectors, ids, queries, query_ids))[order],
        rtol=1e-6,
    )


def test_scores_of_a_query_do_not_depend_on_other_queries(collection):
    vectors, ids, queries, query_ids = scorer_arguments(collection)
    together = np.asarray(scsm_reranking(vectors, ids, queries, query_ids))
    # Queries 0 and 4 have one region each: one program for both.
    for query in (0, 4):
        region = jnp.asarray(np.asarray(queries)[query_ids == query])
        alone = scsm_reranking(vectors, ids, region, np.zeros(1, int))
        np.testing.assert_allclose(alone, together[:, [query]], rtol=1e-6)


def test_block_size_does_not_change_scores(collection, monkeypatch):
    arguments = scorer_arguments(collection)
    together = scsm_reranking(*arguments)
    monkeypatch.setattr(_neighbor_reranking, "_MAX_RANKS_HELD", 1)
    # Two queries more, of no regions: a program that no other test keeps.
    one_by_one = scsm_reranking(*arguments, num_queries=7)
    np.testing.assert_allclose(np.asarray(one_by_one)[:, :5], together, rtol=1e-6)


def test_a_single_image_scores_one_and_a_half():
    # Rank 1 for the query, and 1/2 of rank 1 for itself.
    eye = np.eye(2, dtype=np.float32)
    image, queries = jnp.asarray(eye[:1]), jnp.asarray(eye)
    got = scsm_reranking(image, np.arange(1), queries, np.arange(2))
    np.testing.assert_allclose(got, [[1.5, 1.5]])


def test_duplicates_rank_by_lower_index():
    eye = np.eye(5, dtype=np.float32)
    images, query = jnp.asarray(eye[[1, 0, 0, 0]]), jnp.asarray(eye[:1])
    got = np.asarray(scsm_reranking(images, np.arange(4), query, np.arange(1), k=2))
    # The query and its two nearest twins all rank the images 1, 2, 3, 0.
    ranks = np.array([4, 1, 2, 3])
    np.testing.assert_allclose(got[:, 0], (1 + 1 / 2 + 1 / 3) / ranks)


def test_images_without_regions_rank_last_and_empty_queries_score_zero(
    collection,
):
    arguments = scorer_arguments(collection)
    got = np.asarray(scsm_reranking(*arguments, k=30, num_images=26, num_queries=6))
    np.testing.assert_array_equal(got[24:], 0)
    np.testing.assert_array_equal(got[:, 5], 0)
    images, queries = (
        global_descriptors(*side) for side in (collection[:2], collection[2:])
    )
    expected = scores_by_definition(images, queries, 24)
    np.testing.assert_allclose(got[:24, :5], expected, rtol=1e-6)


def test_zero_queries_or_zero_images_give_empty_scores(collection):
    vectors, ids, queries, query_ids = scorer_arguments(collection)
    nothing = jnp.asarray(np.zeros((0, 12), np.float32))
    assert scsm_reranking(vectors, ids, nothing, ids[:0]).shape == (24, 0)
    assert scsm_reranking(nothing, ids[:0], queries, query_ids).shape == (0, 5)


def test_traced_ids_under_jit_give_equal_scores(collection):
    arguments = scorer_arguments(collection)
    traced = jax.jit(lambda *a: scsm_reranking(*a, num_images=24, num_queries=5))
    np.testing.assert_allclose(
        traced(*(jnp.asarray(a) for a in arguments)),
        scsm_reranking(*arguments),
        rtol=1e-6,
    )


def test_ranks_have_no_gradient(collection):
    vectors, ids, queries, query_ids = scorer_arguments(collection)
    slope = jax.grad(lambda v: scsm_reranking(v, ids, queries, query_ids).sum())
    np.testing.assert_array_equal(jax.jit(slope)(vectors), 0)


@pytest.mark.usefixtures("unchecked")
def test_rejects_bad_arguments():
    eye, ids = jnp.asarray(np.eye(3, dtype=np.float32)), np.arange(3)
    good = eye, ids, eye, ids
    with pytest.raises(ValueError, match="k must be at least 0, got -1"):
        scsm_reranking(*good, k=-1)
    with pytest.raises(ValueError, match="image_ids must start at 0, got 1"):
        scsm_reranking(good[0], np.arange(1, 4), *good[2:])
    with pytest.raises(ValueError, match="the database's 3 dimensions, got 2"):
        scsm_reranking(*good[:2], jnp.asarray(np.eye(2, dtype=np.float32)), ids[:2])
    with pytest.raises(ValueError, match="num_images must be given under jit"):
        jax.jit(scsm_reranking)(*(jnp.asarray(a) for a in good))


@pytest.mark.full
def test_eager_and_compiled_scores_agree(planted):
    images, query = planted
    arguments = images, np.arange(4), query, np.arange(1)
    with jax.disable_jit():
        got = scsm_reranking(*arguments, k=2)
    np.testing.assert_allclose(got, scsm_reranking(*arguments, k=2), rtol=1e-6)
