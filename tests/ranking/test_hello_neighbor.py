import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import check_gradient
from oracle import global_descriptors
from small_collection import scorer_arguments

from diffjax.ranking import hello_neighbor, nearest_neighbors


def close_images(images, query, k):
    """Close set by its definition, in Python sets."""
    m = len(images)

    def nearest(vector, among):
        return sorted(among, key=lambda x: (-(images[x] @ vector), x))[:k]

    lists = [nearest(images[x], set(range(m)) - {x}) for x in range(m)]
    mutual = [{y for y in lists[x] if x in lists[y]} for x in range(m)]
    first = {
        x
        for x in nearest(query, range(m))
        if len(lists[x]) < k or images[x] @ query >= images[x] @ images[lists[x][-1]]
    }
    close = set(first)
    for x in first:
        if len(mutual[x] & first) >= len(mutual[x]) / 2:
            close |= mutual[x]
    return close


def scores_by_definition(images, queries, k):
    """Scores by the definition, image by image."""
    scores = np.zeros((len(images), len(queries)))
    for j, query in enumerate(queries):
        close = close_images(images, query, k)
        for x, image in enumerate(images):
            mean = np.mean([image @ query, *(image @ images[c] for c in close)])
            scores[x, j] = 3 + image @ query if x in close else mean
    return scores


