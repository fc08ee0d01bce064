"""MATLAB ground truths: those of released descriptors, and INSTRE."""

import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from diffjax.matlab import read_matlab

from ._ground_truth import GroundTruth, check_consistent, read_box, read_positions
from ._oxford_paris import most_common_landmark

_RELEASED_LAYOUT = "imlist, gnd with ok and junk, and qimlist or qidx"


class MatlabGroundTruth(NamedTuple):
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
    read = read_matlab_ground_truth(path, layout=_RELEASED_LAYOUT)
    size = len(read.database)
    lists: dict[str, list[Any]] = {"ok": [], "junk": []}
    boxes, objects = [], []
    for number, (record, query) in enumerate(
        zip(read.records, read.queries, strict=True)
    ):
        place = f"{path}, query {number} ({query})"
        check_number_fields(record, tuple(lists), place=place)
        for key, rows in lists.items():
            rows.append(
                read_positions(record[key], size=size, place=f"{place}, {key}", first=1)
            )
        corners = np.asarray(record.get("bbx", ())).ravel().tolist()
        boxes.append(read_box(corners, place=place) if corners else None)
        right = [read.database[position] for position in lists["ok"][-1]]
        objects.append(most_common_landmark([query, *right]))
    truth = GroundTruth(
        name=name or pathlib.Path(path).stem.removeprefix("gnd_"),
        database=read.database,
        queries=read.queries,
        boxes=tuple(boxes),
        positives=tuple(lists["ok"]),
        junk=tuple(lists["junk"]),
        objects=tuple(objects),
    )
    return check_consistent(truth, source=path)


def read_matlab_ground_truth(
    path: str | os.PathLike[str], *, layout: str
) -> MatlabGroundTruth:
    """Reads names and records of such a file.

    Raises:
        ValueError: If it is of another layout; `layout` says what was expected.
        OSError: If it can't be read.
    """
    content = read_matlab(path)
    if not {"imlist", "gnd"} <= content.keys() or not {"qimlist", "qidx"} & set(
        content
    ):
        raise ValueError(f"{path} must hold {layout}, got {sorted(content)}.")
    database = _check_names(content["imlist"], f"{path}: imlist")
    if "qimlist" in content:
        queries = _check_names(content["qimlist"], f"{path}: qimlist")
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
    return MatlabGroundTruth(tuple(database), tuple(queries), tuple(records))


def check_number_fields(record: Any, fields: tuple[str, ...], *, place: str) -> None:
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


def _check_names(value: Any, place: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(
            f"{place} must be a cell of names, got {_kind_of_value(value)}."
        )
    return value


def _kind_of_value(value: Any) -> str:
    if isinstance(value, list):
        odd = next(one for one in value if not isinstance(one, str))
        return f"a cell with {type(odd).__name__}"
    return type(value).__name__


_INSTRE_LAYOUT = "imlist, qimlist and gnd with ok and bbx"


def read_instre(
    path: str | os.PathLike[str], *, name: str | None = None
) -> GroundTruth:
    """Reads the ground truth of INSTRE, where no answer is junk.

    A right answer may lie in another folder than the query, which shows that object
    among others: only the file tells. The query pictures are not in the database.

    MATLAB counts from 1, pictures and, by the look of them, pixels: no corner of the
    1,250 boxes is 0, many are 1. A box takes in its last row and column there, so
    (x0, y0, x1, y1) becomes (x0 - 1, y0 - 1, x1, y1). That is a reading of the file;
    nothing published says so.

    Args:
        path: `gnd_instre.mat`: cells `imlist` and `qimlist` of names and, per query, a
            struct array `gnd` with the box `bbx` and the numbers `ok` of right
            pictures.
        name: What the benchmark is called; None is the name of the file without `gnd_`.

    Returns:
        The queries in the file's order; their objects are their folders.

    Raises:
        ValueError: If the file is of another layout, or names a picture that is not
            there.
        OSError: If the file can't be read.

    References:
        Wang and Jiang, INSTRE, ACM TOMM 11(3), 2015, for the pictures; Iscen et al.,
        CVPR 2017, https://arxiv.org/abs/1611.05113, for the split. The first could not
        be opened here.
    """
    read = read_matlab_ground_truth(path, layout=_INSTRE_LAYOUT)
    positives, boxes = [], []
    for number, (record, query) in enumerate(
        zip(read.records, read.queries, strict=True)
    ):
        place = f"{path}, query {number} ({query})"
        check_number_fields(record, ("ok", "bbx"), place=place)
        size = len(read.database)
        positives.append(
            read_positions(record["ok"], size=size, place=f"{place}, ok", first=1)
        )
        corners = record["bbx"].ravel().tolist()
        # What is x0:x1 in MATLAB is x0 - 1 to x1 here, the end left out.
        shifted = [x - 1 for x in corners[:2]] + corners[2:]
        boxes.append(read_box(shifted, place=place))
    truth = GroundTruth(
        name=name or pathlib.Path(path).stem.removeprefix("gnd_"),
        database=read.database,
        queries=read.queries,
        boxes=tuple(boxes),
        positives=tuple(positives),
        junk=(np.zeros(0, np.int64),) * len(read.queries),
        objects=tuple(
            str(pathlib.PurePosixPath(query).parent) for query in read.queries
        ),
    )
    return check_consistent(truth, source=path)
