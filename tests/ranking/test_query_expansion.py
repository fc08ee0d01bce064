import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import check_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import global_descriptors, unit_rows
from small_collection import scorer_arguments

from diffjax.ranking import nearest_neighbors
from diffjax.ranking._query_expansion import (
    alpha_query_expansion,
    average_query_expansion,
)

EXPANSIONS = [average_query_expansion, alpha_query_expansion]
both = pytest.mark.parametrize("expansion", EXPANSIONS)


def by_loops(vectors, image_ids, queries, query_ids, *, k, power):
    """Scores by loops over queries and answers."""
    database = global_descriptors(vectors, image_ids)
    columns = []
    for query in global_descriptors(queries, query_ids):
        similarities = [query @ image for image in database]
        answers = sorted(range(len(database)), key=lambda i: (-similarities[i], i))[:k]
        expanded = query.copy()
        for i in answers:
            expanded += max(similarities[i], 0.0) ** power * database[i]
        columns.append(database @ unit_rows(expanded))
    return np.stack(columns, axis=1)


def in_plane(images, queries, *, num_images=6, num_queries=3):
    """Images and queries of the plane, given in degrees; None is a vector of zeros.

    All are filled up with zeros to one size, so that one program serves many tests.
    """
    sides = []
    for degrees, count in (images, num_images), (queries, num_queries):
        vectors = np.zeros((count, 2), np.float32)
        for row, degree in zip(vectors, degrees, strict=False):
            if degree is not None:
                row[:] = np.cos(np.radians(degree)), np.sin(np.radians(degree))
        sides += [jnp.asarray(vectors), np.arange(count)]
    return tuple(sides)


def order(scores):
    """Positions by falling score of the first query, without those of zeros."""
    column = np.asarray(scores)[:, 0]
    return [i for i in np.argsort(-column, kind="stable") if column[i] != 0]


# The last k is more than there are images: then all are taken in, and with a power
# those of negative similarity have the weight 0.
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("k", [pytest.param(5, marks=pytest.mark.full), 1000])
def test_agrees_with_loops_over_queries_and_answers(collection, k):
    arguments = scorer_arguments(collection, np.float64)
    got = average_query_expansion(*arguments, k=k)
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, by_loops(*collection, k=k, power=0), rtol=1e-10)
    for power in 3.0, 0.5:
        np.testing.assert_allclose(
            alpha_query_expansion(*arguments, k=k, power=power),
            by_loops(*collection, k=k, power=power),
            rtol=1e-10,
        )


def test_defaults_are_k_10_and_k_50_with_power_3(collection):
    got = average_query_expansion(*scorer_arguments(collection))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, by_loops(*collection, k=10, power=0), atol=1e-5)
    settings = inspect.signature(alpha_query_expansion).parameters
    assert settings["k"].default == 50
    assert settings["power"].default == 3


@both
def test_k_0_equals_nearest_neighbours(expansion):
    arguments = in_plane([70, -60, 5, 35, None], [0, 50])
    np.testing.assert_allclose(
        expansion(*arguments, k=0), nearest_neighbors(*arguments), atol=1e-6
    )


def test_queries_without_similar_images_are_not_expanded_by_alpha():
    # Nothing is within 90 degrees of the first query; the second has a neighbour.
    case = in_plane([100, 180, 200], [0, 90])
    expanded, near = alpha_query_expansion(*case, k=2), nearest_neighbors(*case)
    moved = np.abs(np.asarray(expanded) - np.asarray(near))
    np.testing.assert_allclose(moved[:, 0], 0, atol=1e-6)
    assert moved[:, 1].max() > 0.01


@both
def test_expansion_finds_the_image_at_the_end_of_a_chain(expansion):
    # From the query at 0 over 5 and 35 to 70 degrees; a stranger lies at -60.
    case = in_plane([70, -60, 5, 35], [0])
    assert order(nearest_neighbors(*case)) == [2, 3, 1, 0]
    assert order(expansion(*case, k=2)) == [2, 3, 0, 1]


