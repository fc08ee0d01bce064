import functools

import numpy as np
import pytest

from diffjax.datasets._clutter import (
    draw_clutter_picture,
    draw_palette,
    draw_patch,
    draw_texture,
    smooth_noise,
)

SIZE = (120, 90)


@functools.cache
def picture(seed):
    return draw_clutter_picture(np.random.default_rng(seed), SIZE)


def test_the_same_generator_draws_the_same_clutter():
    again = draw_clutter_picture(np.random.default_rng(3), SIZE)
    assert again.tobytes() == picture(3).tobytes()


def test_no_two_pictures_of_clutter_are_alike():
    pixels = [np.asarray(picture(seed).convert("L")).ravel() for seed in range(20)]
    correlations = np.corrcoef(np.array(pixels, np.float64)) - np.eye(len(pixels))
    assert np.abs(correlations).max() < 0.8


def test_clutter_is_cluttered():
    # A blank ground has no edges; in clutter a fifth of all pixels is at one.
    for seed in range(5):
        grey = np.asarray(picture(seed).convert("L"), np.float64)
        down, right = np.gradient(grey)
        assert np.mean(np.hypot(down, right) > 5) > 0.2, seed


@pytest.mark.parametrize("size", [(8, 8), (9, 40), (40, 9)])
def test_small_patches_and_textures_have_the_requested_size(size):
    for seed in range(15):
        rng = np.random.default_rng(seed)
        patch = draw_patch(rng, size)
        assert patch.picture.size == patch.mask.size == size
        assert draw_texture(rng, size).size == size


def test_every_kind_of_patch_is_visible():
    opacities = [
        np.asarray(draw_patch(np.random.default_rng(seed), (60, 40)).mask).max()
        for seed in range(60)
    ]
    assert min(opacities) > 100


def test_grounds_without_patches_are_all_different():
    grounds = [
        draw_clutter_picture(np.random.default_rng(seed), SIZE, patches=0)
        for seed in range(12)
    ]
    assert {ground.size for ground in grounds} == {SIZE}
    middle = (10, 10, 14, 14)  # Seldom under the scribbles, which always differ.
    assert len({ground.crop(middle).tobytes() for ground in grounds}) == 12


def test_smooth_noise_fills_the_unit_interval_and_is_smooth():
    rng = np.random.default_rng(0)
    fine = smooth_noise(rng, (200, 200), cell=2)
    coarse = smooth_noise(rng, (200, 200), cell=40)
    for noise in fine, coarse:
        assert noise.min() >= 0
        assert noise.max() <= 1
        assert noise.std() > 0.1
    # Values a cell apart are independent, so a pixel's step is about 1 / cell of that.
    step = [np.abs(np.diff(noise, axis=1)).mean() for noise in (fine, coarse)]
    assert step[1] < step[0] / 5


def test_a_palette_has_a_colour_for_every_level():
    colours = draw_palette(np.random.default_rng(0))
    assert colours.shape == (256, 3)
    steps = np.abs(np.diff(colours.astype(int), axis=0)).max()
    # At most five stops: a channel changes by 255 within 64 levels at the fastest.
    assert steps <= 255 / 63 + 1
