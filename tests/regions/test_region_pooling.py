import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import check_gradient
from jax.tree_util import Partial

from diffjax.regions._netvlad import NetVLAD, netvlad
from diffjax.regions._region_pooling import (
    _pool_regions,
    aggregate_maps,
    crow,
    gem,
    l2_normalize,
    mac,
    pool_regions,
    spoc,
)

# `pool_regions` is compiled in any case; `l2_normalize` eagerly is many programs.
TRANSFORMS = pytest.mark.parametrize(
    "transform",
    [pytest.param(lambda f: f, marks=pytest.mark.full), jax.jit],
    ids=["eager", "jit"],
)


@pytest.fixture
def maps(rng):
    """Two maps [2, 5, 7, 3] of values below zero, so that a 0 would be seen."""
    return jnp.asarray((rng.normal(size=(2, 5, 7, 3)) - 10).astype(np.float32))


@pytest.fixture
def bright(maps):
    """The same above zero, as most aggregates want them."""
    return jnp.asarray(np.asarray(maps) + np.float32(14))


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
    got = np.asarray(transform(pool_regions)(maps, jnp.asarray(BOXES)))
    for image in range(2):
        for slot, (y0, x0, y1, x1) in enumerate(BOXES[image]):
            cells = np.asarray(maps)[image, y0:y1, x0:x1]
            want = cells.max((0, 1)) if cells.size else np.zeros(3)
            np.testing.assert_array_equal(got[image, slot], want)


def layer():
    rng = np.random.default_rng(3)
    arrays = (rng.normal(size=size) for size in ((2, 3), (2, 3), (2,)))
    return NetVLAD(*(jnp.asarray(x.astype(np.float32)) for x in arrays))


@pytest.mark.parametrize(
    "aggregate",
    [
        Partial(spoc, centre_prior=True),
        Partial(netvlad, layer=layer()),
        lambda maps, mask: -mac(-maps, mask),
    ],
    ids=["spoc-prior", "netvlad", "own"],
)
def test_each_region_gives_the_aggregate_of_its_cells(bright, aggregate):
    got = np.asarray(pool_regions(bright, jnp.asarray(BOXES), aggregate=aggregate))
    # A region cut out, and the empty slot.
    cut = np.asarray(bright)[:1, 1:3, 2:6]
    alone = np.asarray(jax.jit(aggregate)(cut, np.ones((1, 2, 4), bool)))
    np.testing.assert_allclose(got[0, 1], alone[0], rtol=2e-5)
    np.testing.assert_array_equal(got[0, 3], 0)
    assert got.shape == (2, 4, alone.shape[1])


def test_a_new_setting_compiles_nothing_and_changes_the_answer(bright):
    boxes = jnp.asarray(BOXES)
    count = operator.attrgetter("_cache_size")(_pool_regions)
    first = pool_regions(bright, boxes, aggregate=Partial(gem, p=2.0))
    programs = count()
    second = pool_regions(bright, boxes, aggregate=Partial(gem, p=4.0))
    # As Python binds settings they are taken in the same way.
    third = pool_regions(bright, boxes, aggregate=functools.partial(gem, p=4.0))
    assert count() == programs
    assert (np.asarray(second)[0, :2] > np.asarray(first)[0, :2]).all()
    np.testing.assert_array_equal(third, second)


@pytest.mark.full
@pytest.mark.usefixtures("x64")
def test_gradients_reach_the_maps_and_the_settings(bright):
    boxes = jnp.asarray(BOXES)

    def pooled(maps, p):
        return pool_regions(maps, boxes, aggregate=Partial(gem, p=p))

    arguments = np.asarray(bright, np.float64), np.array([1.5, 3.0, 4.0])
    check_gradient(pooled, arguments)


@pytest.mark.parametrize(
    ("aggregate", "message"),
    [
        ("mac", "aggregate must be a function such as mac, got 'mac'"),
        (Partial(gem, p=-1.0), "p must be finite and above 0, got -1"),
        (functools.partial(crow, b=0.0), "b must be finite and above 0, got 0"),
    ],
)
def test_aggregates_that_cannot_be_are_refused(aggregate, message, bright, unchecked):
    boxes = jnp.asarray(BOXES)
    with pytest.raises(ValueError, match=message):
        pool_regions(bright, boxes, aggregate=aggregate)
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda maps: pool_regions(maps, boxes, aggregate=aggregate))(bright)


