import functools
from typing import Any

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
from diffjax.ranking._query_expansion import augment_descriptors, database_augmentation


def augmented_by_loops(database, *, k, power):
    """Augmented descriptors by loops over images and neighbours."""
    rows = []
    for position, image in enumerate(database):
        others = [i for i in range(len(database)) if i != position]
        similarities = {i: image @ database[i] for i in others}
        row = image.copy()
        for i in sorted(others, key=lambda i: (-similarities[i], i))[:k]:
            row += max(similarities[i], 0.0) ** power * database[i]
        rows.append(unit_rows(row))
    return np.array(rows)


def in_plane(*degrees):
    """Vectors of the plane, None one of zeros, filled up to five with zeros."""
    vectors = np.zeros((5, 2), np.float32)
    for row, degree in zip(vectors, degrees, strict=False):
        if degree is not None:
            row[:] = np.cos(np.radians(degree)), np.sin(np.radians(degree))
    return jnp.asarray(vectors)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("k", [pytest.param(5, marks=pytest.mark.full), 1000])
def test_agrees_with_loops_over_images_and_neighbours(collection, k):
    arguments = scorer_arguments(collection, np.float64)
    database = global_descriptors(collection.vectors, collection.image_ids)
    queries = global_descriptors(collection.queries, collection.query_ids)
    for power in 0.0, 0.5, 3.0:
        got = database_augmentation(*arguments, k=k, power=power)
        assert got.dtype == jnp.float64
        expected = augmented_by_loops(database, k=k, power=power) @ queries.T
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-14)


def test_default_is_the_mean_of_an_image_and_ten_neighbours(collection):
    got = database_augmentation(*scorer_arguments(collection))
    assert got.dtype == jnp.float32
    database = global_descriptors(collection.vectors, collection.image_ids)
    queries = global_descriptors(collection.queries, collection.query_ids)
    expected = augmented_by_loops(database, k=10, power=0) @ queries.T
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_several_blocks_of_images_agree_with_loops():
    database = unit_rows(np.random.default_rng(0).normal(size=(70, 3)))
    got = augment_descriptors(jnp.asarray(database.astype(np.float32)))
    expected = augmented_by_loops(database, k=10, power=0)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_k_0_equals_nearest_neighbours():
    images, queries = in_plane(70, -60, 5, 35, -62), in_plane(0, 20, None, 100)
    arguments = images, np.arange(5), queries, np.arange(5)
    np.testing.assert_allclose(
        database_augmentation(*arguments, k=0), nearest_neighbors(*arguments), atol=1e-6
    )


def test_images_without_similar_ones_do_not_move_under_a_power():
    database = in_plane(0, 120, 150)
    augmented = np.asarray(augment_descriptors(database, k=2, power=1.0))
    moved = np.abs(augmented - np.asarray(database))
    np.testing.assert_allclose(moved[0], 0, atol=1e-6)
    assert moved[1:3].max(1).min() > 0.1


def test_augmentation_finds_the_image_at_the_end_of_a_chain():
    # From the query at 0 over 5 and 35 to 70 degrees; two strangers near -60. With one
    # neighbour, the image at 70 moves to 52.5; the strangers have each other.
    images, queries = in_plane(70, -60, 5, 35, -62), in_plane(0)
    arguments = images, np.arange(5), queries, np.arange(5)
    near = np.asarray(nearest_neighbors(*arguments))[:, 0]
    np.testing.assert_array_equal(np.argsort(-near), [2, 3, 1, 4, 0])
    got = np.asarray(database_augmentation(*arguments, k=1))
    np.testing.assert_array_equal(np.argsort(-got[:, 0])[2], 0)
    np.testing.assert_allclose(got[0, 0], np.cos(np.radians(52.5)), rtol=1e-5)


def test_an_image_counts_once_also_among_duplicates():
    # Of three equal vectors each has the other two, so nothing moves; the fourth has
    # two of them: (2, 0) and itself, of 80 degrees.
    database = in_plane(0, 0, 0, 80)
    got = np.asarray(augment_descriptors(database, k=2))
    database = np.asarray(database)
    np.testing.assert_allclose(got[:3], database[:3], atol=1e-6)
    fourth = unit_rows(np.array([2, 0]) + database[3])
    np.testing.assert_allclose(got[3], fourth, atol=1e-6)


def test_equal_similarities_take_the_neighbour_of_lower_index():
    # The nearest of the vector at 0 is its twin; then come 60 and -60, exactly as far.
    database = np.array(in_plane(60, 0, 0, -60))
    database[3] = database[0] * [1, -1]
    for turned in database, database * np.array([1, -1], np.float32):
        got = np.asarray(augment_descriptors(jnp.asarray(turned), k=2))
        np.testing.assert_allclose(got[1], unit_rows([2, 0] + turned[0]), atol=1e-6)


