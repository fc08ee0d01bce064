import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from diffjax.regions import (
    l2_normalize,
    max_pool_regions,
    max_regions,
    region_boxes,
    rmac_grid,
)

TRANSFORMS = pytest.mark.parametrize(
    "transform", [lambda f: f, jax.jit], ids=["eager", "jit"]
)


@pytest.fixture
def maps(rng):
    """Two maps [2, 5, 7, 3] of values below zero, so that a 0 would be seen."""
    return jnp.asarray(rng.normal(size=(2, 5, 7, 3)) - 10, jnp.float32)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


BOXES = np.array(
    [
        [[0, 0, 5, 7], [1, 2, 3, 6], [4, 6, 5, 7], [0, 0, 0, 0]],
        [[0, 0, 1, 1], [2, 0, 5, 3], [0, 3, 5, 4], [1, 1, 4, 4]],
    ],
    np.int32,
)


@TRANSFORMS
def test_each_region_gives_the_largest_value_of_its_slice(maps, transform):
    got = transform(max_pool_regions)(maps, jnp.asarray(BOXES))
    for image in range(2):
        for slot, (y0, x0, y1, x1) in enumerate(BOXES[image]):
            cells = np.asarray(maps)[image, y0:y1, x0:x1]
            want = cells.max((0, 1)) if cells.size else np.zeros(3)
            np.testing.assert_array_equal(got[image, slot], want)


def test_what_lies_outside_the_boxes_is_never_used(maps):
    boxes = jnp.asarray([[[0, 0, 4, 5]], [[0, 0, 4, 5]]])
    padding = [(0, 0), (0, 3), (0, 2), (0, 0)]
    spoilt = jnp.pad(maps[:, :4, :5], padding, constant_values=jnp.nan)
    np.testing.assert_array_equal(
        max_pool_regions(spoilt, boxes), max_pool_regions(maps, boxes)
    )


def test_not_a_number_inside_a_region_comes_out(maps):
    spoilt = maps.at[0, 2, 3, 1].set(jnp.nan)
    got = np.isnan(max_pool_regions(spoilt, jnp.asarray(BOXES)))
    assert got[0, :, 1].tolist() == [True, True, False, False]
    assert not got[1].any()


def test_pooling_maps_over_a_batch_of_batches(maps):
    boxes = jnp.asarray(BOXES)
    got = jax.vmap(max_pool_regions)(maps[None], boxes[None])[0]
    np.testing.assert_array_equal(got, max_pool_regions(maps, boxes))


def test_the_gradient_goes_to_the_largest_cells_and_nowhere_else(maps):
    got = jax.grad(lambda m: max_pool_regions(m, jnp.asarray(BOXES)).sum())(maps)
    want = np.zeros(maps.shape)
    for image in range(2):
        for y0, x0, y1, x1 in BOXES[image]:
            cells = np.asarray(maps)[image, y0:y1, x0:x1]
            if cells.size:
                want[image, y0:y1, x0:x1] += cells == cells.max((0, 1))
    np.testing.assert_array_equal(got, want)


def test_no_regions_are_allowed(maps):
    assert max_pool_regions(maps, jnp.zeros((2, 0, 4), jnp.int32)).shape == (2, 0, 3)


def test_boxes_follow_the_size_without_padding():
    sizes = np.array([[320, 320], [320, 240], [300, 231]], np.int32)
    got = region_boxes(sizes, stride=32, max_regions=25)
    # 240 / 32 = 7.5 and 231 / 32 = 7.2 are eight cells, 300 / 32 = 9.4 ten.
    for boxes, count, size in zip(*got, [(10, 10), (10, 8), (10, 8)], strict=True):
        np.testing.assert_array_equal(boxes[:count], rmac_grid(*size))
        np.testing.assert_array_equal(boxes[count:], 0)


def test_the_largest_number_of_regions_is_what_boxes_need():
    sizes = np.array([[320, 320], [320, 96], [320, 256]], np.int32)
    most = max_regions(sizes, stride=32)
    assert region_boxes(sizes, stride=32, max_regions=most).counts.max() == most
    with pytest.raises(
        ValueError, match=f"max_regions must be at least {most} .*320 x"
    ):
        region_boxes(sizes, stride=32, max_regions=most - 1)


def test_no_pictures_have_no_boxes():
    got = region_boxes(np.zeros((0, 2), np.int32), stride=32, max_regions=4)
    assert got.boxes.shape == (0, 4, 4)


@TRANSFORMS
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_vectors_of_any_length_become_unit_vectors(rng, transform, scale):
    vectors = rng.normal(size=(4, 6))
    got = transform(l2_normalize)(jnp.asarray(vectors * scale, jnp.float32))
    want = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_zero_stays_zero_and_nothing_else_is_hidden():
    vectors = jnp.asarray([[0, 0], [3, 4], [jnp.nan, 1], [jnp.inf, 1], [-2, 0]])
    got = l2_normalize(vectors)
    np.testing.assert_array_equal(got[0], 0)
    np.testing.assert_allclose(got[1], [3 / 5, 4 / 5], rtol=1e-6)
    assert np.isnan(got[2]).all()
    assert np.isnan(got[3]).all()
    np.testing.assert_array_equal(got[4], [-1, 0])
    assert l2_normalize(jnp.zeros((3, 0))).shape == (3, 0)


def test_the_gradient_of_the_unit_vector_is_right_and_zero_at_zero(rng, x64):
    vectors = jnp.asarray(rng.normal(size=(3, 4)))
    check_grads(jax.jit(l2_normalize), (vectors,), order=2, modes=["rev"])
    at_zero = jax.grad(lambda v: l2_normalize(v).sum())(jnp.zeros((2, 4)))
    np.testing.assert_array_equal(at_zero, 0)
