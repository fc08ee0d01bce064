import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import check_gradient
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.regions._global_descriptors import combine_scales, global_descriptors, rmac
from diffjax.regions._grid import region_boxes
from diffjax.types import Whitening

IDS = np.array([0, 0, 0, 2, 2, 3])  # Image 1 has no region.


@pytest.fixture
def vectors():
    raw = np.random.default_rng(0).normal(size=(6, 4))
    return jnp.asarray(raw.astype(np.float32))


def by_hand(vectors, ids, num_images):
    sums = np.stack([np.asarray(vectors)[ids == i].sum(0) for i in range(num_images)])
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return sums / np.where(norms > 0, norms, 1)


def test_every_image_gets_the_direction_of_its_sum(vectors):
    got = np.asarray(global_descriptors(vectors, IDS))
    np.testing.assert_allclose(got, by_hand(vectors, IDS, 4), atol=1e-6)
    np.testing.assert_array_equal(got[1], 0)


def test_images_beyond_the_last_id_are_zero(vectors):
    got = np.asarray(global_descriptors(vectors, jnp.asarray(IDS), num_images=6))
    np.testing.assert_allclose(got[:4], global_descriptors(vectors, IDS), atol=1e-6)
    np.testing.assert_array_equal(got[4:], 0)


def test_under_jit_the_number_of_images_must_be_given(vectors):
    ids = jnp.asarray(IDS)
    compiled = jax.jit(functools.partial(global_descriptors, num_images=4))
    np.testing.assert_allclose(
        compiled(vectors, ids), global_descriptors(vectors, ids), atol=1e-6
    )
    with pytest.raises(ValueError, match="num_images must be given under jit"):
        jax.jit(global_descriptors)(vectors, ids)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 4), min_size=9, max_size=9), st.integers(0, 99))
def test_length_is_one_and_order_within_an_image_does_not_matter(ids, seed):
    ids = np.sort(ids)
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(ids), 3)).astype(np.float32)
    got = global_descriptors(jnp.asarray(vectors), ids, num_images=5)
    lengths = np.linalg.norm(got, axis=1)
    np.testing.assert_allclose(lengths, np.bincount(ids, minlength=5) > 0, atol=1e-5)
    shuffled = np.lexsort([rng.random(len(ids)), ids])
    again = global_descriptors(jnp.asarray(vectors[shuffled]), ids, num_images=5)
    np.testing.assert_allclose(again, got, atol=1e-4)


def test_regions_that_cancel_give_zero_with_a_finite_gradient():
    vectors = jnp.asarray([[1.0, 0.0], [-1.0, 0.0]])
    ids = np.array([0, 0])
    np.testing.assert_array_equal(global_descriptors(vectors, ids), 0)
    gradient = jax.jit(jax.grad(lambda v: global_descriptors(v, ids).sum()))(vectors)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.usefixtures("x64")
def test_gradients_agree_with_finite_differences(vectors):
    double = np.asarray(vectors, np.float64)
    check_gradient(lambda v: global_descriptors(v, IDS), (double,), order=2)


