import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.regions._crow import crow

# What holds for every aggregate, its formula among it, is in test_aggregates.py.
weigh = jax.jit(crow)


def of_cells(*cells):
    """Maps of one row whose cells are given, all of them used."""
    maps = jnp.asarray(cells, jnp.float32)[None, None]
    return maps, jnp.ones(maps.shape[:3], bool)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_two_cells_by_hand(transform):
    # Sums 3 and 4, norm 5: places weigh sqrt(3 / 5) and sqrt(4 / 5). Channels are seen
    # in 1/2, 2/2 and 1/2 of the cells, together 2: log 4, log 2 and log 4.
    got = transform(crow)(*of_cells([2, 1, 0], [0, 1, 3]))
    near, far = np.sqrt([3 / 5, 4 / 5])
    want = np.log([4, 2, 4]) * [2 * near, near + far, 3 * far]
    np.testing.assert_allclose(got, [want], rtol=1e-6)


def test_norm_and_root_are_settings():
    # a = 1: 3 / 7 and 4 / 7; b = 1: as they are.
    got = crow(*of_cells([2, 1, 0], [0, 1, 3]), a=1.0, b=1.0)
    want = np.log([4, 2, 4]) * np.array([2 * 3, 3 + 4, 3 * 4]) / 7
    np.testing.assert_allclose(got, [want], rtol=1e-6)


def test_a_silent_channel_and_a_channel_alone_weigh_nothing():
    silent = weigh(*of_cells([2, 1, 0], [1, 1, 0]))
    assert silent[0, 2] == 0
    assert (np.asarray(silent[0, :2]) > 0).all()
    np.testing.assert_array_equal(weigh(*of_cells([2, 0, 0], [1, 0, 0])), 0)


def test_channels_are_counted_inside_the_mask_only():
    maps, mask = of_cells([2, 1, 0], [0, 1, 3], [7, 0, 7])
    got = weigh(maps, mask.at[:, :, 2].set(False))
    np.testing.assert_allclose(
        got, weigh(*of_cells([2, 1, 0], [0, 1, 3], [0, 0, 0])), rtol=1e-6
    )


def test_a_dark_cell_adds_to_no_gradient():
    maps, mask = of_cells([2, 1, 0], [0, 0, 0])
    slopes = jax.jit(jax.grad(lambda m: crow(m, mask).sum()))(maps)
    np.testing.assert_array_equal(slopes[0, 0, 1], 0)
    assert np.isfinite(slopes).all()


def test_a_negative_sum_has_no_root_and_says_so():
    assert np.isnan(weigh(*of_cells([2, 1, 0], [0, 1, -3]))).any()


@pytest.mark.parametrize("setting", ["a", "b"])
def test_a_norm_or_root_that_cannot_be_is_refused(setting):
    with pytest.raises(ValueError, match=f"{setting} must be finite and above 0"):
        crow(*of_cells([1, 2]), **{setting: 0.0})
