"""Rankings of pictures to be shown on a page or in a figure, and their thumbnails."""

import base64
import hashlib
import io
import statistics
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import PIL.Image
from jaxtyping import Shaped, UInt8

Picture = UInt8[np.ndarray, "h w 3"] | PIL.Image.Image
Box = tuple[float, float, float, float]


class Answer(NamedTuple):
    """Picture at one rank of a ranking.

    Attributes:
        picture: The picture, of any size.
        name: Its name, a file name for instance.
        score: Score that it is ranked by.
        correct: Whether it is a right answer; None if unknown.
        box: The object in it, (x0, y0, x1, y1) in pixels of `picture`, or None.
        note: A few words to print under the picture.
    """

    picture: Picture
    name: str
    score: float
    correct: bool | None = None
    box: Box | None = None
    note: str = ""


class Ranking(NamedTuple):
    """Best answers of one method to one query.

    Attributes:
        name: Name of the method.
        ap: Average precision in [0, 1]; None if unknown.
        answers: Best first.
    """

    name: str
    ap: float | None
    answers: tuple[Answer, ...]


class Comparison(NamedTuple):
    """Query with the rankings of several methods.

    Attributes:
        picture: The query's picture, of any size.
        name: Its name, a file name for instance.
        box: The query object, (x0, y0, x1, y1) in pixels of `picture`, or None for the
            whole picture.
        rankings: One per method.
    """

    picture: Picture
    name: str
    box: Box | None
    rankings: tuple[Ranking, ...]


class Thumbnail(NamedTuple):
    """Small copy of a picture, to be embedded in a page.

    Attributes:
        key: Identifier by content, equal for equal pictures.
        uri: The JPEG file as a data URI.
        width: Width of the original in pixels.
        height: Height of the original in pixels.
    """

    key: str
    uri: str
    width: int
    height: int


def make_thumbnail(
    picture: PIL.Image.Image, *, max_width: int, max_height: int
) -> Thumbnail:
    """JPEG thumbnail of an RGB picture, at most as large as the picture."""
    width, height = picture.size
    thumbnail = picture.copy()
    thumbnail.thumbnail((max_width, max_height), PIL.Image.Resampling.LANCZOS)
    file = io.BytesIO()
    thumbnail.save(file, "JPEG", quality=75, optimize=True)
    data = file.getvalue()
    digest = hashlib.sha256(data + f"{width}x{height}".encode()).hexdigest()
    uri = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    return Thumbnail(key=f"p{digest[:16]}", uri=uri, width=width, height=height)


def to_rgb(picture: Shaped[np.ndarray, "..."] | PIL.Image.Image) -> PIL.Image.Image:
    """Picture in 8-bit RGB.

    Args:
        picture: A Pillow image of any mode, or uint8 pixels [h, w, 3].

    Returns:
        The picture as an RGB Pillow image.

    Raises:
        ValueError: If `picture` has no pixels or is an array of another type or shape.
    """
    if not isinstance(picture, PIL.Image.Image):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(
                "picture must be uint8 of shape [h, w, 3], "
                f"got {picture.dtype} {list(picture.shape)}."
            )
        picture = PIL.Image.fromarray(picture)
    if 0 in picture.size:
        raise ValueError(f"picture must have pixels, got size {picture.size}.")
    return picture.convert("RGB")


def frame_aspect(sizes: Iterable[tuple[int, int]]) -> float:
    """Aspect ratio of the frames around pictures of these sizes, width by height.

    It is that of the median picture, clipped to [3/4, 3/2]; other pictures get margins.
    """
    ratio = statistics.median(width / height for width, height in sizes)
    return min(max(ratio, 0.75), 1.5)


def format_ap(ap: float) -> str:
    """Average precision as text in percent.

    Raises:
        ValueError: If `ap` is outside [0, 1].
    """
    if not 0 <= ap <= 1:
        raise ValueError(f"ap must be in [0, 1], got {ap}.")
    return f"AP {100 * ap:.1f} %"