@pytest.fixture(scope="module")
def clusters():
    """60 images and 6 queries in 8 clusters, float64: close sets grow, and not all."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(8, 6))

    def draw(count):
        vectors = centres[rng.integers(8, size=count)]
        vectors = vectors + 0.5 * rng.normal(size=vectors.shape)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return draw(60), draw(6)


def on_circle(degrees):
    radians = np.deg2rad(np.array(degrees, np.float32))
    return jnp.asarray(np.stack([np.cos(radians), np.sin(radians)], axis=1))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("k", [4, 60, pytest.param(0, marks=pytest.mark.full)])
def test_agrees_with_the_definition_in_sets(clusters, k):
    images, queries = clusters
    got = hello_neighbor(
        jnp.asarray(images), np.arange(60), jnp.asarray(queries), np.arange(6), k=k
    )
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(
        got, scores_by_definition(images, queries, k), rtol=1e-12, atol=1e-14
    )


def test_agrees_with_the_definition_on_images_of_several_regions(collection):
    # In single precision, with the default of ten neighbours.
    vectors, ids, queries, query_ids = collection
    got = hello_neighbor(*scorer_arguments(collection))
    assert got.dtype == jnp.float32
    expected = scores_by_definition(
        global_descriptors(vectors, ids), global_descriptors(queries, query_ids), 10
    )
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_example_has_close_sets_that_grow_and_that_do_not(clusters):
    images, queries = clusters
    first = [len(close_images(images, query, 4)) for query in queries]
    # Only a set that grew has more than the 4 neighbours of its query.
    assert max(first) > 4 > min(first)


def test_neighbours_of_close_images_rank_above_nearer_strangers():
    # The query at 0; a chain of images at 10, 20, 30 degrees, and one alone at -25,
    # which has others of its own near it.
    images = on_circle([10, 20, 30, -25, -26, -27])
    arguments = images, np.arange(6), on_circle([0]), np.arange(1)
    near = np.asarray(nearest_neighbors(*arguments))[:, 0]
    assert np.argsort(-near)[:4].tolist() == [0, 1, 3, 4]
    got = hello_neighbor(*arguments, k=2)
    # N(q) = {0, 1}; image 0 has {1, 2} near it, the last at 20 degrees, so the query
    # at 10 is welcome; image 1 has {0, 2}, both at 10, and not the query at 20. So
    # R(q) = {0}, and R(0) = {1, 2} shares nothing with it.
    got = np.asarray(got)[:, 0]
    assert np.flatnonzero(got > 1.5).tolist() == [0]
    # Similarity to the middle of 0 and 10 degrees: 30 degrees comes before -25.
    assert np.argsort(-got).tolist() == [0, 1, 2, 3, 4, 5]


def test_mutual_neighbours_join_if_half_are_in_the_close_set():
    # Along the way from the query: 0 and 1 are near it, 2 is near 0 and 1 only.
    images = on_circle([8, -8, 13, 90, 91])
    arguments = images, np.arange(5), on_circle([0]), np.arange(1)
    got = np.asarray(hello_neighbor(*arguments, k=2))[:, 0]
    # N(0) = {2, 1}, N(1) = {0, 2}, N(2) = {0, 1}, all reciprocal; R(q) = {0, 1}; half
    # of R(0) lies in it, so that 2 is close as well.
    cosines = np.cos(np.deg2rad([8, -8, 13, 90, 91]))
    np.testing.assert_allclose(got[:3], 3 + cosines[:3], rtol=1e-6)
    members = np.cos(np.deg2rad(90 - np.array([0, 8, -8, 13])))
    np.testing.assert_allclose(got[3], members.mean(), rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_k_0_equals_nearest_neighbours(collection):
    vectors, ids, queries, query_ids = collection
    arguments = jnp.asarray(vectors), ids, jnp.asarray(queries), query_ids
    np.testing.assert_allclose(
        hello_neighbor(*arguments, k=0), nearest_neighbors(*arguments), rtol=1e-12
    )


def test_permuting_images_permutes_scores(collection):
    vectors, ids, queries, query_ids = scorer_arguments(collection)
    order = np.random.default_rng(0).permutation(24)
    moved = np.concatenate([np.flatnonzero(ids == image) for image in order])
    new = np.repeat(np.arange(24), np.bincount(ids)[order])
    moved_vectors = jnp.asarray(np.asarray(vectors)[moved])
    np.testing.assert_allclose(
        hello_neighbor(moved_vectors, new, queries, query_ids),
        np.asarray(hello_neighbor(vectors, ids, queries, query_ids))[order],
        rtol=1e-5,
        atol=1e-6,
    )


def test_scores_of_a_query_do_not_depend_on_other_queries(collection):
    vectors, ids, queries, query_ids = scorer_arguments(collection)
    together = np.asarray(hello_neighbor(vectors, ids, queries, query_ids))
    # Queries 0 and 4 have one region each: one program for both.
    for query in (0, 4):
        region = jnp.asarray(np.asarray(queries)[query_ids == query])
        alone = hello_neighbor(vectors, ids, region, np.zeros(1, int))
        np.testing.assert_allclose(alone, together[:, [query]], rtol=1e-5, atol=1e-6)


def test_a_single_image_is_close_to_every_query():
    # It has no others near it, so that any query is among its nearest.
    eye = np.eye(2, dtype=np.float32)
    image, queries = jnp.asarray(eye[:1]), jnp.asarray(eye)
    got = hello_neighbor(image, np.arange(1), queries, np.arange(2))
    np.testing.assert_allclose(got, [[4, 3]])


def test_any_query_is_a_neighbour_of_images_with_fewer_than_k_others():
    images = on_circle([0, 5, 11])
    arguments = images, np.arange(3), on_circle([120]), np.arange(1)
    cosines = np.cos(np.deg2rad([120, 115, 109]))
    got = hello_neighbor(*arguments, k=3)
    np.testing.assert_allclose(got, 3 + cosines[:, None], rtol=1e-6)


def test_a_query_is_no_neighbour_of_images_with_k_nearer_images():
    degrees = np.array([0, 5, 11, 180, 185, 191])
    case = on_circle(degrees), np.arange(6), on_circle([120]), np.arange(1)
    got = hello_neighbor(*case, k=2)
    expected = np.cos(np.deg2rad(degrees - 120))
    np.testing.assert_allclose(got, expected[:, None], rtol=1e-5)


def test_duplicates_beyond_k_are_cut_by_index():
    # Five images are one vector, which the query is; each one's 2 neighbours are the
    # first two of the others, so that R(0) = {1, 2}, R(1) = {0, 2} and R(2) = {0, 1}.
    eye = np.eye(2, dtype=np.float32)
    images, query = jnp.asarray(eye[[0, 0, 0, 0, 0, 1]]), jnp.asarray(eye[:1])
    got = np.asarray(hello_neighbor(images, np.arange(6), query, np.arange(1), k=2))
    np.testing.assert_allclose(got[:, 0], [4, 4, 4, 1, 1, 0])


def test_empty_images_and_queries_score_zero_and_change_no_others(collection):
    arguments = scorer_arguments(collection)
    got = np.asarray(hello_neighbor(*arguments, num_images=26, num_queries=6))
    np.testing.assert_array_equal(got[24:], 0)
    np.testing.assert_array_equal(got[:, 5], 0)
    expected = hello_neighbor(*arguments)
    np.testing.assert_allclose(got[:24, :5], expected, rtol=1e-5, atol=1e-6)


def test_zero_queries_or_zero_images_give_empty_scores(collection):
    vectors, ids, queries, query_ids = scorer_arguments(collection)
    nothing = jnp.asarray(np.zeros((0, 12), np.float32))
    assert hello_neighbor(vectors, ids, nothing, ids[:0]).shape == (24, 0)
    assert hello_neighbor(nothing, ids[:0], queries, query_ids).shape == (0, 5)


def test_traced_ids_under_jit_give_equal_scores(collection):
    arguments = scorer_arguments(collection)
    traced = jax.jit(lambda *a: hello_neighbor(*a, num_images=24, num_queries=5))
    np.testing.assert_allclose(
        traced(*(jnp.asarray(a) for a in arguments)),
        hello_neighbor(*arguments),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.full
@pytest.mark.usefixtures("x64")
def test_the_gradient_given_the_close_set_matches_finite_differences(collection):
    vectors, ids, queries, query_ids = collection

    def score(vectors, queries):
        return hello_neighbor(vectors, ids, queries, query_ids, k=4)

    check_gradient(score, (vectors, queries))


@pytest.mark.usefixtures("unchecked")
def test_rejects_bad_arguments():
    eye, ids = jnp.asarray(np.eye(3, dtype=np.float32)), np.arange(3)
    good = eye, ids, eye, ids
    with pytest.raises(ValueError, match="k must be at least 0, got -1"):
        hello_neighbor(*good, k=-1)
    with pytest.raises(ValueError, match="image_ids must start at 0, got 1"):
        hello_neighbor(good[0], np.arange(1, 4), *good[2:])
    with pytest.raises(ValueError, match="the database's 3 dimensions, got 2"):
        hello_neighbor(*good[:2], jnp.asarray(np.eye(2, dtype=np.float32)), ids[:2])
    with pytest.raises(ValueError, match="num_images must be given under jit"):
        jax.jit(hello_neighbor)(*(jnp.asarray(a) for a in good))
