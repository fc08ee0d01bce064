"""The layout that the paper's ground truths have in MATLAB files."""

import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from diffjax.matlab import read_matlab

from ._revisited import landmark_of
from ._truth import GroundTruth, read_box, read_positions, refuse_contradictions

_WANTED = "imlist, gnd with ok and junk, and qimlist or qidx"


class Gnd(NamedTuple):
    """What such a file holds.

    Attributes:
        database: Names of the pictures.
        queries: Names of the query pictures.
        records: What is known of each query.
    """

    database: tuple[str, ...]
    queries: tuple[str, ...]
    records: tuple[dict[str, Any], ...]


def read_released_truth(
    path: str | os.PathLike[str], *, name: str | None = None
) -> GroundTruth:
    """Reads the ground truth that belongs to released descriptors, in their order.

    The numbers of pictures are those of the descriptors' file, which no list of names
    from elsewhere need agree with. For INSTRE see `read_instre`.

    Args:
        path: `gnd_oxford5k.mat` and the like: the cell `imlist` of names, the query
            pictures as a cell `qimlist` of names or as their numbers `qidx` and, per
            query, a struct array `gnd` with the numbers `ok` and `junk`, from 1, and
            perhaps the box `bbx`.
        name: What the benchmark is called; None is the name of the file without `gnd_`.

    Returns:
        The queries in the file's order; their objects are what most of their pictures
        are named by. A query without a box asks for the whole picture.

    Raises:
        ValueError: If the file is of another layout, or names a picture that is not
            there.
        OSError: If the file can't be read.

    References:
        The release of Iscen et al., CVPR 2017,
        https://github.com/ahmetius/diffusion-retrieval. Its files could not be opened
        here: the layout is that of its description.
    """
    read = read_gnd(path, wanted=_WANTED)
    size = len(read.database)
    lists: dict[str, list[Any]] = {"ok": [], "junk": []}
    boxes, objects = [], []
    for number, (record, query) in enumerate(
        zip(read.records, read.queries, strict=True)
    ):
        place = f"{path}, query {number} ({query})"
        check_numbers(record, tuple(lists), place=place)
        for key, rows in lists.items():
            rows.append(
                read_positions(record[key], size=size, place=f"{place}, {key}", first=1)
            )
        corners = np.asarray(record.get("bbx", ())).ravel().tolist()
        boxes.append(read_box(corners, place=place) if corners else None)
        right = [read.database[position] for position in lists["ok"][-1]]
        objects.append(landmark_of([query, *right]))
    truth = GroundTruth(
        name=name or pathlib.Path(path).stem.removeprefix("gnd_"),
        database=read.database,
        queries=read.queries,
        boxes=tuple(boxes),
        positives=tuple(lists["ok"]),
        junk=tuple(lists["junk"]),
        objects=tuple(objects),
    )
    return refuse_contradictions(truth, source=path)


def read_gnd(path: str | os.PathLike[str], *, wanted: str) -> Gnd:
    """Reads names and records of such a file.

    Raises:
        ValueError: If it is of another layout; `wanted` says what was expected.
        OSError: If it can't be read.
    """
    content = read_matlab(path)
    if not {"imlist", "gnd"} <= content.keys() or not {"qimlist", "qidx"} & set(
        content
    ):
        raise ValueError(f"{path} must hold {wanted}, got {sorted(content)}.")
    database = _names(content["imlist"], f"{path}: imlist")
    if "qimlist" in content:
        queries = _names(content["qimlist"], f"{path}: qimlist")
    else:
        # One by one: the order is that of the records, and a picture may ask twice.
        queries = [
            database[position]
            for number in np.asarray(content["qidx"]).ravel()
            for position in read_positions(
                number, size=len(database), place=f"{path}: qidx", first=1
            )
        ]
    records = content["gnd"]
    records = [records] if isinstance(records, dict) else records
    if not isinstance(records, list) or len(records) != len(queries):
        got = len(records) if isinstance(records, list) else type(records).__name__
        raise ValueError(
            f"{path}: gnd must be a struct for each of {len(queries)} queries, got "
            f"{got}."
        )
    return Gnd(tuple(database), tuple(queries), tuple(records))


def check_numbers(record: Any, fields: tuple[str, ...], *, place: str) -> None:
    """Refuses a record that lacks one of its fields of numbers.

    Raises:
        ValueError: With what it has; `place` says where.
    """
    for field in fields:
        if not isinstance(record, dict) or not isinstance(
            record.get(field), np.ndarray
        ):
            got = sorted(record) if isinstance(record, dict) else record
            raise ValueError(
                f"{place}: must have numbers {' and '.join(fields)}, got {got}."
            )


def _names(value: Any, place: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{place} must be a cell of names, got {_told(value)}.")
    return value


def _told(value: Any) -> str:
    if isinstance(value, list):
        odd = next(one for one in value if not isinstance(one, str))
        return f"a cell with {type(odd).__name__}"
    return type(value).__name__