def test_weight_of_an_answer_is_a_power_of_its_similarity():
    # At 60 degrees the similarity is 1/2, so v = (1, 0) + (1/8) (1/2, sqrt(3)/2).
    got = np.asarray(alpha_query_expansion(*in_plane([60, 180], [0]), k=2))
    v = np.array([1 + 1 / 16, np.sqrt(3) / 16])
    np.testing.assert_allclose(got[1, 0], -v[0] / np.linalg.norm(v), rtol=1e-6)


@both
def test_equal_similarities_take_the_answer_of_lower_index(expansion):
    # The best answer is the query's twin; the second is to the left or to the right.
    left = np.asarray(expansion(*in_plane([60, 0, -60], [0]), k=2))
    right = np.asarray(expansion(*in_plane([-60, 0, 60], [0]), k=2))
    assert left[0, 0] > left[2, 0] + 0.05
    np.testing.assert_allclose(right, left, atol=1e-6)


@both
def test_zero_descriptors_are_never_answers(expansion):
    # Two images have regions that cancel, and one has none. By their similarity, 0,
    # they would come before the image at 120 degrees.
    vectors, _, *query = in_plane([0, None, 10, 120, 30, None], [0, None, None])
    vectors = np.array(vectors)
    vectors[[1, 5]] = -vectors[[0, 4]]
    ids = np.array([0, 0, 1, 2, 3, 3])
    got = np.asarray(expansion(jnp.asarray(vectors), ids, *query, num_images=5, k=2))
    one, two = unit_rows(vectors[2:4])
    weights = [max(x[0], 0) ** 3 for x in (one, two)]
    if expansion is average_query_expansion:
        weights = [1, 1]
    expanded = unit_rows(np.array([1, 0]) + weights[0] * one + weights[1] * two)
    np.testing.assert_allclose(got[1:3, 0], [one @ expanded, two @ expanded], atol=1e-6)
    np.testing.assert_array_equal(got[[0, 3, 4]], 0)


@both
def test_zero_queries_score_zero_and_change_no_others(expansion):
    images = [0, 20, 100]
    got = np.asarray(expansion(*in_plane(images, [None, 10, None]), k=2))
    np.testing.assert_array_equal(got[:, [0, 2]], 0)
    alone = np.asarray(expansion(*in_plane(images, [10]), k=2))
    np.testing.assert_allclose(got[:, 1], alone[:, 0], atol=1e-6)


def test_zero_queries_or_zero_images_give_empty_scores(collection):
    vectors, ids, queries, query_ids = scorer_arguments(collection)
    nothing = jnp.asarray(np.zeros((0, 12), np.float32))
    assert alpha_query_expansion(vectors, ids, nothing, ids[:0]).shape == (24, 0)
    got = average_query_expansion(nothing, ids[:0], queries, query_ids)
    assert got.shape == (0, 5)


def test_scores_of_a_query_do_not_depend_on_other_queries():
    # More queries than are expanded at a time, and no multiple of that.
    rng = np.random.default_rng(3)
    database = jnp.asarray(unit_rows(rng.normal(size=(12, 4))).astype(np.float32))
    queries = unit_rows(rng.normal(size=(130, 4))).astype(np.float32)
    search = functools.partial(alpha_query_expansion, database, np.arange(12), k=4)
    together = np.asarray(search(jnp.asarray(queries), np.arange(130)))
    for query in 0, 63, 64, 129:
        alone = search(jnp.asarray(queries[query, None]), np.arange(1))
        np.testing.assert_allclose(alone, together[:, [query]], atol=2e-6)


