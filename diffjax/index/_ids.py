"""Ids of images: a user's strings, integers or UUIDs, and image numbers 0, 1, ..."""

import itertools
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

ImageId = int | str | uuid.UUID
Ids = Shaped[np.ndarray, " m"]  # Of int64, uint64, or of objects of one type.

_UUID_BYTES = 16
_NAMES = "ids", "id_starts"  # Stored arrays.


class NumberedImages(NamedTuple):
    """Image numbers of regions whose images have ids.

    Attributes:
        image_ids: Image of every region: 0, 1, 2, ... without going back or skipping.
        unique_ids: Id of every image; None if ids are the image numbers.
        region_order: Row of every region, as regions of an image lie together; None if
            they are in the order of the rows.
    """

    image_ids: Int[np.ndarray, " n"]
    unique_ids: Ids | None
    region_order: Int[np.ndarray, " n"] | None


def number_images(ids: Any | None, *, rows: int) -> NumberedImages:
    """Numbers images in the order in which their ids first appear.

    Args:
        ids: Id of the image of every row: integers, strings or UUIDs, in any order
            and with gaps; None if each row is an image.
        rows: Number of rows n.

    Returns:
        Image numbers, and the ids unless they are these numbers.

    Raises:
        ValueError: If there is not one id per row, or they are not all of one of
            these types.
    """
    if ids is None:
        return NumberedImages(np.arange(rows, dtype=np.int32), None, None)
    given = as_ids("ids", ids)
    if given.shape != (rows,):
        raise ValueError(
            f"ids must have one id per row, {rows}, got {list(given.shape)}."
        )
    numbers: dict[ImageId, int] = {}
    image_ids = np.fromiter(
        (numbers.setdefault(row_id, len(numbers)) for row_id in given.tolist()),
        np.int32,
        count=rows,
    )
    unique_ids = _to_array(list(numbers))
    if unique_ids.dtype != object and np.array_equal(
        unique_ids, np.arange(len(unique_ids))
    ):
        unique_ids = None
    if (np.diff(image_ids) >= 0).all():
        return NumberedImages(image_ids, unique_ids, None)
    region_order = np.argsort(image_ids, kind="stable")
    return NumberedImages(image_ids[region_order], unique_ids, region_order)


def as_ids(name: str, ids: Any) -> Ids:
    """Converts ids to an array of integers, or of strings or UUIDs as objects.

    Args:
        name: Name of the argument, for errors.
        ids: Array, list, column of a data frame, or another sequence.

    Raises:
        ValueError: If ids are of another type, of several, or missing.
    """
    if np.ma.is_masked(ids):
        raise ValueError(f"{name} must have no masked entries: leave these rows out.")
    # A list is not converted at once: NumPy would make one type of several.
    is_list = isinstance(ids, Sequence) and not isinstance(ids, str | bytes)
    array = None if is_list else np.asarray(ids)
    if array is not None and array.dtype.kind in "iu":
        return array.astype(np.int64 if array.dtype.kind == "i" else np.uint64)
    if array is not None and (array.ndim != 1 or array.dtype.kind not in "UOT"):
        raise ValueError(
            f"{name} must be integers, strings or UUIDs, one per row, got "
            f"{array.dtype} {list(array.shape)}."
        )
    return _to_array(list(ids) if array is None else array.tolist(), name)


def _to_array(ids: list[Any], name: str = "ids") -> Ids:
    """Array of ids of one type."""
    ids = [x.item() if isinstance(x, np.integer | np.str_) else x for x in ids]
    kinds = {type(x) for x in ids}
    if len(kinds) > 1 or not kinds <= {int, str, uuid.UUID}:
        row = next(
            (i for i, x in enumerate(ids) if type(x) not in (int, str, uuid.UUID)),
            next((i for i, x in enumerate(ids) if type(x) is not type(ids[0])), 0),
        )
        raise ValueError(
            f"{name} must be all integers, all strings or all UUIDs, got "
            f"{type(ids[row]).__name__} {ids[row]!r} in row {row}."
        )
    if kinds <= {int}:
        dtype = np.uint64 if max(ids, default=0) > np.iinfo(np.int64).max else np.int64
        try:
            return np.array(ids, dtype)
        except OverflowError:
            raise ValueError(
                f"{name} must be integers of 64 bits, got "
                f"{max(ids, key=abs)}: use strings."
            ) from None
    array = np.empty(len(ids), object)
    array[:] = ids
    return array


def ids_to_arrays(ids: Ids | None) -> dict[str, np.ndarray]:
    """Arrays that an index stores for its ids.

    Integers are stored as they are, UUIDs as 16 bytes each, and strings as UTF-8, one
    after the other, with the start of each.
    """
    if ids is None:
        return {}
    if ids.dtype != object:
        return {"ids": ids}
    if ids.size and isinstance(ids[0], uuid.UUID):
        text = b"".join(one_id.bytes for one_id in ids)
        return {"ids": np.frombuffer(text, np.uint8).reshape(-1, _UUID_BYTES)}
    # File names may hold bytes that are no text.
    encoded = [one_id.encode("utf-8", "surrogateescape") for one_id in ids]
    starts = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    stored = np.frombuffer(b"".join(encoded), np.uint8)
    return dict(zip(_NAMES, (stored, starts), strict=True))


def ids_from_arrays(arrays: Mapping[str, np.ndarray]) -> Ids | None:
    """Ids from the arrays that an index stores; None if it stores none."""
    stored, starts = (arrays.get(name) for name in _NAMES)
    if stored is None:
        return None
    if starts is not None:
        text, ends = stored.tobytes(), starts.tolist()
        return _to_array(
            [
                text[start:end].decode("utf-8", "surrogateescape")
                for start, end in itertools.pairwise(ends)
            ]
        )
    if stored.ndim > 1:
        return _to_array([uuid.UUID(bytes=row.tobytes()) for row in stored])
    return np.asarray(stored)


def numbers_of(
    name: str, wanted: Iterable[ImageId], unique_ids: Ids
) -> Int[np.ndarray, " w"]:
    """Image numbers of some ids, in their order.

    Args:
        name: Name of the argument, for errors.
        wanted: Ids of images.
        unique_ids: Id of every image.

    Raises:
        ValueError: If ids are not in the index, listing them.
    """
    wanted = as_ids(name, list(wanted)).tolist()
    numbers = {one_id: number for number, one_id in enumerate(unique_ids.tolist())}
    missing = [one_id for one_id in wanted if one_id not in numbers]
    if missing:
        shown = ", ".join(repr(one_id) for one_id in missing)
        raise ValueError(f"{name} must be ids of the index, got {shown}.")
    return np.array([numbers[one_id] for one_id in wanted], np.int32)