def test_a_whole_map_ends_where_its_padding_starts(bright):
    spoilt = np.array(bright)
    spoilt[1, 3:] = spoilt[1, :, 4:] = np.nan
    spoilt, cells = jnp.asarray(spoilt), jnp.asarray(np.array([[5, 7], [3, 4]]))
    got = np.asarray(aggregate_maps(spoilt, cells, aggregate=Partial(gem, p=2.0)))
    for image, (rows, columns) in enumerate(cells.tolist()):
        cut = np.asarray(bright)[image, :rows, :columns]
        want = np.sqrt((cut**2).mean((0, 1)))
        np.testing.assert_allclose(got[image], want, rtol=1e-5)
    small = np.asarray(bright)[1, :3, :4]
    largest = np.asarray(aggregate_maps(spoilt, cells))[1]
    np.testing.assert_array_equal(largest, small.max((0, 1)))


def test_cells_outside_the_boxes_are_never_used(maps):
    # No box of these reaches the last row or the last two columns.
    boxes = jnp.asarray(np.minimum(BOXES, [4, 5, 4, 5]).astype(np.int32))
    spoilt = np.array(maps)
    spoilt[:, 4:] = spoilt[:, :, 5:] = np.nan
    np.testing.assert_array_equal(
        pool_regions(jnp.asarray(spoilt), boxes), pool_regions(maps, boxes)
    )


def test_not_a_number_inside_a_region_comes_out(maps):
    spoilt = np.array(maps)
    spoilt[0, 2, 3, 1] = np.nan
    got = np.isnan(pool_regions(jnp.asarray(spoilt), jnp.asarray(BOXES)))
    assert got[0, :, 1].tolist() == [True, True, False, False]
    assert not got[1].any()


def test_pooling_maps_over_a_batch_of_batches(maps):
    boxes = jnp.asarray(BOXES)
    pool_batches = jax.jit(jax.vmap(pool_regions))
    got = pool_batches(np.asarray(maps)[None], BOXES[None])[0]
    np.testing.assert_array_equal(got, pool_regions(maps, boxes))


def test_gradient_goes_to_the_largest_cells_alone(maps):
    got = jax.jit(jax.grad(lambda m: pool_regions(m, jnp.asarray(BOXES)).sum()))(maps)
    want = np.zeros(maps.shape)
    for image in range(2):
        for y0, x0, y1, x1 in BOXES[image]:
            cells = np.asarray(maps)[image, y0:y1, x0:x1]
            if cells.size:
                want[image, y0:y1, x0:x1] += cells == cells.max((0, 1))
    np.testing.assert_array_equal(got, want)


def test_zero_regions_are_accepted(maps):
    assert pool_regions(maps, jnp.zeros((2, 0, 4), jnp.int32)).shape == (2, 0, 3)


@TRANSFORMS
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_vectors_of_any_length_become_unit_vectors(rng, transform, scale):
    vectors = rng.normal(size=(4, 6))
    got = transform(l2_normalize)(jnp.asarray((vectors * scale).astype(np.float32)))
    want = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_zero_stays_zero_and_nothing_else_is_hidden():
    vectors = np.array([[0, 0], [3, 4], [np.nan, 1], [np.inf, 1], [-2, 0]], np.float32)
    got = np.asarray(jax.jit(l2_normalize)(vectors))
    np.testing.assert_array_equal(got[0], 0)
    np.testing.assert_allclose(got[1], [3 / 5, 4 / 5], rtol=1e-6)
    assert np.isnan(got[2]).all()
    assert np.isnan(got[3]).all()
    np.testing.assert_array_equal(got[4], [-1, 0])
    assert jax.jit(l2_normalize)(np.zeros((3, 0), np.float32)).shape == (3, 0)


def test_the_gradient_of_the_unit_vector_is_right_and_zero_at_zero(rng, x64):
    check_gradient(l2_normalize, (rng.normal(size=(3, 4)),), order=2)
    at_zero = jax.jit(jax.grad(lambda v: l2_normalize(v).sum()))(np.zeros((2, 4)))
    np.testing.assert_array_equal(at_zero, 0)
