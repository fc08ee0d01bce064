import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from diffjax.regions import global_descriptors

IDS = np.array([0, 0, 0, 2, 2, 3])  # Image 1 has no region.


@pytest.fixture
def vectors():
    return jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)


def by_hand(vectors, ids, num_images):
    sums = np.stack([np.asarray(vectors)[ids == i].sum(0) for i in range(num_images)])
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return sums / np.where(norms > 0, norms, 1)


def test_every_image_gets_the_direction_of_its_sum(vectors):
    got = global_descriptors(vectors, IDS)
    np.testing.assert_allclose(got, by_hand(vectors, IDS, 4), atol=1e-6)
    np.testing.assert_array_equal(got[1], 0)


def test_more_images_than_the_ids_tell_are_zero(vectors):
    got = global_descriptors(vectors, jnp.asarray(IDS), num_images=6)
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


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(0, 99))
def test_length_is_one_and_order_within_an_image_does_not_matter(ids, seed):
    ids = np.sort(ids)
    rng = np.random.default_rng(seed)
    vectors = jnp.asarray(rng.normal(size=(len(ids), 3)), jnp.float32)
    got = global_descriptors(vectors, ids)
    lengths = np.linalg.norm(got, axis=1)
    np.testing.assert_allclose(lengths, np.bincount(ids) > 0, atol=1e-5)
    shuffled = np.lexsort([rng.random(len(ids)), ids])
    again = global_descriptors(vectors[shuffled], ids)
    np.testing.assert_allclose(again, got, atol=1e-4)


def test_regions_that_cancel_give_zero_with_a_finite_gradient():
    vectors = jnp.asarray([[1.0, 0.0], [-1.0, 0.0]])
    ids = np.array([0, 0])
    np.testing.assert_array_equal(global_descriptors(vectors, ids), 0)
    gradient = jax.grad(lambda v: global_descriptors(v, ids).sum())(vectors)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.usefixtures("x64")
def test_gradients_agree_with_finite_differences(vectors):
    aggregate = jax.jit(lambda v: global_descriptors(v, IDS))
    double = vectors.astype(jnp.float64)
    check_grads(aggregate, (double,), order=2, modes=["rev"])


def test_no_vectors_are_no_images(vectors):
    assert global_descriptors(vectors[:0], IDS[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    ("ids", "num_images", "message"),
    [
        ([0, 1, 0, 1, 1, 1], None, "image_ids must never fall, got 0 after 1 at 2"),
        ([-1, 0, 0, 1, 1, 1], None, "image_ids must be at least 0, got -1"),
        ([0, 1, 1, 1, 1, 5], 5, "num_images must be above the last of image_ids, 5"),
    ],
)
def test_ids_that_cannot_be_are_refused(vectors, ids, num_images, message):
    with pytest.raises(ValueError, match=message):
        global_descriptors(vectors, np.array(ids), num_images=num_images)
