"""What a result page and a figure show: rankings, and their pictures made small."""

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
    """One picture of a ranking.

    Attributes:
        picture: The picture, of any size.
        name: What to call it, such as its file name.
        score: What it was ranked by.
        correct: Whether it is a right answer; None where nobody knows.
        box: The object in it, (x0, y0, x1, y1) in pixels of `picture`, or None.
        note: A few words to print under the picture, such as `note_precision` gives.
    """

    picture: Picture
    name: str
    score: float
    correct: bool | None = None
    box: Box | None = None
    note: str = ""


class Ranking(NamedTuple):
    """The best answers of one method to one query.

    Attributes:
        name: The method.
        ap: Average precision in [0, 1], None where nobody knows.
        answers: Best first.
    """

    name: str
    ap: float | None
    answers: tuple[Answer, ...]


class Comparison(NamedTuple):
    """One query and what each method answered.

    Attributes:
        picture: The query's picture, of any size.
        name: What to call it, such as its file name.
        box: The object asked for, (x0, y0, x1, y1) in pixels of `picture`, or None for
            the whole picture.
        rankings: One per method.
    """

    picture: Picture
    name: str
    box: Box | None
    rankings: tuple[Ranking, ...]


class Thumbnail(NamedTuple):
    """A small copy of a picture, ready to be embedded in a page.

    Attributes:
        key: Hash of the content, as a name: equal for equal pictures.
        uri: The JPEG file as a data URI.
        width: Of the original, in pixels.
        height: Of the original, in pixels.
    """

    key: str
    uri: str
    width: int
    height: int


def note_precision(ranking: Ranking) -> Ranking:
    """Notes under each answer the precision so far: P@r, of the first r answers.

    Answers of which nobody knows whether they are right, junk for instance, count for
    nothing, as in average precision: they get no note and take no rank.

    Example:
        >>> known = (True, None, False)
        >>> answers = tuple(Answer(None, "", 0.0, correct=c) for c in known)
        >>> [answer.note for answer in note_precision(Ranking("", 1, answers)).answers]
        ['P@1 100 %', '', 'P@2 50 %']
    """
    right = rank = 0
    noted = []
    for answer in ranking.answers:
        note = ""
        if answer.correct is not None:
            right, rank = right + bool(answer.correct), rank + 1
            note = f"P@{rank} {100 * right / rank:.0f} %"
        noted.append(answer._replace(note=note))
    return ranking._replace(answers=tuple(noted))


def make_thumbnail(
    picture: PIL.Image.Image, *, max_width: int, max_height: int
) -> Thumbnail:
    """Shrinks an RGB picture to fit and encodes it; a smaller one keeps its size."""
    width, height = picture.size
    small = picture.copy()
    small.thumbnail((max_width, max_height), PIL.Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=75, optimize=True)
    data = file.getvalue()
    digest = hashlib.sha256(data + f"{width}x{height}".encode()).hexdigest()
    uri = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    return Thumbnail(key=f"p{digest[:16]}", uri=uri, width=width, height=height)


def to_rgb(picture: Shaped[np.ndarray, "..."] | PIL.Image.Image) -> PIL.Image.Image:
    """8-bit RGB form of a picture.

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
    """Width by height of the frames around pictures of these sizes.

    That of the median picture, within [3/4, 3/2]; the others get margins.
    """
    ratio = statistics.median(width / height for width, height in sizes)
    return min(max(ratio, 0.75), 1.5)


def format_ap(ap: float) -> str:
    """Writes an average precision in percent.

    Raises:
        ValueError: If `ap` is outside [0, 1].
    """
    if not 0 <= ap <= 1:
        raise ValueError(f"ap must be in [0, 1], got {ap}.")
    return f"AP {100 * ap:.1f} %"
