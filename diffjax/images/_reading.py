"""Picture reading: files of common formats, upright, in three channels of 8 bits."""

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
MIN_SIDE = 16  # px; smaller pictures show no object.
MIN_BOX = 8  # px; smaller boxes are mistakes, such as fractions of the picture.

_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM")
_EXIF_TRANSPOSES = {  # Transposition that undoes each EXIF orientation.
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
    """Picture, or part of one, with its position.

    Attributes:
        image: Upright image in RGB; smaller than the part where it was shrunk.
        shown_box: Part that it shows, (x0, y0, x1, y1) in pixels of the upright
            picture.
    """

    image: Image.Image
    shown_box: tuple[int, int, int, int]


class PictureError(ValueError):
    """Error of a picture that can't be read.

    Attributes:
        source: Path of the picture, or "picture".
        reason: Reason in one line.
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


def find_pictures(folder: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Lists the picture files below a folder, readable or not.

    A picture is a file with the suffix of a common picture format, in lower or upper
    case. Files and folders whose names start with a dot are skipped.

    Args:
        folder: Folder to search, at all depths.

    Returns:
        The paths, sorted by their part below the folder, with `/` as separator.

    Raises:
        ValueError: If the folder does not exist or has no picture.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"folder must be an existing folder, got {str(root)!r}.")
    paths = {
        path.relative_to(root).as_posix(): path
        for path in root.rglob("*")
        # A broken link is listed: reading it reports the error.
        if path.suffix.lower() in PICTURE_SUFFIXES
        and (path.is_file() or not path.exists())
    }
    names = sorted(name for name in paths if "/." not in f"/{name}")
    if not names:
        raise ValueError(
            f"folder must hold pictures, got {str(root)!r} without any; the names of "
            f"pictures end in {', '.join(PICTURE_SUFFIXES)}."
        )
    return tuple(paths[name] for name in names)


def read_picture(
    path: str | os.PathLike[str],
    *,
    box: Box | None = None,
    shrink_to: int | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Reads a picture file as a viewer shows it.

    The EXIF orientation is applied, the first frame of an animation is taken,
    transparency is composed on white, grey is repeated in three channels, and more than
    8 bits per channel are scaled down to 8. Colour profiles are not applied.

    Args:
        path: Path of a JPEG, PNG, GIF, WebP, TIFF, BMP or PPM file.
        box: Part of the picture, (x0, y0, x1, y1) in pixels of the upright picture, the
            last column and row not included; fractions are rounded outwards. None is
            the complete picture.
        shrink_to: Decode a JPEG without `box` at 1/2, 1/4 or 1/8 of its size, as long
            as its longer side keeps this many pixels: much faster for photographs that
            are resized anyway. None decodes the full size.

    Returns:
        The pixels, red, green and blue.

    Raises:
        PictureError: If the file is missing, empty, damaged, of an unknown format,
            smaller than 16 pixels on a side or above twice Pillow's
            `MAX_IMAGE_PIXELS`.
        ValueError: If `box` is not inside the picture, or has fewer than 8 pixels on a
            side.
    """
    return np.asarray(_read_file(path, box, shrink_to).image)


def read_pixels(
    source: str | os.PathLike[str] | Image.Image | Shaped[np.ndarray, "..."],
    *,
    box: Box | None = None,
    shrink_to: int | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Reads the pixels of a picture: of a path, a Pillow image or an array.

    Args:
        source: A path or a Pillow image, converted as in `read_picture`, or uint8
            pixels [h, w, 3].
        box: Part of the picture, as for `read_picture`.
        shrink_to: Smallest longer side, as for `read_picture`; for files only.

    Returns:
        The pixels, red, green and blue.

    Raises:
        PictureError: If the picture can't be read or is too small.
        ValueError: If an array is not uint8 [h, w, 3], or `box` is not inside the
            picture or has fewer than 8 pixels on a side.
    """
    return np.asarray(read_picture_part(source, box=box, shrink_to=shrink_to).image)


def read_picture_part(
    source: str | os.PathLike[str] | Image.Image | Shaped[np.ndarray, "..."],
    *,
    box: Box | None = None,
    shrink_to: int | None = None,
) -> PicturePart:
    """Reads a picture as `read_pixels` does, with the position of the part.

    Args:
        source: Path, Pillow image or array, as for `read_pixels`.
        box: Part of the picture, as for `read_pixels`.
        shrink_to: Smallest longer side, as for `read_pixels`.

    Returns:
        The part as a Pillow image, and its position.

    Raises:
        PictureError: If the picture can't be read or is too small.
        ValueError: If the array or the box is invalid, as for `read_pixels`.
    """
    if isinstance(source, str | os.PathLike):
        return _read_file(source, box, shrink_to)
    if isinstance(source, Image.Image):
        try:
            picture = _decode_upright(source, None)
        except Exception as error:  # Pillow decodes an image when it is first used.
            raise PictureError("picture", _error_reason(error)) from error
        return _crop_to_box(picture, box)
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
            picture = _decode_upright(
                _open_image(file), shrink_to if box is None else None
            )
    except Exception as error:
        raise PictureError(os.fspath(path), _error_reason(error)) from error
    return _crop_to_box(picture, box)


def _open_image(file: IO[bytes]) -> ImageFile.ImageFile:
    """Opens an image as `Image.open` does, without its size warning and rare formats.

    The warning can't be silenced around a call, because `warnings.catch_warnings` is
    not safe with several threads. Formats that start other programs are not supported.
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
        return 1  # A picture with a damaged EXIF block is read all the same.


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

    The file does not state white where Pillow returns 32-bit integers or floats: it is
    the smallest of 1, 255 (these two for floats), 65535 and 2^32 - 1 that no value
    exceeds.
    """
    if not np.isfinite(values).all():
        raise ValueError("pixels that are NaN or infinite")
    whites = [1.0, 255.0] if values.dtype.kind == "f" else []
    whites += [2.0**16 - 1, 2.0**32 - 1]
    largest = values.max()
    white = next((w for w in whites if largest <= w), float(largest))
    return np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8)


def _crop_to_box(picture: PicturePart, box: Box | None) -> PicturePart:
    if box is None:
        return picture
    width, height = picture.image.size
    x0, y0, x1, y1 = box
    # Written as a negation, so that NaN fails, too.
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
    return PicturePart(picture.image.crop(shown_box), shown_box)


def _error_reason(error: Exception) -> str:
    if isinstance(error, PictureError):
        return error.reason
    text = error.strerror if isinstance(error, OSError) and error.strerror else error
    return " ".join(str(text).split()) or type(error).__name__
