"""Labels of images: ids of the user's choice, beside the image numbers 0, 1, 2, ..."""

import itertools
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

Label = int | str | uuid.UUID
Labels = Shaped[np.ndarray, " m"]  # Of int64, uint64, or of objects of one type.

_UUID_BYTES = 16
_NAMES = "labels", "label_starts"  # Stored arrays.


class NumberedImages(NamedTuple):
    """Image numbers of regions whose images have labels.

    Attributes:
        image_ids: Image of every region: 0, 1, 2, ... without going back or skipping.
        labels: Label of every image; None if labels are the image numbers.
        region_order: Row of every region, as regions of an image lie together; None if
            they are in the order of the rows.
    """

    image_ids: Int[np.ndarray, " n"]
    labels: Labels | None
    region_order: Int[np.ndarray, " n"] | None


def number_images(ids: Any | None, *, rows: int) -> NumberedImages:
    """Numbers images in the order in which their labels first appear.

    Args:
        ids: Label of the image of every row: integers, strings or UUIDs, in any order
            and with gaps; None if each row is an image.
        rows: Number of rows n.

    Returns:
        Image numbers, and the labels unless they are these numbers.

    Raises:
        ValueError: If there is not one label per row, or they are not all of one of
            these types.
    """
    if ids is None:
        return NumberedImages(np.arange(rows, dtype=np.int32), None, None)
    given = as_labels("ids", ids)
    if given.shape != (rows,):
        raise ValueError(
            f"ids must have one id per row, {rows}, got {list(given.shape)}."
        )
    numbers: dict[Label, int] = {}
    image_ids = np.fromiter(
        (numbers.setdefault(label, len(numbers)) for label in given.tolist()),
        np.int32,
        count=rows,
    )
    labels = _to_array(list(numbers))
    if labels.dtype != object and np.array_equal(labels, np.arange(len(labels))):
        labels = None
    if (np.diff(image_ids) >= 0).all():
        return NumberedImages(image_ids, labels, None)
    region_order = np.argsort(image_ids, kind="stable")
    return NumberedImages(image_ids[region_order], labels, region_order)


def as_labels(name: str, ids: Any) -> Labels:
    """Converts labels to an array of integers, or of strings or UUIDs as objects.

    Args:
        name: Name of the argument, for errors.
        ids: Array, list, column of a data frame, or another sequence.

    Raises:
        ValueError: If labels are of another type, of several, or missing.
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


def _to_array(labels: list[Any], name: str = "ids") -> Labels:
    """Array of labels of one type."""
    labels = [x.item() if isinstance(x, np.integer | np.str_) else x for x in labels]
    kinds = {type(label) for label in labels}
    if len(kinds) > 1 or not kinds <= {int, str, uuid.UUID}:
        row = next(
            (i for i, x in enumerate(labels) if type(x) not in (int, str, uuid.UUID)),
            next(
                (i for i, x in enumerate(labels) if type(x) is not type(labels[0])), 0
            ),
        )
        raise ValueError(
            f"{name} must be all integers, all strings or all UUIDs, got "
            f"{type(labels[row]).__name__} {labels[row]!r} in row {row}."
        )
    if kinds <= {int}:
        dtype = (
            np.uint64 if max(labels, default=0) > np.iinfo(np.int64).max else np.int64
        )
        try:
            return np.array(labels, dtype)
        except OverflowError:
            raise ValueError(
                f"{name} must be integers of 64 bits, got "
                f"{max(labels, key=abs)}: use strings."
            ) from None
    array = np.empty(len(labels), object)
    array[:] = labels
    return array


def labels_to_arrays(labels: Labels | None) -> dict[str, np.ndarray]:
    """Arrays that an index stores for its labels.

    Integers are stored as they are, UUIDs as 16 bytes each, and strings as UTF-8, one
    after the other, with the start of each.
    """
    if labels is None:
        return {}
    if labels.dtype != object:
        return {"labels": labels}
    if labels.size and isinstance(labels[0], uuid.UUID):
        text = b"".join(label.bytes for label in labels)
        return {"labels": np.frombuffer(text, np.uint8).reshape(-1, _UUID_BYTES)}
    # File names may hold bytes that are no text.
    encoded = [label.encode("utf-8", "surrogateescape") for label in labels]
    starts = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    stored = np.frombuffer(b"".join(encoded), np.uint8)
    return dict(zip(_NAMES, (stored, starts), strict=True))


def labels_from_arrays(arrays: Mapping[str, np.ndarray]) -> Labels | None:
    """Labels from the arrays that an index stores; None if it stores none."""
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
    name: str, wanted: Iterable[Label], labels: Labels
) -> Int[np.ndarray, " w"]:
    """Image numbers of some labels, in their order.

    Args:
        name: Name of the argument, for errors.
        wanted: Labels of images.
        labels: Label of every image.

    Raises:
        ValueError: If labels are not in the index, listing them.
    """
    wanted = as_labels(name, list(wanted)).tolist()
    numbers = {label: number for number, label in enumerate(labels.tolist())}
    missing = [label for label in wanted if label not in numbers]
    if missing:
        shown = ", ".join(repr(label) for label in missing)
        raise ValueError(f"{name} must be ids of the index, got {shown}.")
    return np.array([numbers[label] for label in wanted], np.int32)
