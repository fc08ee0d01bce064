"""A picture read and scaled to the sizes at which it enters a network."""

import os
import signal
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from ._canvas import fit_image
from ._pictures import Box, PictureError, PictureSource, load_part

_NICENESS = 19


class Fitted(NamedTuple):
    """A picture, or a part of one, ready for a network.

    Attributes:
        pixels: It, scaled to each side that was asked for.
        part: What that shows, (x0, y0, x1, y1) in pixels of the upright picture.
    """

    pixels: tuple[UInt8[np.ndarray, "_ _ 3"], ...]
    part: tuple[int, int, int, int]


def read_fitted(
    source: PictureSource, *, box: Box | None = None, sides: tuple[int, ...] = (320,)
) -> Fitted:
    """Reads a picture and scales it, see `as_picture` and `fit_picture`.

    Imports nothing but NumPy and Pillow, so that a process that only reads pictures
    starts at once and stays small.

    Args:
        source: Path, Pillow image or uint8 pixels [h, w, 3].
        box: The part wanted, in pixels of the upright picture; None is all of it.
        sides: Longer sides wanted, each as for `fit_picture`; at least one.

    Returns:
        The scaled pixels.

    Raises:
        PictureError: If the picture can't be read.
        ValueError: If the box is not in it, or a side is no multiple of 32 from 64.
    """
    # Twice the side leaves enough to antialias.
    image, part = load_part(source, box=box, shrink_to=2 * max(sides))
    scaled = (fit_image(image, side=side) for side in sides)
    return Fitted(tuple(np.asarray(each) for each in scaled), part)


def read_several(
    asked: Sequence[tuple[PictureSource, Box | None]], *, sides: tuple[int, ...]
) -> list[Fitted | PictureError]:
    """Reads pictures as `read_fitted` does; one that can't be read is its error.

    Args:
        asked: Each picture and the part of it that is wanted.
        sides: As for `read_fitted`.

    Returns:
        One result for each.

    Raises:
        ValueError: If a box is not in its picture.
    """
    found: list[Fitted | PictureError] = []
    for source, box in asked:
        try:
            found.append(read_fitted(source, box=box, sides=sides))
        except PictureError as error:
            found.append(error)
    return found


def start_reader() -> None:
    """Prepares a process that does nothing but read pictures for another one.

    Ctrl-C reaches it, too: what that means is decided by the one that asked. And where
    both share cores it takes what the network leaves: every step of the network waits
    for the slowest of its threads.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICENESS)
