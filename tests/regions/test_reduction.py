import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from diffjax.regions import Mixture, fit_mixture, reduce_regions
from diffjax.regions._reduction import _directions

KEY = jax.random.key(3)
ROWS = 12
COUNTS = np.array([5, 1, 4, 2])  # Regions of each image.
IDS = np.repeat(np.arange(4), COUNTS)
# Few shapes and settings, so that few programs are compiled.
reduce = functools.partial(
    reduce_regions, components=3, key=KEY, num_images=ROWS, max_regions=ROWS
)


@pytest.fixture
def vectors():
    return draw(0)


def draw(seed):
    """12 unit vectors, float32."""
    found = np.random.default_rng(seed).normal(size=(ROWS, 4))
    return jnp.asarray(unit(found), jnp.float32)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_every_image_gets_the_means_of_its_own_mixture(vectors):
    got = reduce(vectors, IDS)
    for image in 0, 3:
        own = jnp.asarray(vectors[image == IDS])
        key = jax.random.fold_in(KEY, image)
        fitted = fit_mixture(own, components=3, key=key)
        means = np.asarray(fitted.means)[np.asarray(fitted.weights) > 0]
        rows = np.asarray(got.vectors)[np.asarray(got.image_ids) == image]
        np.testing.assert_allclose(rows, unit(means), atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(
    ids=st.lists(st.integers(0, 4), min_size=ROWS, max_size=ROWS),
    copies=st.lists(st.integers(0, ROWS - 1), min_size=ROWS, max_size=ROWS),
    seed=st.integers(0, 99),
)
def test_no_image_is_lost_and_none_gets_more_than_it_has(ids, copies, seed):
    ids = np.unique(ids, return_inverse=True)[1]
    ids.sort()
    vectors = draw(seed)[np.array(copies)]
    got = reduce(vectors, ids)
    np.testing.assert_allclose(np.linalg.norm(got.vectors, axis=1), 1, rtol=1e-5)
    distinct = [
        len(np.unique(np.array(copies)[ids == image])) for image in range(ids[-1] + 1)
    ]
    rows = np.bincount(got.image_ids)
    assert (np.diff(got.image_ids) >= 0).all()
    assert len(rows) == len(distinct)
    assert (rows >= 1).all()
    assert (rows <= np.minimum(3, distinct)).all()
    few = np.array(distinct) <= 3
    np.testing.assert_array_equal(rows[few], np.array(distinct)[few])


def test_as_many_components_as_regions_give_the_regions_back(vectors):
    got = reduce_regions(vectors, IDS, components=5, key=KEY, covariance="spherical")
    np.testing.assert_array_equal(got.image_ids, IDS)
    for image in range(4):
        rows = np.asarray(got.vectors)[np.asarray(got.image_ids) == image]
        own = np.asarray(vectors[image == IDS])
        np.testing.assert_allclose(
            rows[np.lexsort(rows.T)], own[np.lexsort(own.T)], atol=1e-4
        )


def test_regions_about_few_directions_are_replaced_by_these():
    rng = np.random.default_rng(1)
    directions = unit(rng.normal(size=(2, 3, 4)))  # Of two images.
    noise = 1e-3 * rng.normal(size=(2, 2, 3, 4))
    regions = unit(directions[:, None] + noise).reshape(12, 4)
    got = reduce(jnp.asarray(regions, jnp.float32), np.repeat([0, 1], 6))
    np.testing.assert_array_equal(got.image_ids, np.repeat([0, 1], 3))
    for rows, expected in zip(
        np.asarray(got.vectors).reshape(2, 3, 4), directions, strict=True
    ):
        np.testing.assert_allclose(
            rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)], atol=5e-3
        )


def test_slots_for_regions_that_are_not_there_change_nothing(vectors):
    got = reduce(vectors, IDS)
    tight = reduce_regions(vectors, IDS, components=3, key=KEY)
    np.testing.assert_array_equal(got.image_ids, tight.image_ids)
    np.testing.assert_allclose(got.vectors, tight.vectors, atol=1e-5)


def test_an_image_does_not_depend_on_the_others(vectors):
    others = vectors.at[5:].set(draw(8)[5:])
    first, second = reduce(vectors, IDS), reduce(others, IDS)
    np.testing.assert_allclose(first.vectors[:3], second.vectors[:3], atol=1e-6)
    assert not np.allclose(first.vectors[4:7], second.vectors[4:7], atol=1e-2)


