"""Ground truths by names of pictures, and their pictures in a folder."""

import os
import pathlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from diffjax.images import MIN_BOX, Box, find_pictures

from ._benchmark import Benchmark

_MAX_LISTED = 10  # Names in an error message about many.


class GroundTruth(NamedTuple):
    """Ground truth of a benchmark, with pictures by name.

    Attributes:
        name: Name of the benchmark in records and tables.
        database: Unique names of the database pictures; answers are positions in this
            tuple.
        queries: Names of the query pictures.
        boxes: Region (x0, y0, x1, y1) of each query in pixels, None for the whole
            picture.
        positives: Positions of the relevant pictures, ascending, per query; may be
            empty.
        junk: Positions that count neither as right nor as wrong, ascending, per query.
        objects: Object that each query shows; queries of one object are not
            independent.
    """

    name: str
    database: tuple[str, ...]
    queries: tuple[str, ...]
    boxes: tuple[Box | None, ...]
    positives: tuple[Int[np.ndarray, " _"], ...]
    junk: tuple[Int[np.ndarray, " _"], ...]
    objects: tuple[str, ...]


def attach_pictures(
    truth: GroundTruth,
    folder: str | os.PathLike[str],
    *,
    distractors: Sequence[str | os.PathLike[str]] = (),
    name: str | None = None,
) -> Benchmark:
    """Benchmark of a ground truth with its pictures in a folder, and distractors.

    A name matches the picture whose path ends in it, with or without the suffix of the
    file: `all_souls_000013` for `jpg/all_souls_000013.jpg`. Of several matches the one
    in the fewest folders is taken.

    Args:
        truth: From a reader of this stage.
        folder: Folder of all its pictures, including query pictures, in any depth; it
            may hold other files.
        distractors: Paths of more database pictures, relevant for no query: from
            `find_pictures`, or from `read_picture_list` with their folder in front.
            They follow the other database pictures in this order.
        name: Name of the benchmark, for example "oxford105k" for Oxford5k with 100,000
            distractors; None is that of the ground truth.

    Returns:
        The benchmark, its database in the order of the ground truth.

    Raises:
        ValueError: If pictures are missing (it counts and names them all), if a name
            matches several, or if a picture is in the database twice.
    """
    root = pathlib.Path(folder)
    extra = tuple(pathlib.Path(path) for path in distractors)
    names = tuple(dict.fromkeys(truth.database + truth.queries))
    matches = _match_names(root, names)
    missing = [picture for picture in names if picture not in matches]
    missing += [str(path) for path in extra if not path.is_file()]
    if missing:
        raise ValueError(
            f"folder must hold all pictures of {name or truth.name}, got no file in "
            f"{str(root)!r} for {len(missing)} of {len(names) + len(extra)}: "
            f"{', '.join(missing)}."
        )
    ambiguous = [picture for picture in names if len(matches[picture]) > 1]
    if ambiguous:
        pair = " and ".join(repr(str(path)) for path in matches[ambiguous[0]][:2])
        raise ValueError(
            f"folder must hold one picture of each name, got several for "
            f"{len(ambiguous)} of {len(names)}: {ambiguous[0]!r} could be {pair}."
        )
    database = tuple(matches[picture][0] for picture in truth.database) + extra
    queries = tuple(matches[picture][0] for picture in truth.queries)
    resolved = _resolve_paths(database)
    check_unique_names("database", resolved)
    resolved_queries = frozenset(_resolve_paths(queries))
    shared = [p for p in resolved[len(truth.database) :] if p in resolved_queries]
    if shared:
        raise ValueError(
            f"distractors must hold no query picture, got {len(shared)}: "
            f"{format_first_names(shared)}."
        )
    return Benchmark(
        name=name or truth.name,
        folder=root,
        database=database,
        queries=queries,
        boxes=truth.boxes,
        positives=truth.positives,
        junk=truth.junk,
        objects=truth.objects,
    )


