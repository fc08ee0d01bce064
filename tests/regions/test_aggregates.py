"""Aggregates of feature maps: MAC, SPoC, GeM, CroW."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import check_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.tree_util import Partial

from diffjax.regions._netvlad import NetVLAD, netvlad
from diffjax.regions._region_pooling import Aggregate, crow, gem, mac, spoc

# One aggregate is one row: what it is, and what it is in plain NumPy on the cells
# [n, c] of one map, whose places (y, x) are [n, 2].
POWERS = np.array([0.5, 2.0, 5.0])
rng = np.random.default_rng(5)
CENTRES, WEIGHTS = rng.normal(size=(2, 3)), 4 * rng.normal(size=(2, 3))
BIASES = rng.normal(size=2)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def prior_by_hand(cells, positions):
    low, high = positions.min(0), positions.max(0)
    squares = ((positions - (low + high) / 2) ** 2).sum(1)
    deviation = (high - low + 1).min() / 2 / 3
    weights = np.exp(-squares / (2 * deviation**2))
    return weights @ cells / weights.sum()


def crow_by_hand(cells, positions):
    sums = cells.sum(1)
    active = (cells != 0).mean(0)
    with np.errstate(divide="ignore"):
        channels = np.where(active > 0, np.log(active.sum() / active), 0)
    return channels * (np.sqrt(sums / np.sqrt((sums**2).sum())) @ cells)


def netvlad_by_hand(cells, positions):
    total = np.zeros(CENTRES.shape)
    for x in unit(cells):
        votes = np.exp(WEIGHTS @ x + BIASES)
        total += (votes / votes.sum())[:, None] * (x - CENTRES)
    return unit(unit(total).ravel())


BY_HAND = {
    "mac": lambda cells, _: cells.max(0),
    "spoc": lambda cells, _: cells.mean(0),
    "spoc-prior": prior_by_hand,
    "gem": lambda cells, _: (cells**POWERS).mean(0) ** (1 / POWERS),
    "crow": crow_by_hand,
    "netvlad": netvlad_by_hand,
}
EVERY = pytest.mark.parametrize("name", BY_HAND)


def layer(dtype: Any = np.float32):
    arrays = CENTRES, WEIGHTS, BIASES
    return NetVLAD(*(jnp.asarray(x.astype(dtype)) for x in arrays))


def aggregate(name):
    return {
        "mac": mac,
        "spoc": spoc,
        "spoc-prior": Partial(spoc, centre_prior=True),
        "gem": Partial(gem, p=POWERS.astype(np.float32)),
        "crow": crow,
        "netvlad": Partial(netvlad, layer=layer()),
    }[name]


# The tests compile one program per aggregate for values and one for gradients, on maps
# of one shape, and keep all else in NumPy: eagerly every operation is a program, too.
@functools.cache
def compiled(name):
    program = jax.jit(aggregate(name))
    return lambda maps, mask: np.asarray(program(maps, mask))


@functools.cache
def gradient(name):
    """Gradient of a sum with weights that differ, so that no term can hide another."""
    weights = jnp.arange(1.0, 7.0)

    def weighted(maps, mask):
        vectors = aggregate(name)(maps, mask)
        return (vectors * weights[None, : vectors.shape[1]]).sum()

    program = jax.jit(jax.grad(weighted))
    return lambda maps, mask: np.asarray(program(maps, mask))


@pytest.fixture
def maps():
    """Two maps [2, 4, 5, 3] above zero."""
    values = np.random.default_rng(0).uniform(0.1, 2, size=(2, 4, 5, 3))
    return values.astype(np.float32)


@pytest.fixture
def mask():
    """A region of 3 x 3 cells, and one of 2 x 4."""
    mask = np.zeros((2, 4, 5), bool)
    mask[0, :3, 1:4] = mask[1, 2:, :4] = True
    return mask


def spoilt(maps, mask):
    return np.where(mask[..., None], maps, np.float32(np.nan))


@EVERY
def test_every_aggregate_is_its_formula(name, maps, mask):
    got = compiled(name)(maps, mask)
    for i in range(2):
        cells = maps[i][mask[i]].astype(np.float64)
        want = BY_HAND[name](cells, np.argwhere(mask[i]))
        np.testing.assert_allclose(got[i], want, rtol=2e-5, atol=1e-6)


def test_every_aggregate_is_one():
    assert all(isinstance(aggregate(name), Aggregate) for name in BY_HAND)


@pytest.mark.full
@EVERY
def test_a_padded_map_gives_compiled_what_it_gives_alone_and_eager(name, maps, mask):
    alone = aggregate(name)(jnp.asarray(maps[:1, :3, 1:4]), jnp.ones((1, 3, 3), bool))
    padded = compiled(name)(spoilt(maps, mask), mask)[:1]
    np.testing.assert_allclose(padded, alone, rtol=0 if name == "mac" else 1e-6)


@pytest.mark.full
@EVERY
def test_cells_outside_the_mask_change_neither_value_nor_gradient(name, maps, mask):
    value = compiled(name)(spoilt(maps, mask), mask)
    np.testing.assert_array_equal(value, compiled(name)(maps, mask))
    slopes = gradient(name)(spoilt(maps, mask), mask)
    np.testing.assert_array_equal(slopes, gradient(name)(maps, mask))
    np.testing.assert_array_equal(slopes[~mask], 0)
    assert np.isfinite(slopes).all()
    assert np.any(slopes)


@EVERY
@pytest.mark.parametrize("fill", [1.0, np.nan])
def test_a_mask_without_a_cell_gives_zeros_with_zero_gradients(name, fill, maps, mask):
    filled, emptied = np.full_like(maps, fill), mask.copy()
    filled[0], emptied[1] = maps[0], False
    np.testing.assert_array_equal(compiled(name)(filled, emptied)[1], 0)
    np.testing.assert_array_equal(gradient(name)(filled, emptied)[1], 0)
    assert np.isfinite(gradient(name)(filled, emptied)).all()


@EVERY
def test_a_map_of_zeros_gives_zeros_or_eps_with_finite_gradients(name, mask):
    zeros = np.zeros((2, 4, 5, 3), np.float32)
    got = compiled(name)(zeros, mask)
    if name == "netvlad":
        # x = 0: only the centres speak, V_k = -mass_k c_k.
        want = np.tile(unit(unit(-CENTRES).ravel()), (2, 1))
        np.testing.assert_allclose(got, want, atol=1e-6)
    else:
        np.testing.assert_allclose(got, 1e-6 if name == "gem" else 0, rtol=1e-5)
    assert np.isfinite(gradient(name)(zeros, mask)).all()


@EVERY
def test_one_cell_is_an_aggregate_of_one(name, maps, mask):
    one = np.zeros_like(mask)
    one[:, 1, 2] = True
    cell = maps[:, 1, 2].astype(np.float64)
    want = [BY_HAND[name](x[None], np.array([[1, 2]])) for x in cell]
    got = compiled(name)(maps, one)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    if name in {"mac", "spoc", "spoc-prior", "gem"}:
        np.testing.assert_allclose(got, cell, rtol=1e-6)


@EVERY
def test_not_a_number_inside_the_mask_comes_out(name, maps, mask):
    maps[0, 1, 2, 1] = np.nan
    got = np.isnan(compiled(name)(maps, mask))
    assert got[0].reshape(-1, 3)[:, 1].all()
    assert not got[1].any()


@pytest.mark.parametrize(
    "name",
    [
        "crow",
        pytest.param("spoc-prior", marks=pytest.mark.full),
        pytest.param("netvlad", marks=pytest.mark.full),
    ],
)
def test_mapping_over_the_batch_gives_the_batch(name, maps, mask):
    def one(image, cells):
        return aggregate(name)(image[None], cells[None])[0]

    got = jax.jit(jax.vmap(one))(maps, mask)
    np.testing.assert_allclose(got, compiled(name)(maps, mask), rtol=1e-5)


@EVERY
@pytest.mark.parametrize("scale", [1e-4, 1e30])
def test_brighter_maps_give_longer_vectors_of_the_same_direction(
    name, scale, maps, mask
):
    got = compiled(name)(maps * np.float32(scale), mask)
    longer = 1.0 if name == "netvlad" else scale
    np.testing.assert_allclose(got / longer, compiled(name)(maps, mask), rtol=1e-4)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "order"), [("gem", 2), ("crow", 1), ("netvlad", 1)])
def test_gradients_agree_with_finite_differences(name, order, maps, mask):
    function = {"gem": gem, "crow": crow, "netvlad": netvlad}[name]
    settings = {
        "gem": {"p": POWERS},
        "crow": {"a": 1.7, "b": 3.0},
        "netvlad": {"layer": layer(np.float64)},
    }[name]
    check_gradient(
        lambda maps, settings: function(maps, jnp.asarray(mask), **settings),
        (maps.astype(np.float64), settings),
        order=order,
    )


powers = st.floats(0.1, 60)
cells = st.lists(st.floats(2**-6, 100, width=32), min_size=1, max_size=6)
power_mean = jax.jit(lambda maps, mask, p: gem(maps, mask, p=p))
power_slope = jax.jit(jax.grad(lambda p, *case: gem(*case, p=p).sum()))


def in_a_row(values):
    row = np.zeros((1, 1, 6, 1), np.float32)
    row[0, 0, : len(values), 0] = values
    return row, np.arange(6)[None, None] < len(values)


@settings(deadline=None, max_examples=15)
@given(cells, powers, powers)
def test_the_generalised_mean_grows_with_its_power_up_to_the_maximum(values, p, q):
    low, high = (power_mean(*in_a_row(values), r).item() for r in sorted((p, q)))
    assert min(values) * (1 - 1e-5) <= low <= high * (1 + 1e-5)
    assert high <= max(values) * (1 + 1e-5)


@settings(deadline=None, max_examples=15)
@given(cells)
def test_the_generalised_mean_reaches_from_the_mean_to_the_maximum(values):
    low, high = (power_mean(*in_a_row(values), p).item() for p in (1.0, 1000.0))
    np.testing.assert_allclose(low, compiled("spoc")(*in_a_row(values)), rtol=1e-5)
    # The largest of n cells keeps at least n^(-1 / p) of itself.
    assert max(values) * len(values) ** -1e-3 * (1 - 1e-5) <= high
    assert high <= max(values) * (1 + 1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e30])
def test_a_large_power_neither_overflows_nor_vanishes(scale, maps, mask):
    got = np.asarray(power_mean(maps * np.float32(scale), mask, 100.0))
    for i in range(2):
        inside = maps[i][mask[i]].astype(np.float64)
        top = inside.max(0)
        want = scale * top * ((inside / top) ** 100).mean(0) ** 0.01
        np.testing.assert_allclose(got[i], want, rtol=1e-5)
    slope = power_slope(100.0, maps, mask)
    assert np.isfinite(slope)
    assert slope > 0


def test_entries_below_eps_count_as_eps_and_have_no_gradient(mask):
    below = np.full((2, 4, 5, 3), -1, np.float32)
    np.testing.assert_allclose(compiled("gem")(below, mask), 1e-6, rtol=1e-5)
    np.testing.assert_array_equal(gradient("gem")(below, mask), 0)


def test_the_centre_prior_follows_the_region_and_not_the_map():
    # 3 x 3 cells, deviation 3 / 6: sides and corners have exp(-2) and exp(-4).
    maps, mask = np.zeros((1, 40, 40, 1), np.float32), np.zeros((1, 40, 40), bool)
    maps[0, 3, 4] = mask[:, 2:5, 3:6] = 1
    got = compiled("spoc-prior")(maps, mask)
    want = 1 / (1 + 4 * np.exp(-2) + 4 * np.exp(-4))
    np.testing.assert_allclose(got, [[want]], rtol=1e-6)


def test_the_centre_prior_of_cells_far_from_the_centre_still_is_a_mean():
    # Two rows of the first and the last column: exp(-(19.5 / (1 / 3))^2 / 2) is 0.
    maps, mask = np.full((1, 40, 40, 1), 7, np.float32), np.zeros((1, 40, 40), bool)
    mask[:, :2, ::39] = True
    got = compiled("spoc-prior")(maps, mask)
    np.testing.assert_allclose(got, 7, rtol=1e-6)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"p": 0.0}, "p must be finite and above 0, got 0"),
        ({"p": np.inf}, "p must be finite and above 0, got inf"),
        ({"p": np.array([1.0, -2.0, 3.0])}, "p must be finite and above 0, got -2"),
        (
            {"p": np.ones(2)},
            r"p must be a number or one .* 3 channels, got shape \(2,",
        ),
        ({"eps": 0.0}, "eps must be finite and above 0, got 0"),
    ],
)
def test_powers_that_cannot_be_are_refused(setting, message, maps, mask, unchecked):
    with pytest.raises(ValueError, match=message):
        gem(jnp.asarray(maps), jnp.asarray(mask), **setting)


# What holds for every aggregate, its formula among it, is in test_aggregates.py.
weigh = jax.jit(crow)


def row_of_cells(*cells):
    """A map of one row of these cells, and a mask that uses all of them."""
    maps = np.array(cells, np.float32)[None, None]
    return maps, np.ones(maps.shape[:3], bool)


@pytest.mark.parametrize(
    "transform",
    [pytest.param(lambda f: f, marks=pytest.mark.full), lambda _: weigh],
    ids=["eager", "jit"],
)
def test_two_cells_by_hand(transform):
    # Sums 3 and 4, norm 5: places weigh sqrt(3 / 5) and sqrt(4 / 5). Channels are seen
    # in 1/2, 2/2 and 1/2 of the cells, together 2: log 4, log 2 and log 4.
    case = map(jnp.asarray, row_of_cells([2, 1, 0], [0, 1, 3]))
    got = transform(crow)(*case)
    near, far = np.sqrt([3 / 5, 4 / 5])
    want = np.log([4, 2, 4]) * [2 * near, near + far, 3 * far]
    np.testing.assert_allclose(got, [want], rtol=1e-6)


def test_norm_and_root_are_settings():
    # a = 1: 3 / 7 and 4 / 7; b = 1: as they are.
    straight = jax.jit(functools.partial(crow, a=1.0, b=1.0))
    got = straight(*row_of_cells([2, 1, 0], [0, 1, 3]))
    want = np.log([4, 2, 4]) * np.array([2 * 3, 3 + 4, 3 * 4]) / 7
    np.testing.assert_allclose(got, [want], rtol=1e-6)


def test_a_silent_channel_and_a_channel_alone_weigh_nothing():
    silent = np.asarray(weigh(*row_of_cells([2, 1, 0], [1, 1, 0])))
    assert silent[0, 2] == 0
    assert (silent[0, :2] > 0).all()
    np.testing.assert_array_equal(weigh(*row_of_cells([2, 0, 0], [1, 0, 0])), 0)


def test_channels_are_counted_inside_the_mask_only():
    maps, mask = row_of_cells([2, 1, 0], [0, 1, 3], [7, 0, 7])
    mask[:, :, 2] = False
    got = weigh(maps, mask)
    np.testing.assert_allclose(
        got, weigh(*row_of_cells([2, 1, 0], [0, 1, 3])), rtol=1e-6
    )


def test_a_dark_cell_adds_to_no_gradient():
    maps, mask = row_of_cells([2, 1, 0], [0, 0, 0])
    slopes = jax.jit(jax.grad(lambda maps, mask: crow(maps, mask).sum()))(maps, mask)
    slopes = np.asarray(slopes)
    np.testing.assert_array_equal(slopes[0, 0, 1], 0)
    assert np.isfinite(slopes).all()


def test_the_root_of_a_negative_sum_is_nan():
    assert np.isnan(weigh(*row_of_cells([2, 1, 0], [0, 1, -3]))).any()


@pytest.mark.parametrize("setting", ["a", "b"])
def test_a_norm_or_root_that_cannot_be_is_refused(setting):
    with pytest.raises(ValueError, match=f"{setting} must be finite and above 0"):
        crow(*map(jnp.asarray, row_of_cells([1, 2])), **{setting: 0.0})