def test_no_vectors_are_no_images(vectors):
    assert global_descriptors(vectors[:0], IDS[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    ("ids", "num_images", "message"),
    [
        ([0, 1, 0, 1, 1, 1], None, "ids must never decrease, got 0 after 1 in row 2"),
        ([-1, 0, 0, 1, 1, 1], None, "image_ids must be at least 0, got -1"),
        ([0, 1, 1, 1, 1, 5], 5, "num_images must be above the last of image_ids, 5"),
    ],
)
def test_ids_that_cannot_be_are_refused(vectors, ids, num_images, message):
    with pytest.raises(ValueError, match=message):
        global_descriptors(vectors, np.array(ids), num_images=num_images)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_a_whitening_of_the_sums_is_the_other_reading(vectors):
    rng = np.random.default_rng(1)
    whitening = Whitening(
        *(jnp.asarray(rng.normal(size=s).astype(np.float32)) for s in ((4,), (4, 2)))
    )
    got = global_descriptors(vectors, IDS, whitening=whitening)
    sums = by_hand(vectors, IDS, 4)
    want = unit((sums - np.asarray(whitening.mean)) @ np.asarray(whitening.projection))
    want[1] = 0  # An image without vectors has no sum, and not the mean's opposite.
    np.testing.assert_allclose(got, want, atol=1e-6)
    slopes = jax.jit(
        jax.grad(lambda v: global_descriptors(v, IDS, whitening=whitening).sum())
    )(np.zeros((6, 4), np.float32))
    np.testing.assert_array_equal(slopes, 0)


def test_rmac_is_the_direction_of_the_sum_of_the_directions_of_the_maxima():
    rng = np.random.default_rng(2)
    maps = rng.uniform(0, 1, size=(2, 4, 5, 3)).astype(np.float32)
    boxes = region_boxes(np.array([[4, 5], [3, 3]]), stride=1, max_regions=40).boxes
    got = np.asarray(rmac(jnp.asarray(maps), jnp.asarray(boxes)))
    for image, regions in enumerate(boxes):
        maxima = [
            maps[image, y0:y1, x0:x1].max((0, 1)) for y0, x0, y1, x1 in regions if y1
        ]
        np.testing.assert_allclose(got[image], unit(unit(maxima).sum(0)), rtol=1e-5)


combine_compiled = jax.jit(combine_scales)  # With a power that has no value yet.
combine_slopes = jax.jit(jax.grad(lambda v, p: combine_scales(v, p=p).sum()))


@pytest.fixture
def scales():
    """Vectors [3, 2, 4] of two pictures at three scales, above zero."""
    values = np.random.default_rng(4).uniform(0.1, 2, size=(3, 2, 4))
    return values.astype(np.float32)


def combine(vectors, **settings):
    return np.asarray(combine_scales(jnp.asarray(vectors), **settings))


@pytest.mark.parametrize("p", [1.0, 2.5, 100.0])
def test_scales_are_combined_by_their_power_mean(scales, p):
    units = unit(scales.astype(np.float64))
    want = unit((units**p).mean(0) ** (1 / p))
    np.testing.assert_allclose(combine(scales, p=p), want, rtol=1e-5)
    np.testing.assert_allclose(combine_compiled(scales * 7, p=p), want, rtol=1e-5)


def test_one_scale_or_equal_scales_are_left_alone(scales):
    for p in (1.0, 3.0):
        got = combine(scales[[0, 0, 0]], p=p)
        np.testing.assert_allclose(got, unit(scales[0]), rtol=1e-5)
        np.testing.assert_allclose(combine(scales[:1], p=p), got, rtol=1e-5)


def test_the_mean_of_scales_takes_vectors_of_any_sign(scales):
    signed = scales - 1
    want = unit(unit(signed).mean(0))
    np.testing.assert_allclose(combine(signed), want, atol=1e-6)
    # Vectors that cancel have no direction; a number that cancels has a slope.
    opposite = np.stack([signed[0], -signed[0], 0 * signed[0]])
    np.testing.assert_array_equal(combine(opposite), 0)
    crossed = np.array([[[0.6, 0.8]], [[0.6, -0.8]]], np.float32)
    slopes = jax.jit(jax.grad(lambda v: combine_scales(v)[0, 1]))(crossed)
    assert (np.asarray(slopes)[:, 0, 1] > 0).all()


def test_a_channel_dark_at_all_scales_stays_dark_with_a_finite_gradient(scales):
    dark = scales.copy()
    dark[:, :, 1] = 0
    got = combine(dark, p=3.0)
    np.testing.assert_array_equal(got[:, 1], 0)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, rtol=1e-6)
    for vectors in (dark, np.zeros_like(dark)):
        assert np.isfinite(combine_slopes(vectors, 3.0)).all()


@pytest.mark.usefixtures("x64")
def test_gradients_of_combined_scales_agree_with_finite_differences(scales):
    check_gradient(
        lambda v, p: combine_scales(v, p=p), (scales.astype(np.float64), 2.5)
    )


def test_scales_and_powers_that_cannot_be_are_refused(scales):
    with pytest.raises(ValueError, match="at least one scale, got none"):
        combine(scales[:0])
    with pytest.raises(ValueError, match=r"p must be finite and at least 1, got 0\.5"):
        combine(scales, p=0.5)
