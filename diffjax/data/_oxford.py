"""Ground truth of Oxford5k and Paris6k, as their makers published it: text files."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from ._pictures import Box
from ._truth import (
    GroundTruth,
    read_box,
    read_lines,
    refuse_contradictions,
    refuse_repeated,
    shorten,
)

_KINDS = ("query", "good", "ok", "junk")
_PREFIX = "oxc1_"  # Of names in the query files of Oxford5k, and nowhere else.


def read_oxford(
    folder: str | os.PathLike[str],
    database: Sequence[str],
    *,
    name: str | None = None,
) -> GroundTruth:
    """Reads the text files of Oxford5k or Paris6k.

    Right are the good and the ok pictures, each once, whatever the files say; the query
    picture is in the database like any other.

    Args:
        folder: Where the files lie, `all_souls_1_query.txt` and so on: four for each
            query, of which those of good, ok and junk hold a name in each line, and
            that of the query `NAME x0 y0 x1 y1`.
        database: Names of all pictures, which the files do not tell: `revisited_names`
            knows them, or those of a folder's pictures without their suffix. Answers
            are positions in it.
        name: What the benchmark is called; None is the name of the folder.

    Returns:
        The queries sorted by the names of their files; their objects are the
        landmarks: "all_souls" for `all_souls_1`.

    Raises:
        ValueError: If a file is missing, a query line has another form, or a picture is
            not in `database` (it counts them all and names the first ten).
        OSError: If a file can't be read.

    References:
        Philbin et al., CVPR 2007 (Oxford Buildings) and CVPR 2008 (Paris); the format
        is read off their files.
    """
    root = pathlib.Path(folder)
    labels = _labels(root)
    refuse_repeated("database", database)
    where = {picture: place for place, picture in enumerate(database)}
    queries, boxes, lists = [], [], []
    for label in labels:
        query, box = _query(root / f"{label}_query.txt", where)
        queries.append(query)
        boxes.append(box)
        lists.append([read_lines(root / f"{label}_{kind}.txt") for kind in _KINDS[1:]])
    named = [*queries, *(n for parts in lists for part in parts for n in part)]
    absent = list(dict.fromkeys(one for one in named if one not in where))
    if absent:
        raise ValueError(
            f"database must hold all pictures that {root} names, got "
            f"{len(database)} without {len(absent)} of them: {', '.join(absent)}."
        )

    def positions(names: list[str]) -> Int[np.ndarray, " _"]:
        return np.unique(np.array([where[one] for one in names], np.int64))

    truth = GroundTruth(
        name=name or root.resolve().name,
        database=tuple(database),
        queries=tuple(queries),
        boxes=tuple(boxes),
        positives=tuple(positions(good + ok) for good, ok, _ in lists),
        junk=tuple(positions(bad) for _, _, bad in lists),
        objects=tuple(label.rpartition("_")[0] or label for label in labels),
    )
    return refuse_contradictions(truth, source=root)


def _labels(folder: pathlib.Path) -> list[str]:
    """The names of the queries; each must have all of its files."""
    if not folder.is_dir():
        raise ValueError(f"folder must be an existing folder, got {str(folder)!r}.")
    there = {path.name for path in folder.glob("*.txt")}
    endings = tuple(f"_{kind}.txt" for kind in _KINDS)
    labels = sorted({n.rpartition("_")[0] for n in there if n.endswith(endings)})
    if not labels:
        raise ValueError(f"folder must hold *_query.txt files, got none in {folder}.")
    wanted = [f"{label}{ending}" for label in labels for ending in endings]
    absent = [one for one in wanted if one not in there]
    if absent:
        raise ValueError(
            f"folder must hold four files for each query, got {len(absent)} of "
            f"{len(wanted)} missing in {folder}: {shorten(absent)}."
        )
    return labels


def _query(path: pathlib.Path, where: dict[str, int]) -> tuple[str, Box]:
    """The picture that is asked for, and the box in it."""
    lines = read_lines(path)
    parts = lines[0].split() if len(lines) == 1 else []
    if len(parts) != 5:
        raise ValueError(
            f"{path} must be one line NAME x0 y0 x1 y1, got {' / '.join(lines)!r}."
        )
    name, *corners = parts
    if name not in where:
        name = name.removeprefix(_PREFIX)
    return name, read_box(corners, place=str(path))