def test_more_images_than_a_batch_are_all_reduced():
    rng = np.random.default_rng(2)
    vectors = jnp.asarray(unit(rng.normal(size=(35, 4))), jnp.float32)
    got = reduce_regions(vectors, components=2, key=KEY)
    np.testing.assert_array_equal(got.image_ids, np.arange(35))
    np.testing.assert_allclose(got.vectors, vectors, atol=1e-6)


def test_regions_that_cancel_are_stood_for_by_the_first():
    vectors = jnp.asarray([[0.6, 0.8], [-0.6, -0.8], [0.0, 1.0]], jnp.float32)
    got = reduce_regions(vectors, np.array([0, 0, 1]), components=1, key=KEY)
    np.testing.assert_allclose(got.vectors, [[0.6, 0.8], [0, 1]], atol=1e-6)


def test_the_gradient_is_finite_where_regions_cancel():
    vectors = jnp.asarray([[0.6, 0.8], [-0.6, -0.8]], jnp.float32)
    one = jnp.ones(1, jnp.float32)

    def total(vectors):
        means = vectors.mean(0, keepdims=True)
        mixture = Mixture(one, means, jnp.ones_like(means), one[0])
        return _directions(vectors, jnp.ones(2, jnp.bool_), mixture).sum()

    # Of x1 / |x1|, summed, with x1 = (0.6, 0.8): (1, 1) - 1.4 x1.
    expected = [[1 - 1.4 * 0.6, 1 - 1.4 * 0.8], [0, 0]]
    np.testing.assert_allclose(jax.grad(total)(vectors), expected, atol=1e-6)


def test_under_jit_dropped_components_are_zero_rows(vectors):
    call = functools.partial(reduce, num_images=4, max_regions=5)
    expected = call(vectors, IDS)
    got = jax.jit(call)(vectors, jnp.asarray(IDS))
    np.testing.assert_array_equal(got.image_ids, np.repeat(np.arange(4), 3))
    kept = np.asarray(got.vectors).any(1)
    np.testing.assert_array_equal(got.image_ids[kept], expected.image_ids)
    np.testing.assert_allclose(got.vectors[kept], expected.vectors, atol=1e-5)


def test_an_image_with_more_regions_than_stated_shows_under_jit(vectors):
    call = jax.jit(functools.partial(reduce, num_images=4, max_regions=4))
    got = np.asarray(call(vectors, jnp.asarray(IDS)).vectors)
    assert np.isnan(got[:3]).all()
    assert np.isfinite(got[3:]).all()


@pytest.mark.parametrize("missing", ["num_images", "max_regions"])
def test_traced_ids_need_the_counts(vectors, missing):
    call = functools.partial(reduce, **{missing: None})
    with pytest.raises(ValueError, match=f"{missing} must be given under jit"):
        jax.jit(call)(vectors, jnp.asarray(IDS))


@pytest.mark.usefixtures("x64")
def test_gradients_match_finite_differences():
    regions = np.random.default_rng(4).normal(size=(7, 2))

    @jax.jit
    def call(vectors, regularization):
        return reduce_regions(
            vectors,
            np.array([0, 0, 0, 0, 1, 2, 2]),
            components=2,
            key=KEY,
            restarts=2,
            steps=3,
            regularization=regularization,
        ).vectors

    arguments = jnp.asarray(unit(regions)), jnp.asarray(0.3)
    check_grads(call, arguments, order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"components": 0}, "components must be at least 1, got 0"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"regularization": 0.0}, "regularization must be .* above 0, got 0.0"),
        ({"covariance": "full"}, "covariance must be one of .*, got 'full'"),
        ({"image_ids": IDS[::-1]}, "image_ids must start at 0"),
        ({"image_ids": IDS[:3]}, "one id per row, 12, got"),
        ({"num_images": 3}, "num_images must be at least 4, got 3"),
        ({"max_regions": 3}, "max_regions must be at least 5, got 3"),
        ({"vectors": jnp.zeros((12, 4))}, "vectors must have a direction"),
        ({"vectors": jnp.full((12, 4), jnp.nan)}, "vectors must be finite"),
        ({"vectors": np.ones((12, 4))}, "vectors must be float32 here"),
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
