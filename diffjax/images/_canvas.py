"""Canvas sizes in which pictures go through a network, and resizing to them."""

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

_STRIDE = 32  # px; every size is a multiple, so that feature maps end on a cell.
_MIN_SHORT_SIDE = 64  # px; longer pictures are squeezed.


def input_sizes(*, side: int = 320) -> Int[np.ndarray, "s 2"]:
    """Lists every size that `resize_picture` can give.

    Args:
        side: Longer side in pixels, a multiple of 32 of at least 64.

    Returns:
        (height, width) pairs in pixels, all different.

    Raises:
        ValueError: If `side` is not such a multiple.
    """
    _check_side(side)
    shorts = range(_MIN_SHORT_SIDE, side, _STRIDE)
    pairs = [(short, side) for short in shorts] + [(side, short) for short in shorts]
    return np.array([*pairs, (side, side)], np.int32)


def resize_picture(
    picture: UInt8[np.ndarray, "h w 3"], *, side: int = 320
) -> UInt8[np.ndarray, "y x 3"]:
    """Scales a picture so that its longer side is `side`.

    The shorter side becomes the nearest multiple of 32 pixels, at least 64, so the
    proportions change a little (a lot only beyond 1:5). Antialiased.

    Args:
        picture: Red, green and blue pixels, of any size.
        side: Longer side in pixels, a multiple of 32 of at least 64.

    Returns:
        The scaled picture, of one of `input_sizes`.

    Raises:
        ValueError: If `side` is not such a multiple.
    """
    return np.asarray(resize_image(Image.fromarray(picture), side=side))


def resize_image(image: Image.Image, *, side: int = 320) -> Image.Image:
    """Does what `resize_picture` does, for a picture as Pillow has it.

    Args:
        image: The picture.
        side: As for `resize_picture`.

    Returns:
        The scaled picture.

    Raises:
        ValueError: As `resize_picture`.
    """
    _check_side(side)
    width, height = image.size
    short, long = min(height, width), max(height, width)
    # The quotient rounded half up, in whole numbers.
    steps = (2 * side * short + _STRIDE * long) // (2 * _STRIDE * long)
    short = max(steps * _STRIDE, _MIN_SHORT_SIDE)
    new_size = (side, short) if width >= height else (short, side)
    return image.resize(new_size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def choose_canvas(size: tuple[int, int], *, side: int = 320) -> tuple[int, int]:
    """Chooses the padded size in which a fitted picture goes through the network.

    There are five: `side` by `side`, by 0.8 `side` and by 0.6 `side` (up to the next
    multiple of 32), lying and standing. A program is compiled once for each of them.

    Args:
        size: (height, width) of the fitted picture in pixels.
        side: Longer side in pixels, a multiple of 32 of at least 64.

    Returns:
        (height, width) of the smallest of the five that holds the picture at its top
        left.

    Raises:
        ValueError: If `side` is not such a multiple, or the picture is too large.
    """
    _check_side(side)
    # 10, 8 and 6 tenths of the side, rounded up in whole numbers.
    shorts = [-(-side * tenths // (10 * _STRIDE)) * _STRIDE for tenths in (6, 8, 10)]
    shapes = [(short, side) for short in shorts] + [(side, short) for short in shorts]
    holding = [shape for shape in shapes if size[0] <= shape[0] and size[1] <= shape[1]]
    if not holding:
        raise ValueError(
            f"size must be at most {side} px on each side, got {size[0]} x {size[1]}."
        )
    return min(holding, key=lambda shape: shape[0] * shape[1])


def _check_side(side: int) -> None:
    if side < _MIN_SHORT_SIDE or side % _STRIDE:
        raise ValueError(
            f"side must be a multiple of {_STRIDE} and at least {_MIN_SHORT_SIDE}, "
            f"got {side}."
        )
