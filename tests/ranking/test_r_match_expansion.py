import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import check_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import unit_rows
from small_collection import scorer_arguments

from diffjax.ranking import r_match
from diffjax.ranking._query_expansion import average_query_expansion, r_match_expansion


def matches(images, regions):
    """R-match of one query: the best similarity of each region, summed."""
    return np.array(
        [sum(max(x @ z for x in image) for z in regions) for image in images]
    )


def by_loops(vectors, image_ids, queries, query_ids, *, k):
    """Scores by loops over queries, regions and images."""
    images = [vectors[image_ids == i] for i in np.unique(image_ids)]
    columns = []
    for query in np.unique(query_ids):
        regions = queries[query_ids == query]
        scores = matches(images, regions)
        best = sorted(range(len(images)), key=lambda i: (-scores[i], i))[:k]
        expanded = []
        for region in regions:
            best_matches = [max(images[i], key=lambda x, z=region: x @ z) for i in best]
            expanded.append(unit_rows(np.sum([region, *best_matches], axis=0)))
        columns.append(matches(images, expanded))
    return np.stack(columns, axis=1)


def direction(degrees):
    """A unit vector of the first two of six dimensions; None is one of zeros."""
    vector = np.zeros(6, np.float32)
    if degrees is not None:
        vector[:2] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return vector


def search(scorer, images, queries, **settings):
    """Scores of images that are lists of regions for queries that are, too.

    Filled up to one size, so that one program serves many tests: the database with
    copies of its last region, the queries with regions of zeros, a query of their own.
    """
    regions = [region for image in images for region in image]
    query_regions = [region for query in queries for region in query]
    padding, query_padding = 8 - len(regions), 4 - len(query_regions)
    regions += padding * regions[-1:]
    query_regions += query_padding * [direction(None)]
    ids = np.repeat(range(len(images)), [len(image) for image in images])
    query_ids = np.repeat(range(len(queries)), [len(query) for query in queries])
    last = len(queries) - (query_padding == 0)
    scores = scorer(
        jnp.asarray(np.array(regions)),
        np.append(ids, np.full(padding, ids[-1])),
        jnp.asarray(np.array(query_regions)),
        np.append(query_ids, np.full(query_padding, last)),
        num_images=5,
        num_queries=4,
        **settings,
    )
    return np.asarray(scores)[: len(images), : len(queries)]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("k", [pytest.param(1, marks=pytest.mark.full), 1000])
def test_agrees_with_loops_over_queries_regions_and_images(collection, k):
    got = r_match_expansion(*scorer_arguments(collection, np.float64), k=k)
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, by_loops(*collection, k=k), rtol=1e-10)


def test_single_precision_with_default_k_agrees_with_loops(collection):
    got = r_match_expansion(*scorer_arguments(collection))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, by_loops(*collection, k=10), atol=1e-5)


def draw_images(seed, *, images, regions):
    """Images of random unit regions of six dimensions."""
    drawn = np.random.default_rng(seed).normal(size=(images, regions, 6))
    return unit_rows(drawn).astype(np.float32)


def test_k_0_equals_r_match():
    case = draw_images(0, images=4, regions=2), draw_images(1, images=2, regions=2)
    np.testing.assert_allclose(
        search(r_match_expansion, *case, k=0), search(r_match, *case), atol=2e-6
    )


def test_single_regions_equal_average_query_expansion():
    case = draw_images(0, images=5, regions=1), draw_images(1, images=4, regions=1)
    np.testing.assert_allclose(
        search(r_match_expansion, *case, k=2),
        search(average_query_expansion, *case, k=2),
        atol=2e-6,
    )


def test_expansion_finds_the_region_at_the_end_of_a_chain():
    # In each image one region of the plane, 0 over 5 and 35 to 70 degrees or a
    # stranger's at -60, and one of clutter in a direction of its own.
    clutter = np.eye(6, dtype=np.float32)[2:]
    regions = map(direction, [70, -60, 5, 35])
    images = [list(image) for image in zip(regions, clutter, strict=True)]
    query = [[direction(0)]]
    plain = search(r_match, images, query)
    np.testing.assert_array_equal(np.argsort(-plain[:, 0]), [2, 3, 1, 0])
    got = search(r_match_expansion, images, query, k=2)
    np.testing.assert_array_equal(np.argsort(-got[:, 0]), [2, 3, 0, 1])


def test_regions_take_their_best_match_in_images_chosen_by_all_regions():
    # Image 0 has something for both regions, so it is the best; image 1 has a twin of
    # the first alone, which must not be taken though it is the best for that.
    x, y, z = np.eye(6, dtype=np.float32)[:3]
    images = [[0.8 * x + 0.6 * y, 0.6 * y + 0.8 * z], [x], [y]]
    got = search(r_match_expansion, images, [[x, z]], k=1)[:, 0]
    # x becomes (1.8, 0.6, 0) / sqrt(3.6), and z the same turned round: image 2 matches
    # both with 0.6 / sqrt(3.6), image 1 with 1.8 / sqrt(3.6) and 0.
    np.testing.assert_allclose(got[2], 2 * 0.6 / np.sqrt(3.6), rtol=1e-6)
    np.testing.assert_allclose(got[1], 1.8 / np.sqrt(3.6), rtol=1e-6)