@pytest.mark.parametrize("power", [0.0, 3.0])
def test_zero_descriptors_stay_zero_and_are_never_neighbours(power):
    # By similarity, 0, the vectors of zeros would come before the one at 120 degrees.
    database = in_plane(None, 10, 120, 240)
    got = np.asarray(augment_descriptors(database, k=2, power=power))
    np.testing.assert_array_equal(got[[0, 4]], 0)
    rows = np.asarray(database, np.float64)[1:4]
    expected = augmented_by_loops(unit_rows(rows), k=2, power=power)
    np.testing.assert_allclose(got[1:4], expected, atol=1e-6)


def test_images_and_queries_without_regions_score_zero(collection):
    arguments = scorer_arguments(collection)
    got = database_augmentation(*arguments, num_images=26, num_queries=6)
    got = np.asarray(got)
    np.testing.assert_array_equal(got[24:], 0)
    np.testing.assert_array_equal(got[:, 5], 0)
    np.testing.assert_allclose(
        got[:24, :5], database_augmentation(*arguments), atol=1e-6
    )


def test_zero_queries_zero_images_and_one_image_are_accepted(collection):
    vectors, ids, queries, query_ids = scorer_arguments(collection)
    nothing = jnp.asarray(np.zeros((0, 12), np.float32))
    assert database_augmentation(vectors, ids, nothing, ids[:0]).shape == (24, 0)
    assert database_augmentation(nothing, ids[:0], queries, query_ids).shape == (0, 5)
    one = jnp.asarray(np.asarray(in_plane(30))[:1])
    np.testing.assert_allclose(augment_descriptors(one), one, atol=1e-6)


@pytest.mark.full
def test_eager_and_compiled_scores_agree():
    database = in_plane(70, -60, 5, 35)
    compiled = augment_descriptors(database, k=2, power=2.0)
    with jax.disable_jit():
        eager = augment_descriptors(database, k=2, power=2.0)
    np.testing.assert_allclose(eager, compiled, atol=2e-6)


def test_traced_ids_under_jit_give_equal_scores(collection):
    arguments = scorer_arguments(collection)
    expected = database_augmentation(*arguments)
    counted = functools.partial(database_augmentation, num_images=24, num_queries=5)
    got = jax.jit(counted)(*(jnp.asarray(a) for a in arguments))
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_scores_of_a_query_do_not_depend_on_other_queries(collection):
    vectors, ids, queries, query_ids = scorer_arguments(collection)
    together = np.asarray(database_augmentation(vectors, ids, queries, query_ids))
    # The others all are this one.
    regions = np.asarray(queries)[np.flatnonzero(query_ids == 1)]
    same = jnp.asarray(np.resize(regions, queries.shape))
    numbers = np.minimum(np.arange(len(queries)) // len(regions), 4)
    alone = database_augmentation(vectors, ids, same, numbers, num_queries=5)
    np.testing.assert_allclose(alone[:, 0], together[:, 1], atol=1e-6)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 999), st.floats(0, 9))
def test_permuting_images_permutes_augmented_unit_vectors(seed, power):
    rng = np.random.default_rng(seed)
    database = unit_rows(rng.normal(size=(70, 3))).astype(np.float32)

    def augment(rows):
        return np.asarray(augment_descriptors(jnp.asarray(rows), k=10, power=power))

    got = augment(database)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    shuffled = rng.permutation(70)
    np.testing.assert_allclose(augment(database[shuffled]), got[shuffled], atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_gradients_agree_with_finite_differences(collection):
    vectors, ids, queries, query_ids = collection

    def scores(vectors, queries, power):
        return database_augmentation(vectors, ids, queries, query_ids, k=5, power=power)

    check_gradient(scores, (vectors, queries, 1.7))


def test_gradients_are_finite_for_images_that_are_zero_or_at_a_right_angle():
    database = jnp.asarray(np.round(in_plane(0, 90, 180), 3))

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(database, power):
        return augment_descriptors(database, k=4, power=power).sum()

    for power in 0.0, 0.5, 3.0:
        slopes = gradients(database, np.float32(power))
        assert all(np.isfinite(slope).all() for slope in slopes)


@pytest.mark.usefixtures("unchecked")
def test_rejects_invalid_settings_and_inputs():
    eye, ids = jnp.asarray(np.eye(3, dtype=np.float32)), np.arange(3)
    for call in (
        functools.partial(database_augmentation, eye, ids, eye, ids),
        functools.partial(augment_descriptors, eye),
    ):
        with pytest.raises(ValueError, match="k must be at least 0, got -1"):
            call(k=-1)
        with pytest.raises(ValueError, match=r"power must be .* at least 0, got -0\.5"):
            call(power=-0.5)
    with pytest.raises(ValueError, match="got 2 after 0 in row 1"):
        database_augmentation(eye, np.array([0, 2, 2]), eye, ids)
    with pytest.raises(ValueError, match="the database's 3 dimensions, got 2"):
        database_augmentation(
            eye, ids, jnp.asarray(np.eye(2, dtype=np.float32)), ids[:2]
        )
    double: Any = np.eye(3)
    with pytest.raises(ValueError, match="descriptors must be float32 here"):
        augment_descriptors(double)
    with pytest.raises(ValueError, match="num_images must be given under jit"):
        jax.jit(lambda traced: database_augmentation(eye, traced, eye, ids))(
            jnp.asarray(ids)
        )
