import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import check_gradient
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.regions import Mixture, fit_mixture, reduce_regions
from diffjax.regions._reduction import _unit_means

KEY = jax.random.key(3)
ROWS = 20  # More than the images of a batch.
IDS = np.repeat(np.arange(4), [9, 1, 8, 2])
# Always the same shapes and settings, so that one program is compiled for all tests.
reduce = functools.partial(
    reduce_regions, components=3, key=KEY, num_images=ROWS, max_regions=ROWS
)
reduce_traced = jax.jit(functools.partial(reduce, num_images=4, max_regions=8))
# Eagerly every operation of it would be a program.
unit_means = jax.jit(_unit_means)


@pytest.fixture
def vectors():
    return draw(0)


def draw(seed):
    """20 unit vectors, float32."""
    raw = np.random.default_rng(seed).normal(size=(ROWS, 4))
    return jnp.asarray(unit(raw).astype(np.float32))


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_every_image_gets_the_means_of_its_own_mixture(vectors):
    # Two images of as many regions, so that one program fits both alone.
    ids = np.repeat(np.arange(4), [8, 1, 3, 8])
    reduced = reduce(vectors, ids)
    for image in 0, 3:
        regions = jnp.asarray(np.asarray(vectors)[image == ids])
        key = jax.random.fold_in(KEY, image)
        fitted = fit_mixture(regions, components=3, key=key)
        means = np.asarray(fitted.means)[np.asarray(fitted.weights) > 0]
        rows = np.asarray(reduced.vectors)[np.asarray(reduced.image_ids) == image]
        np.testing.assert_allclose(rows, unit(means), atol=1e-5)


@settings(deadline=None, max_examples=10)
@given(
    ids=st.lists(st.integers(0, 4), min_size=ROWS, max_size=ROWS),
    copies=st.lists(st.integers(0, ROWS - 1), min_size=ROWS, max_size=ROWS),
    seed=st.integers(0, 99),
)
def test_no_image_is_lost_and_none_gets_more_than_it_has(ids, copies, seed):
    ids = np.unique(ids, return_inverse=True)[1]
    ids.sort()
    vectors = jnp.asarray(np.asarray(draw(seed))[np.array(copies)])
    reduced = reduce(vectors, ids)
    np.testing.assert_allclose(np.linalg.norm(reduced.vectors, axis=1), 1, rtol=1e-5)
    distinct = [
        len(np.unique(np.array(copies)[ids == image])) for image in range(ids[-1] + 1)
    ]
    rows = np.bincount(reduced.image_ids)
    assert (np.diff(reduced.image_ids) >= 0).all()
    assert len(rows) == len(distinct)
    assert (rows >= 1).all()
    assert (rows <= np.minimum(3, distinct)).all()
    few = np.array(distinct) <= 3
    np.testing.assert_array_equal(rows[few], np.array(distinct)[few])


def test_as_many_components_as_regions_give_the_regions_back(vectors):
    ids = np.repeat(np.arange(7), [3, 3, 2, 3, 3, 3, 3])
    reduced = reduce(vectors, ids)
    np.testing.assert_array_equal(reduced.image_ids, ids)
    for image in range(7):
        means, regions = (
            np.asarray(rows)[image == ids] for rows in (reduced.vectors, vectors)
        )
        np.testing.assert_allclose(
            means[np.lexsort(means.T)], regions[np.lexsort(regions.T)], atol=1e-4
        )


def test_images_of_one_region_keep_it(vectors):
    got = reduce(vectors)
    np.testing.assert_array_equal(got.image_ids, np.arange(ROWS))
    np.testing.assert_allclose(got.vectors, vectors, atol=1e-6)


def test_regions_about_few_directions_are_replaced_by_these():
    rng = np.random.default_rng(1)
    directions = unit(rng.normal(size=(2, 1, 3, 4)))  # Of two images.
    regions = unit(directions + 1e-3 * rng.normal(size=(2, 3, 3, 4))).reshape(18, 4)
    vectors = np.concatenate([regions, directions[0, 0, :2]])
    got = reduce(jnp.asarray(vectors, jnp.float32), np.repeat([0, 1, 2], [9, 9, 2]))
    np.testing.assert_array_equal(got.image_ids, np.repeat([0, 1, 2], [3, 3, 2]))
    for image in range(2):
        rows = np.asarray(got.vectors)[3 * image : 3 * image + 3]
        expected = directions[image, 0]
        np.testing.assert_allclose(
            rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)], atol=5e-3
        )


