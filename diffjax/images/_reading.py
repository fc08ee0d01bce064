"""Picture files of every common kind, read upright with three channels of 8 bits."""

import os
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import ExifTags, Image, ImageFile

PICTURE_SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
MIN_SIDE = 16  # px; a smaller picture holds no object to look for.
MIN_BOX = 8  # px; so small a box is a slip: fractions of the picture, say.

_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM")
_EXIF_TRANSPOSES = {  # From the value of the EXIF orientation to the way back upright.
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTER_TURNS = (
    *(Image.Transpose.TRANSPOSE, Image.Transpose.TRANSVERSE),
    *(Image.Transpose.ROTATE_270, Image.Transpose.ROTATE_90),
)

Box = tuple[float, float, float, float]
PictureSource = str | os.PathLike[str] | Image.Image | np.ndarray


class PicturePart(NamedTuple):
    """A picture, or a part of one, and where it lies.

    Attributes:
        image: Upright, in RGB; smaller than the picture where it was shrunk.
        shown_box: What it shows, (x0, y0, x1, y1) in pixels of the upright picture.
    """

    image: Image.Image
    shown_box: tuple[int, int, int, int]


class PictureError(ValueError):
    """A picture that can't be read.

    Attributes:
        source: Where it came from: its path, or "picture".
        reason: What is wrong with it, in one line.
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


def find_pictures(folder: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Lists the pictures below a folder, whatever state they are in.

    A picture is a file whose name ends, in lower or upper case, like that of a common
    picture format. Names that start with a dot are passed over, with all below them.

    Args:
        folder: Where to look, in all depths.

    Returns:
        The paths, sorted by what follows the folder, with `/` between the parts.

    Raises:
        ValueError: If there is no such folder or no picture in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"folder must be an existing folder, got {str(root)!r}.")
    found = {
        path.relative_to(root).as_posix(): path
        for path in root.rglob("*")
        # A link that leads nowhere is listed: reading it will say what is wrong.
        if path.suffix.lower() in PICTURE_SUFFIXES
        and (path.is_file() or not path.exists())
    }
    shown = sorted(name for name in found if "/." not in f"/{name}")
    if not shown:
        raise ValueError(
            f"folder must hold pictures, got {str(root)!r} without any; the names of "
            f"pictures end in {', '.join(PICTURE_SUFFIXES)}."
        )
    return tuple(found[name] for name in shown)


def read_picture(
    path: str | os.PathLike[str],
    *,
    box: Box | None = None,
    shrink_to: int | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Reads a picture file as a viewer would show it.

    The EXIF orientation is applied, animations give their first frame, transparency is
    put on white, grey is repeated on three channels, and more than 8 bits a channel
    are scaled down to 8. Colour profiles are not applied.

    Args:
        path: A JPEG, PNG, GIF, WebP, TIFF, BMP or PPM file.
        box: The part wanted, (x0, y0, x1, y1) in pixels of the upright picture, the
            last column and row not included; fractions are rounded outwards. None is
            the whole picture.
        shrink_to: A whole JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long
            as its longer side keeps this many pixels: much faster for photographs
            that are made small anyway. None decodes all there is.

    Returns:
        The pixels, red, green and blue.

    Raises:
        PictureError: If the file is missing, empty, damaged, of an unknown kind,
            smaller than 16 pixels on a side or above twice Pillow's
            `MAX_IMAGE_PIXELS`.
        ValueError: If `box` is not a rectangle of 8 pixels or more on each side inside
            the picture.
    """
    return np.asarray(_read_file(path, box, shrink_to).image)


def read_pixels(
    source: str | os.PathLike[str] | Image.Image | Shaped[np.ndarray, "..."],
    *,
    box: Box | None = None,
    shrink_to: int | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Gives the pixels of a picture that comes as a path, from Pillow or as an array.

    Args:
        source: A path or a Pillow image, treated as `read_picture` says, or uint8
            pixels [h, w, 3].
        box: As for `read_picture`.
        shrink_to: As for `read_picture`; used for files only.

    Returns:
        The pixels, red, green and blue.

    Raises:
        PictureError: If the picture can't be read or is too small.
        ValueError: If an array is not uint8 [h, w, 3], or `box` is not a rectangle
            of 8 pixels or more on each side inside the picture.
    """
    return np.asarray(read_picture_part(source, box=box, shrink_to=shrink_to).image)


def read_picture_part(
    source: str | os.PathLike[str] | Image.Image | Shaped[np.ndarray, "..."],
    *,
    box: Box | None = None,
    shrink_to: int | None = None,
) -> PicturePart:
    """Does what `read_pixels` does, and says which part of the picture that is.

    Args:
        source: As for `read_pixels`.
        box: As for `read_pixels`.
        shrink_to: As for `read_pixels`.

    Returns:
        The part as Pillow has it, and its place.

    Raises:
        PictureError: As `read_pixels`.
        ValueError: As `read_pixels`.
    """
    if isinstance(source, str | os.PathLike):
        return _read_file(source, box, shrink_to)
    if isinstance(source, Image.Image):
        try:
            whole = _decode_upright(source, None)
        except Exception as error:  # Pillow decodes as late as here.
            raise PictureError("picture", _error_reason(error)) from error
        return _crop_to_box(whole, box)
    if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
        raise ValueError(
            "source must be a path, a Pillow image or uint8 pixels [h, w, 3], got "
            f"{source.dtype} {list(source.shape)}."
        )
    height, width = source.shape[:2]
    _check_size(width, height)
    return _crop_to_box(
        PicturePart(Image.fromarray(source), (0, 0, width, height)), box
    )


def _read_file(
    path: str | os.PathLike[str], box: Box | None, shrink_to: int | None
) -> PicturePart:
    try:
        with Path(path).open("rb") as file:
            whole = _decode_upright(
                _open_image(file), shrink_to if box is None else None
            )
    except Exception as error:
        raise PictureError(os.fspath(path), _error_reason(error)) from error
    return _crop_to_box(whole, box)


def _open_image(file: IO[bytes]) -> ImageFile.ImageFile:
    """Does what `Image.open` does, without its size warning and exotic formats.

    The warning can't be silenced around a call: `warnings.catch_warnings` is not safe
    where several threads decode. And formats that start other programs stay closed.
    """
    prefix = file.read(16)
    if not prefix:
        raise ValueError("the file is empty (0 bytes)")
    Image.init()
    for kind in _FORMATS:
        factory, accept = Image.OPEN[kind]
        if accept is None or accept(prefix) is True:
            file.seek(0)
            return factory(file, "")
    raise ValueError("not a JPEG, PNG, GIF, WebP, TIFF, BMP or PPM picture")


def _decode_upright(image: Image.Image, shrink_to: int | None) -> PicturePart:
    width, height = image.size
    _check_size(width, height)
    if shrink_to and max(width, height) > shrink_to:
        scale = max(width, height) / shrink_to
        image.draft(None, (max(int(width / scale), 1), max(int(height / scale), 1)))
    image.load()
    turn = _EXIF_TRANSPOSES.get(_exif_orientation(image))
    upright = _to_rgb(image)
    if turn is not None:
        upright = upright.transpose(turn)
        width, height = (height, width) if turn in _QUARTER_TURNS else (width, height)
    return PicturePart(upright, (0, 0, width, height))


def _check_size(width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise PictureError(
            "picture", f"{width} x {height} px, needs {MIN_SIDE} or more on each side"
        )
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > 2 * limit:
        raise PictureError(
            "picture",
            f"{width} x {height} px, more than the {2 * limit} pixels that are read",
        )


def _exif_orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (ArithmeticError, LookupError, OSError, SyntaxError, TypeError, ValueError):
        return 1  # The picture behind a damaged EXIF block is still a picture.


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_scale_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return image.convert("RGB")


def _scale_to_8_bits(values: Shaped[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Scales grey values from 0..white to 0..255.

    The file does not say what white is where Pillow gives 32-bit integers or floats:
    the least of 1, 255 (these two for floats), 65535 and 2^32 - 1 that no value is
    above.
    """
    if not np.isfinite(values).all():
        raise ValueError("pixels that are NaN or infinite")
    whites = [1.0, 255.0] if values.dtype.kind == "f" else []
    whites += [2.0**16 - 1, 2.0**32 - 1]
    top = values.max()
    white = next((white for white in whites if top <= white), float(top))
    return np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8)


def _crop_to_box(whole: PicturePart, box: Box | None) -> PicturePart:
    if box is None:
        return whole
    width, height = whole.image.size
    x0, y0, x1, y1 = box
    # Written so that NaN fails, too.
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ValueError(
            f"box must be x0,y0,x1,y1 with 0 <= x0 < x1 <= {width} and "
            f"0 <= y0 < y1 <= {height} in this picture of {width} x {height} px, "
            f"got {','.join(f'{corner:g}' for corner in box)}."
        )
    left, top = int(np.floor(x0)), int(np.floor(y0))
    right, bottom = int(np.ceil(x1)), int(np.ceil(y1))
    if min(right - left, bottom - top) < MIN_BOX:
        raise ValueError(
            f"box must have {MIN_BOX} px or more on each side to show anything, got "
            f"{','.join(f'{corner:g}' for corner in box)} (in pixels, not fractions)."
        )
    shown_box = left, top, right, bottom
    return PicturePart(whole.image.crop(shown_box), shown_box)


def _error_reason(error: Exception) -> str:
    if isinstance(error, PictureError):
        return error.reason
    text = error.strerror if isinstance(error, OSError) and error.strerror else error
    return " ".join(str(text).split()) or type(error).__name__