@pytest.mark.parametrize("side", [1, -1])
def test_equal_images_and_equal_regions_take_the_lower_index(side):
    # All regions are 60 degrees away, on one side or the other, exactly.
    first, other = direction(60), direction(60)
    other[1] *= -1
    first[1], other[1] = side * first[1], side * other[1]
    query = [[direction(0)]]
    # The query is turned by 30 degrees towards the region that it takes.
    near, far = np.cos(np.radians([30, 90]))
    for images, expected in (
        ([[first], [other]], [near, far]),
        ([[first, other], [other]], [near, far]),
        ([[first, other], [first]], [near, near]),
    ):
        got = search(r_match_expansion, images, query, k=1)
        np.testing.assert_allclose(got[:, 0], expected, atol=1e-6)


def test_images_without_regions_are_never_answers_and_rank_last(collection):
    arguments = scorer_arguments(collection)
    got = r_match_expansion(*arguments, num_images=26, num_queries=6, k=25)
    got = np.asarray(got)
    np.testing.assert_array_equal(got[24:, :5], -np.inf)
    np.testing.assert_array_equal(got[:, 5], 0)
    np.testing.assert_allclose(got[:24, :5], by_loops(*collection, k=24), atol=1e-5)


def test_zero_regions_are_not_expanded_and_change_no_others():
    images = [[direction(degrees)] for degrees in (0, 20, 100)]
    zero, region = direction(None), direction(10)
    got = search(r_match_expansion, images, [[zero, region], [zero]], k=2)
    np.testing.assert_array_equal(got[:, 1], 0)
    alone = search(r_match_expansion, images, [[region]], k=2)
    np.testing.assert_allclose(got[:, 0], alone[:, 0], atol=1e-6)


def test_zero_queries_or_zero_regions_are_accepted(collection):
    vectors, ids, queries, query_ids = scorer_arguments(collection)
    nothing = jnp.asarray(np.zeros((0, 12), np.float32))
    assert r_match_expansion(vectors, ids, nothing, ids[:0]).shape == (24, 0)
    assert r_match_expansion(nothing, ids[:0], queries, query_ids).shape == (0, 5)
    got = r_match_expansion(nothing, ids[:0], queries, query_ids, num_images=2)
    np.testing.assert_array_equal(got, -np.inf)


def test_several_blocks_of_regions_agree_with_loops(collection):
    # No multiple of the regions of a batch.
    vectors, ids, _, _ = scorer_arguments(collection)
    queries = unit_rows(np.random.default_rng(2).normal(size=(40, 12))).astype(
        np.float32
    )
    query_ids = np.repeat(range(4), [1, 14, 5, 20])
    got = r_match_expansion(vectors, ids, jnp.asarray(queries), query_ids, k=3)
    expected = by_loops(np.asarray(vectors), ids, queries, query_ids, k=3)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_traced_ids_under_jit_give_equal_scores(collection):
    arguments = scorer_arguments(collection)
    counted = functools.partial(r_match_expansion, num_images=24, num_queries=5)
    got = jax.jit(counted)(*(jnp.asarray(a) for a in arguments))
    np.testing.assert_allclose(got, r_match_expansion(*arguments), atol=2e-6)


@pytest.mark.full
def test_eager_and_compiled_scores_agree():
    images = [[direction(degrees)] for degrees in (0, 20, 100)]
    queries = [[direction(10), direction(50)]]
    compiled = search(r_match_expansion, images, queries, k=2)
    with jax.disable_jit():
        eager = search(r_match_expansion, images, queries, k=2)
    np.testing.assert_allclose(eager, compiled, atol=2e-6)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 999))
def test_permuting_images_permutes_scores_and_region_order_is_irrelevant(seed):
    images = draw_images(seed, images=4, regions=2)
    queries = draw_images(seed + 1, images=2, regions=2)
    got = search(r_match_expansion, images, queries, k=2)
    shuffled = np.random.default_rng(seed).permutation(4)
    again = search(r_match_expansion, images[shuffled][:, ::-1], queries[:, ::-1], k=2)
    np.testing.assert_allclose(again, got[shuffled], atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_gradients_agree_with_finite_differences(collection):
    vectors, ids, queries, query_ids = collection

    def scores(vectors, queries):
        return r_match_expansion(vectors, ids, queries, query_ids, k=1)

    check_gradient(scores, (vectors, queries))


def test_gradients_are_finite_with_empty_images_and_zero_regions():
    queries = np.diag([1, 0, 0])[:2].astype(np.float32)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(vectors, queries):
        arguments = vectors, np.arange(3), queries, np.array([0, 0])
        return r_match_expansion(*arguments, num_images=4, k=4)[:3].sum()

    for gradient in gradients(np.eye(3, dtype=np.float32), queries):
        assert np.isfinite(gradient).all()


@pytest.mark.usefixtures("unchecked")
def test_rejects_invalid_settings_and_inputs():
    eye, ids = jnp.asarray(np.eye(3, dtype=np.float32)), np.arange(3)
    with pytest.raises(ValueError, match="k must be at least 0, got -2"):
        r_match_expansion(eye, ids, eye, ids, k=-2)
    with pytest.raises(ValueError, match="query_ids must start at 0, got 1"):
        r_match_expansion(eye, ids, eye, ids + 1)
    with pytest.raises(ValueError, match="the database's 3 dimensions, got 2"):
        r_match_expansion(eye, ids, jnp.asarray(np.eye(2, dtype=np.float32)), ids[:2])
    with pytest.raises(ValueError, match="num_images must be given under jit"):
        jax.jit(lambda traced: r_match_expansion(eye, traced, eye, ids))(
            jnp.asarray(ids)
        )