def test_an_image_does_not_depend_on_the_others(vectors):
    changed = np.concatenate([vectors[:9], draw(8)[9:]])
    first, second = (
        np.asarray(reduce(rows, IDS).vectors)
        for rows in (vectors, jnp.asarray(changed))
    )
    np.testing.assert_allclose(first[:3], second[:3], atol=1e-6)
    assert not np.allclose(first[4:7], second[4:7], atol=1e-2)


def test_the_first_of_regions_that_cancel_stands_for_their_component():
    vectors = jnp.asarray([[0.6, 0.8], [-0.6, -0.8]], jnp.float32)

    def direction(vectors):
        means = vectors.mean(0, keepdims=True)
        weights = jnp.ones(1, jnp.float32)
        mixture = Mixture(weights, means, jnp.ones_like(means), weights[0])
        direction = unit_means(vectors, jnp.ones(2, jnp.bool_), mixture)
        return direction.sum(), direction

    gradient_and_value = jax.jit(jax.grad(direction, has_aux=True))
    gradient, direction_of_two = gradient_and_value(vectors)
    np.testing.assert_allclose(direction_of_two, [[0.6, 0.8]], atol=1e-6)
    # Of the sum over x / |x|: (1, 1) - 1.4 x where x is the first, of length 1.
    expected = [[1 - 1.4 * 0.6, 1 - 1.4 * 0.8], [0, 0]]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.full
def test_under_jit_dropped_components_are_zero_rows_and_excess_regions_show(vectors):
    got = reduce_traced(vectors, jnp.asarray(IDS))
    np.testing.assert_array_equal(got.image_ids, np.repeat(np.arange(4), 3))
    assert np.isnan(got.vectors[:3]).all()  # Of 9 regions.
    rows, ids = np.asarray(got.vectors[3:]), got.image_ids[3:]
    is_used = rows.any(1)
    expected = reduce(vectors, IDS)
    np.testing.assert_array_equal(ids[is_used], expected.image_ids[3:])
    np.testing.assert_allclose(rows[is_used], expected.vectors[3:], atol=1e-5)


def test_under_jit_nan_stays_in_its_image(vectors):
    ids = jnp.asarray(IDS)
    expected = np.asarray(reduce_traced(vectors, ids).vectors)
    got = np.asarray(reduce_traced(vectors.at[12].set(jnp.nan), ids).vectors)
    assert np.isnan(got[6:9]).any(1).all()
    np.testing.assert_array_equal(got[3:6], expected[3:6])
    np.testing.assert_array_equal(got[9:], expected[9:])


@pytest.mark.parametrize("missing", ["num_images", "max_regions"])
def test_traced_ids_need_the_counts(vectors, missing):
    call = functools.partial(reduce, **{missing: None})
    with pytest.raises(ValueError, match=f"{missing} must be given under jit"):
        jax.jit(call)(vectors, jnp.asarray(IDS))


@pytest.mark.full
@pytest.mark.usefixtures("x64")
def test_gradients_match_finite_differences():
    regions = np.random.default_rng(4).normal(size=(7, 2))

    def call(vectors, regularization):
        return reduce_regions(
            vectors,
            np.array([0, 0, 0, 0, 1, 2, 2]),
            components=2,
            key=KEY,
            regularization=regularization,
        ).vectors

    check_gradient(call, (unit(regions), 0.3), tolerance=1e-6)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"components": 0}, "components must be at least 1, got 0"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"regularization": 0.0}, "regularization must be .* above 0, got 0.0"),
        ({"covariance": "full"}, "covariance must be one of .*, got 'full'"),
        ({"image_ids": IDS[::-1]}, "image_ids must start at 0"),
        ({"image_ids": IDS[:3]}, "one id per row, 20, got"),
        ({"num_images": 3}, "num_images must be at least 4, got 3"),
        ({"max_regions": 3}, "max_regions must be at least 9, got 3"),
        ({"vectors": jnp.zeros((20, 4))}, "vectors must have a direction"),
        ({"vectors": jnp.full((20, 4), jnp.nan)}, "vectors must be finite"),
        ({"vectors": np.ones((20, 4))}, "vectors must be float32 here"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_rejects_bad_arguments(vectors, change, complaint):
    with pytest.raises(ValueError, match=complaint):
        reduce(**{"vectors": vectors, "image_ids": IDS} | change)


def test_no_regions_are_no_images():
    got = reduce_regions(jnp.zeros((0, 4)), key=KEY)
    assert got.vectors.shape == (0, 4)
    assert got.image_ids.shape == (0,)