@pytest.mark.parametrize(
    "expansion",
    [
        alpha_query_expansion,
        pytest.param(average_query_expansion, marks=pytest.mark.full),
    ],
)
def test_traced_ids_under_jit_give_equal_scores(collection, expansion):
    arguments = scorer_arguments(collection)
    counted = functools.partial(expansion, num_images=24, num_queries=5, k=5)
    got = jax.jit(counted)(*(jnp.asarray(a) for a in arguments))
    power = 3 if expansion is alpha_query_expansion else 0
    np.testing.assert_allclose(got, by_loops(*collection, k=5, power=power), atol=1e-5)


@pytest.mark.full
def test_eager_and_compiled_scores_agree():
    case = in_plane([70, -60, 5, 35], [0])
    compiled = alpha_query_expansion(*case, k=2)
    with jax.disable_jit():
        eager = alpha_query_expansion(*case, k=2)
    np.testing.assert_allclose(eager, compiled, atol=2e-6)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 999), st.floats(0, 9))
def test_permuting_images_permutes_scores_and_scores_are_cosines(seed, power):
    rng = np.random.default_rng(seed)
    vectors = unit_rows(rng.normal(size=(12, 4))).astype(np.float32)
    queries = jnp.asarray(unit_rows(rng.normal(size=(1, 4))).astype(np.float32))

    def search(vectors):
        arguments = jnp.asarray(vectors), np.arange(12), queries, np.arange(1)
        return np.asarray(alpha_query_expansion(*arguments, k=4, power=power))

    got = search(vectors)
    assert (np.abs(got) <= 1 + 1e-5).all()
    shuffled = rng.permutation(12)
    np.testing.assert_allclose(search(vectors[shuffled]), got[shuffled], atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_gradients_agree_with_finite_differences(collection):
    vectors, ids, queries, query_ids = collection

    def scores(vectors, queries, power):
        return alpha_query_expansion(vectors, ids, queries, query_ids, k=5, power=power)

    check_gradient(scores, (vectors, queries, 1.7))


def test_gradients_are_finite_at_right_angles_and_for_zero_vectors():
    # Similarities exactly 0, below 0, and of images and queries of zeros.
    vectors, ids, queries, query_ids = in_plane([0, 90, 180, 120], [0])
    vectors = jnp.asarray(np.round(vectors, 3))

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2))
    def gradients(vectors, queries, power):
        arguments = vectors, ids, queries, query_ids
        return alpha_query_expansion(*arguments, k=6, power=power).sum()

    for power in 0.0, 0.5, 3.0:
        slopes = gradients(vectors, queries, np.float32(power))
        assert all(np.isfinite(slope).all() for slope in slopes)
        np.testing.assert_array_equal(np.asarray(slopes[1])[1:], 0)


def test_a_new_power_does_not_recompile(compiled):
    case = in_plane([70, -60, 5, 35], [0])
    alpha_query_expansion(*case, k=2, power=1.0)
    before = len(compiled)
    alpha_query_expansion(*case, k=2, power=2.0)
    assert len(compiled) == before


@pytest.mark.usefixtures("unchecked")
@both
def test_rejects_invalid_settings_and_inputs(expansion):
    eye, ids = jnp.asarray(np.eye(3, dtype=np.float32)), np.arange(3)
    with pytest.raises(ValueError, match="k must be at least 0, got -1"):
        expansion(eye, ids, eye, ids, k=-1)
    with pytest.raises(ValueError, match="image_ids must start at 0, got 1"):
        expansion(eye, ids + 1, eye, ids)
    with pytest.raises(ValueError, match="the database's 3 dimensions, got 2"):
        expansion(eye, ids, jnp.asarray(np.eye(2, dtype=np.float32)), ids[:2])
    with pytest.raises(ValueError, match="num_images must be given under jit"):
        jax.jit(lambda traced: expansion(eye, traced, eye, ids))(jnp.asarray(ids))
    for power in -0.5, float("nan"), float("inf"):
        with pytest.raises(ValueError, match="power must be finite and at least 0"):
            alpha_query_expansion(eye, ids, eye, ids, power=power)
