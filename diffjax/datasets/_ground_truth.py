"""Ground truths: right answers by the names of pictures, wherever those lie."""

import os
import pathlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from diffjax.images import MIN_BOX, Box, find_pictures

from ._benchmark import Benchmark

_MAX_LISTED = 10  # Of many names that are wrong, as many are told.


class GroundTruth(NamedTuple):
    """What is right in a benchmark, before its pictures are looked for.

    Attributes:
        name: What the benchmark is called in records and tables.
        database: Names of the pictures to be searched, none twice; answers are
            positions in this tuple.
        queries: Names of the query pictures.
        boxes: Per query the region (x0, y0, x1, y1) in pixels that is asked for, or
            None for the whole picture.
        positives: Per query the right answers, ascending; a query may have none.
        junk: Per query the answers that count neither as right nor as wrong, ascending.
        objects: Per query what it shows; queries of one object are not independent.
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
    """Finds the pictures that a ground truth names, and adds distractors.

    A name stands for the picture whose path ends in it, with or without the suffix of
    the file: `all_souls_000013` for `jpg/all_souls_000013.jpg`. Where several do, it is
    the one in the fewest folders.

    Args:
        truth: From a reader of this stage.
        folder: Where all pictures lie that it names, those of the queries included, in
            any depth; it may hold others.
        distractors: Paths of more pictures to be searched, which are right for no
            query: those of `find_pictures`, or of `read_picture_list` with the folder
            in front. They come last in the database, in this order.
        name: What the benchmark is called: "oxford105k", say, for Oxford5k with 100,000
            distractors. None is the name of the ground truth.

    Returns:
        The benchmark, its database in the order of the ground truth.

    Raises:
        ValueError: If pictures are not there (it counts them all and names the first
            ten), if a name stands for several, or if a picture is there twice.
    """
    root = pathlib.Path(folder)
    more = tuple(pathlib.Path(path) for path in distractors)
    names = tuple(dict.fromkeys(truth.database + truth.queries))
    found = _find_named_pictures(root, names)
    absent = [one for one in names if one not in found]
    absent += [str(path) for path in more if not path.is_file()]
    if absent:
        raise ValueError(
            f"folder must hold all pictures of {name or truth.name}, got no file in "
            f"{str(root)!r} for {len(absent)} of {len(names) + len(more)}: "
            f"{', '.join(absent)}."
        )
    several = [one for one in names if len(found[one]) > 1]
    if several:
        shown = " and ".join(repr(str(path)) for path in found[several[0]][:2])
        raise ValueError(
            f"folder must hold one picture of each name, got several for "
            f"{len(several)} of {len(names)}: {several[0]!r} could be {shown}."
        )
    database = tuple(found[one][0] for one in truth.database) + more
    queries = tuple(found[one][0] for one in truth.queries)
    places = _resolve_paths(database)
    check_unique_names("database", places)
    asked = frozenset(_resolve_paths(queries))
    shared = [one for one in places[len(truth.database) :] if one in asked]
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
    """Reads a list of pictures, such as that of the million distractors.

    Args:
        path: `revisitop1m.txt`, say: a text file in UTF-8 with a path in each line,
            relative to the folder of the pictures; empty lines are passed over.

    Returns:
        The paths as they stand there, in the file's order.

    Raises:
        ValueError: If a path leads out of the folder or comes twice, or none is there.
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
    """Reads the lines of a text file that hold anything, without spaces around.

    Raises:
        ValueError: If the file is not in UTF-8.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a text in UTF-8, got {error}.") from error
    return [line.strip() for line in text.split("\n") if line.strip()]


def read_box(corners: Iterable[Any], *, place: str) -> Box:
    """Reads a box from four numbers or their texts, whole numbers as int.

    Raises:
        ValueError: If it is none of at least 8 pixels on each side; `place` says where.
    """
    given = list(corners)
    told = ",".join(str(corner) for corner in given)
    try:
        x0, y0, x1, y1 = (float(corner) for corner in given)
    except (OverflowError, TypeError, ValueError):
        raise ValueError(
            f"{place}: a box must be four numbers x0,y0,x1,y1, got {told!r}."
        ) from None
    # Written so that NaN fails, too.
    if not (0 <= x0 < x1 < np.inf and 0 <= y0 < y1 < np.inf):
        raise ValueError(
            f"{place}: a box must have 0 <= x0 < x1 and 0 <= y0 < y1, got {told}."
        )
    if min(x1 - x0, y1 - y0) < MIN_BOX:
        raise ValueError(
            f"{place}: a box must have {MIN_BOX} px or more on each side, got {told} "
            "(in pixels, not fractions)."
        )
    return _int_if_whole(x0), _int_if_whole(y0), _int_if_whole(x1), _int_if_whole(y1)


def read_positions(
    numbers: Any, *, size: int, place: str, first: int = 0
) -> Int[np.ndarray, " _"]:
    """Turns picture numbers that start at `first` into positions, ascending, each once.

    Raises:
        ValueError: If one is no whole number or beyond `size` pictures; `place` says
            where.
    """
    given = np.asarray(numbers).ravel()
    if not given.size:
        return np.zeros(0, np.int64)
    if given.dtype.kind not in "iuf":
        raise ValueError(f"{place}: must be numbers of pictures, got {given[0]!r}.")
    # Written so that NaN fails, too.
    inside = (given >= first) & (given < first + size) & (given == np.rint(given))
    if not inside.all():
        raise ValueError(
            f"{place}: must be numbers of pictures from {first} to "
            f"{first + size - 1}, got {given[~inside][0]}."
        )
    return np.unique(given.astype(np.int64) - first)


def check_consistent(
    truth: GroundTruth, *, source: str | os.PathLike[str]
) -> GroundTruth:
    """Refuses a ground truth that contradicts itself, and hands on any other.

    Raises:
        ValueError: If a database name comes twice, there is no query, or an answer is
            both right and junk.
    """
    check_unique_names(f"{source}, database", truth.database)
    if not truth.queries:
        raise ValueError(f"{source} must have queries, got none.")
    for place, query in enumerate(truth.queries):
        both = np.intersect1d(truth.positives[place], truth.junk[place])
        if both.size:
            raise ValueError(
                f"{source}, query {place} ({query}): an answer must not be right and "
                f"junk, got {truth.database[both[0]]!r} in both."
            )
    return truth


def check_unique_names(place: str, names: Sequence[str]) -> None:
    """Refuses a name that comes twice.

    Raises:
        ValueError: With how many names do.
    """
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(
            f"{place} must name every picture once, got {len(twice)} more often: "
            f"{format_first_names(twice)}."
        )


def format_first_names(names: Sequence[str]) -> str:
    """Tells the first ten of many names."""
    return ", ".join(names[:_MAX_LISTED]) + (
        ", ..." if len(names) > _MAX_LISTED else ""
    )


def _find_named_pictures(
    folder: pathlib.Path, names: Sequence[str]
) -> dict[str, tuple[pathlib.Path, ...]]:
    """Finds the pictures that may be meant by each name, in the fewest folders."""
    wanted = frozenset(names)
    found: dict[str, dict[int, list[pathlib.Path]]] = {}
    for path in find_pictures(folder):
        parts = path.relative_to(folder).parts
        for depth in range(len(parts)):
            tail = "/".join(parts[depth:])
            for name in wanted & {tail, tail.removesuffix(path.suffix)}:
                found.setdefault(name, {}).setdefault(depth, []).append(path)
    return {name: tuple(depths[min(depths)]) for name, depths in found.items()}


def _resolve_paths(paths: Sequence[pathlib.Path]) -> list[str]:
    """Where files really lie; of a million of them, only the folders are looked up."""
    folders = {folder: folder.resolve() for folder in {path.parent for path in paths}}
    return [str(folders[path.parent] / path.name) for path in paths]


def _int_if_whole(corner: float) -> float:
    return int(corner) if corner.is_integer() else corner