def read_picture_list(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Reads a text file of picture paths, such as that of the million distractors.

    Args:
        path: Text file in UTF-8, `revisitop1m.txt` for example, with one path per line,
            relative to the folder of the pictures; empty lines are skipped.

    Returns:
        The paths in the order of the file.

    Raises:
        ValueError: If a path leads out of the folder or is there twice, or the file has
            none.
        OSError: If the file can't be read.

    References:
        Radenovic et al., CVPR 2018, https://arxiv.org/abs/1803.11285, for the list; the
        format is that of the reader in https://github.com/filipradenovic/revisitop.
    """
    names = read_lines(path)
    if not names:
        raise ValueError(f"{path} must name a picture in each line, got no line.")
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"{path} must hold paths within a folder, got {name!r}.")
    check_unique_names(str(path), names)
    return tuple(names)


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """Reads the non-empty lines of a text file, stripped.

    Raises:
        ValueError: If the file is not in UTF-8.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a text in UTF-8, got {error}.") from error
    return [line.strip() for line in text.split("\n") if line.strip()]


def read_box(corners: Iterable[Any], *, source: str) -> Box:
    """Box from four numbers or their texts; integral numbers become int.

    Raises:
        ValueError: If it is not a box of at least 8 pixels on each side; the message
            begins with `source`.
    """
    corners = list(corners)
    text = ",".join(str(corner) for corner in corners)
    try:
        x0, y0, x1, y1 = (float(corner) for corner in corners)
    except (OverflowError, TypeError, ValueError):
        raise ValueError(
            f"{source}: a box must be four numbers x0,y0,x1,y1, got {text!r}."
        ) from None
    # In this form NaN is refused, too.
    if not (0 <= x0 < x1 < np.inf and 0 <= y0 < y1 < np.inf):
        raise ValueError(
            f"{source}: a box must have 0 <= x0 < x1 and 0 <= y0 < y1, got {text}."
        )
    if min(x1 - x0, y1 - y0) < MIN_BOX:
        raise ValueError(
            f"{source}: a box must have {MIN_BOX} px or more on each side, got {text} "
            "(in pixels, not fractions)."
        )
    return _int_if_whole(x0), _int_if_whole(y0), _int_if_whole(x1), _int_if_whole(y1)


def read_positions(
    numbers: Any, *, size: int, source: str, first: int = 0
) -> Int[np.ndarray, " _"]:
    """Positions, ascending and unique, of picture numbers that start at `first`.

    Raises:
        ValueError: If a number is not integral or beyond `size` pictures; the message
            begins with `source`.
    """
    array = np.asarray(numbers).ravel()
    if not array.size:
        return np.zeros(0, np.int64)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{source}: must be numbers of pictures, got {array[0]!r}.")
    # In this form NaN is refused, too.
    is_valid = (array >= first) & (array < first + size) & (array == np.rint(array))
    if not is_valid.all():
        raise ValueError(
            f"{source}: must be numbers of pictures from {first} to "
            f"{first + size - 1}, got {array[~is_valid][0]}."
        )
    return np.unique(array.astype(np.int64) - first)


def check_consistent(
    truth: GroundTruth, *, source: str | os.PathLike[str]
) -> GroundTruth:
    """Returns a ground truth unless it contradicts itself.

    Raises:
        ValueError: If a database name is there twice, there is no query, or an answer
            is both positive and junk.
    """
    check_unique_names(f"{source}, database", truth.database)
    if not truth.queries:
        raise ValueError(f"{source} must have queries, got none.")
    for number, query in enumerate(truth.queries):
        contradictory = np.intersect1d(truth.positives[number], truth.junk[number])
        if contradictory.size:
            raise ValueError(
                f"{source}, query {number} ({query}): an answer must not be right and "
                f"junk, got {truth.database[contradictory[0]]!r} in both."
            )
    return truth


def check_unique_names(source: str, names: Sequence[str]) -> None:
    """Refuses duplicate names.

    Raises:
        ValueError: With their number and the first ten.
    """
    duplicates = [name for name, count in Counter(names).items() if count > 1]
    if duplicates:
        raise ValueError(
            f"{source} must name every picture once, got {len(duplicates)} more often: "
            f"{format_first_names(duplicates)}."
        )


def format_first_names(names: Sequence[str]) -> str:
    """First ten of many names, as text."""
    return ", ".join(names[:_MAX_LISTED]) + (
        ", ..." if len(names) > _MAX_LISTED else ""
    )


def _match_names(
    folder: pathlib.Path, names: Sequence[str]
) -> dict[str, tuple[pathlib.Path, ...]]:
    """Pictures in the fewest folders that each name matches."""
    known = frozenset(names)
    by_depth: dict[str, dict[int, list[pathlib.Path]]] = {}
    for path in find_pictures(folder):
        components = path.relative_to(folder).parts
        for depth in range(len(components)):
            ending = "/".join(components[depth:])
            for name in known & {ending, ending.removesuffix(path.suffix)}:
                by_depth.setdefault(name, {}).setdefault(depth, []).append(path)
    return {name: tuple(depths[min(depths)]) for name, depths in by_depth.items()}


def _resolve_paths(paths: Sequence[pathlib.Path]) -> list[str]:
    """Resolved paths; only folders are looked up, as there may be a million files."""
    folders = {folder: folder.resolve() for folder in {path.parent for path in paths}}
    return [str(folders[path.parent] / path.name) for path in paths]


def _int_if_whole(corner: float) -> float:
    return int(corner) if corner.is_integer() else corner
