"""Canvas sizes for the network, and resizing of pictures to fit them."""

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

_STRIDE = 32  # px; sizes are multiples of it, so that feature maps end on a cell.
_MIN_SHORT_SIDE = 64  # px; longer pictures are squeezed.


def input_sizes(*, side: int = 320) -> Int[np.ndarray, "s 2"]:
    """Lists every size that `resize_picture` can return.

    Args:
        side: Longer side in pixels, a multiple of 32 of at least 64.

    Returns:
        Distinct (height, width) pairs in pixels.

    Raises:
        ValueError: If `side` is not a multiple of 32 of at least 64.
    """
    _check_side(side)
    shorts = range(_MIN_SHORT_SIDE, side, _STRIDE)
    pairs = [(short, side) for short in shorts] + [(side, short) for short in shorts]
    return np.array([*pairs, (side, side)], np.int32)


def resize_picture(
    picture: UInt8[np.ndarray, "h w 3"], *, side: int = 320
) -> UInt8[np.ndarray, "y x 3"]:
    """Resizes a picture so that its longer side is `side`, with antialiasing.

    The shorter side becomes the nearest multiple of 32 pixels, at least 64, so the
    aspect ratio changes a little (a lot only beyond 1:5).

    Args:
        picture: Red, green and blue pixels, of any size.
        side: Longer side in pixels, a multiple of 32 of at least 64.

    Returns:
        The resized picture, whose size is one of `input_sizes`.

    Raises:
        ValueError: If `side` is not a multiple of 32 of at least 64.
    """
    return np.asarray(resize_image(Image.fromarray(picture), side=side))


def resize_image(image: Image.Image, *, side: int = 320) -> Image.Image:
    """Resizes a Pillow image as `resize_picture` does.

    Args:
        image: The picture.
        side: Longer side in pixels, a multiple of 32 of at least 64.

    Returns:
        The resized picture.

    Raises:
        ValueError: If `side` is not a multiple of 32 of at least 64.
    """
    _check_side(side)
    width, height = image.size
    short, long = min(height, width), max(height, width)
    # side * short / (32 * long), rounded half up in integer arithmetic.
    steps = (2 * side * short + _STRIDE * long) // (2 * _STRIDE * long)
    short = max(steps * _STRIDE, _MIN_SHORT_SIDE)
    new_size = (side, short) if width >= height else (short, side)
    return image.resize(new_size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def choose_canvas(size: tuple[int, int], *, side: int = 320) -> tuple[int, int]:
    """Chooses the canvas, a padded size, in which a resized picture enters the network.

    There are five canvases: `side` by `side`, by 0.8 `side` and by 0.6 `side` (rounded
    up to a multiple of 32), in landscape and portrait. Each needs one compiled program.

    Args:
        size: (height, width) of the resized picture in pixels.
        side: Longer side in pixels, a multiple of 32 of at least 64.

    Returns:
        (height, width) of the smallest canvas that holds the picture.

    Raises:
        ValueError: If `side` is not a multiple of 32 of at least 64, or the picture is
            larger than every canvas.
    """
    _check_side(side)
    # 6, 8 and 10 tenths of the side, rounded up in integer arithmetic.
    shorts = [-(-side * tenths // (10 * _STRIDE)) * _STRIDE for tenths in (6, 8, 10)]
    shapes = [(short, side) for short in shorts] + [(side, short) for short in shorts]
    large_enough = [
        shape for shape in shapes if size[0] <= shape[0] and size[1] <= shape[1]
    ]
    if not large_enough:
        raise ValueError(
            f"size must be at most {side} px on each side, got {size[0]} x {size[1]}."
        )
    return min(large_enough, key=lambda shape: shape[0] * shape[1])


def _check_side(side: int) -> None:
    if side < _MIN_SHORT_SIDE or side % _STRIDE:
        raise ValueError(
            f"side must be a multiple of {_STRIDE} and at least {_MIN_SHORT_SIDE}, "
            f"got {side}."
        )
