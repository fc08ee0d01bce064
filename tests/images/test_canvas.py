import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.images import choose_canvas, input_sizes, resize_picture

SIDES = (64, 96, 320, 480)


def blank(height, width):
    return np.zeros((height, width, 3), np.uint8)


@settings(deadline=None)
@given(st.integers(16, 700), st.integers(16, 700), st.sampled_from(SIDES))
def test_resized_sizes_are_multiples_of_32_of_about_the_same_aspect_ratio(
    height, width, side
):
    y, x, _ = resize_picture(blank(height, width), side=side).shape
    assert [y, x] in input_sizes(side=side).tolist()
    assert max(y, x) == side
    exact = side * min(height, width) / max(height, width)
    assert abs(min(y, x) - max(exact, 64)) <= 16
    assert (y <= x) == (height <= width) or y == x


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (600, 800, (256, 320)),  # 240 is half way from 224 to 256: up.
        (800, 600, (320, 256)),
        (400, 600, (224, 320)),  # 213.3
        (1080, 1920, (192, 320)),  # 180
        (500, 500, (320, 320)),
        (20, 3000, (64, 320)),
    ],
)
def test_common_aspect_ratios(height, width, size):
    assert resize_picture(blank(height, width)).shape == (*size, 3)


def test_the_input_sizes_have_both_orientations_once():
    sizes = input_sizes(side=128).tolist()
    assert sorted(sizes) == [[64, 128], [96, 128], [128, 64], [128, 96], [128, 128]]
    assert input_sizes(side=64).tolist() == [[64, 64]]


def test_a_picture_of_an_input_size_is_not_changed():
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    np.testing.assert_array_equal(resize_picture(pixels, side=128), pixels)


def test_scaling_down_is_antialiased():
    # Stripes of one pixel average to grey in a picture eight times smaller.
    stripes = np.zeros((1024, 1024, 3), np.uint8)
    stripes[:, ::2] = 254
    np.testing.assert_allclose(resize_picture(stripes, side=128), 127, atol=2)


def test_resizing_keeps_a_ramp_in_place():
    ramp = np.repeat(np.linspace(0, 255, 640)[None, :, None], 480, axis=0)
    fitted = resize_picture(np.repeat(ramp, 3, axis=2).astype(np.uint8), side=320)
    want = np.broadcast_to(
        ramp.reshape(480, 320, 2).mean(2)[0][None, :, None], fitted.shape
    )
    np.testing.assert_allclose(fitted, want, atol=2)


@pytest.mark.parametrize("side", SIDES)
def test_at_most_five_canvases_hold_every_size_tightly(side):
    canvases = set()
    for y, x in input_sizes(side=side).tolist():
        canvas = choose_canvas((y, x), side=side)
        assert y <= canvas[0]
        assert x <= canvas[1]
        assert choose_canvas((x, y), side=side) == canvas[::-1]
        assert choose_canvas(canvas, side=side) == canvas
        canvases.add(canvas)
    assert len(canvases) <= 5


def test_the_canvases_of_the_default_side():
    shorts = {64: 192, 192: 192, 224: 256, 256: 256, 288: 320, 320: 320}
    for short, canvas in shorts.items():
        assert choose_canvas((short, 320)) == (canvas, 320)


@pytest.mark.parametrize("side", [0, 32, 100, -64])
def test_a_side_other_than_a_multiple_of_32_is_refused(side):
    for call in (
        lambda: resize_picture(blank(50, 50), side=side),
        lambda: choose_canvas((64, 64), side=side),
        lambda: input_sizes(side=side),
    ):
        with pytest.raises(ValueError, match=f"side must be a multiple .* got {side}"):
            call()


def test_a_picture_larger_than_all_canvases_is_refused():
    with pytest.raises(ValueError, match="size must be at most 320 px"):
        choose_canvas((352, 320))
