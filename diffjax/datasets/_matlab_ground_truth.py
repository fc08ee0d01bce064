"""Ground truths in MATLAB files: of released descriptors, and of INSTRE."""

import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from diffjax.matlab import read_matlab

from ._ground_truth import GroundTruth, check_consistent, read_box, read_positions
from ._oxford_paris import most_common_landmark

_RELEASED_LAYOUT = "imlist, gnd with ok and junk, and qimlist or qidx"
_INSTRE_LAYOUT = "imlist, qimlist and gnd with ok and bbx"


def read_released_truth(
    path: str | os.PathLike[str], *, name: str | None = None
) -> GroundTruth:
    """Reads the ground truth of released descriptors, in their order of pictures.

    Lists of names from other sources may be in another order. For INSTRE see
    `read_instre`.

    Args:
        path: `gnd_oxford5k.mat` and the like: the cell `imlist` of names, the query
            pictures as a cell `qimlist` of names or as their numbers `qidx`, and a
            struct array `gnd`, one per query, with the numbers `ok` and `junk`, from 1,
            and optionally the box `bbx`.
        name: Name of the benchmark; None is that of the file without `gnd_`.

    Returns:
        The ground truth. Queries are in the order of the file; the object of each is
        the most frequent landmark in the names of its pictures. A query without a box
        is the whole picture.

    Raises:
        ValueError: If the file is of another layout, or has an unknown picture.
        OSError: If the file can't be read.

    References:
        The release of Iscen et al., CVPR 2017,
        https://github.com/ahmetius/diffusion-retrieval. Its files could not be opened
        here: the layout is that of its description.
    """
    content = _read_matlab_ground_truth(path, layout=_RELEASED_LAYOUT)
    size = len(content.database)
    lists: dict[str, list[Any]] = {"ok": [], "junk": []}
    boxes, objects = [], []
    for number, (record, query) in enumerate(
        zip(content.records, content.queries, strict=True)
    ):
        source = f"{path}, query {number} ({query})"
        _check_number_fields(record, tuple(lists), source=source)
        for key, rows in lists.items():
            rows.append(
                read_positions(
                    record[key], size=size, source=f"{source}, {key}", first=1
                )
            )
        corners = np.asarray(record.get("bbx", ())).ravel().tolist()
        boxes.append(read_box(corners, source=source) if corners else None)
        positives = [content.database[position] for position in lists["ok"][-1]]
        objects.append(most_common_landmark([query, *positives]))
    truth = GroundTruth(
        name=name or pathlib.Path(path).stem.removeprefix("gnd_"),
        database=content.database,
        queries=content.queries,
        boxes=tuple(boxes),
        positives=tuple(lists["ok"]),
        junk=tuple(lists["junk"]),
        objects=tuple(objects),
    )
    return check_consistent(truth, source=path)


def read_instre(
    path: str | os.PathLike[str], *, name: str | None = None
) -> GroundTruth:
    """Reads the ground truth of INSTRE, where no answer is junk.

    Positives may be in another folder than the query, with several objects. The query
    pictures are not in the database.

    MATLAB counts from 1, pictures and apparently pixels: no corner of the 1,250 boxes
    is 0, many are 1. A box includes its last row and column, so (x0, y0, x1, y1)
    becomes (x0 - 1, y0 - 1, x1, y1). This is an interpretation of the file; nothing
    published confirms it.

    Args:
        path: `gnd_instre.mat`: cells `imlist` and `qimlist` of names, and a struct
            array `gnd`, one per query, with the box `bbx` and the numbers `ok` of the
            positives.
        name: Name of the benchmark; None is that of the file without `gnd_`.

    Returns:
        The ground truth. Queries are in the order of the file; their objects are their
        folders.

    Raises:
        ValueError: If the file is of another layout, or has an unknown picture.
        OSError: If the file can't be read.

    References:
        Wang and Jiang, INSTRE, ACM TOMM 11(3), 2015, for the pictures; Iscen et al.,
        CVPR 2017, https://arxiv.org/abs/1611.05113, for the split. The first could not
        be opened here.
    """
    content = _read_matlab_ground_truth(path, layout=_INSTRE_LAYOUT)
    positives, boxes = [], []
    for number, (record, query) in enumerate(
        zip(content.records, content.queries, strict=True)
    ):
        source = f"{path}, query {number} ({query})"
        _check_number_fields(record, ("ok", "bbx"), source=source)
        size = len(content.database)
        positives.append(
            read_positions(record["ok"], size=size, source=f"{source}, ok", first=1)
        )
        corners = record["bbx"].ravel().tolist()
        # x0:x1 in MATLAB is x0 - 1 to x1 here, the end excluded.
        shifted = [x - 1 for x in corners[:2]] + corners[2:]
        boxes.append(read_box(shifted, source=source))
    truth = GroundTruth(
        name=name or pathlib.Path(path).stem.removeprefix("gnd_"),
        database=content.database,
        queries=content.queries,
        boxes=tuple(boxes),
        positives=tuple(positives),
        junk=(np.zeros(0, np.int64),) * len(content.queries),
        objects=tuple(
            str(pathlib.PurePosixPath(query).parent) for query in content.queries
        ),
    )
    return check_consistent(truth, source=path)


class _MatlabGroundTruth(NamedTuple):
    """Content of a ground truth in MATLAB's format.

    Attributes:
        database: Names of the pictures.
        queries: Names of the query pictures.
        records: Struct of each query.
    """

    database: tuple[str, ...]
    queries: tuple[str, ...]
    records: tuple[dict[str, Any], ...]


def _read_matlab_ground_truth(
    path: str | os.PathLike[str], *, layout: str
) -> _MatlabGroundTruth:
    """Reads names and structs of a file.

    Raises:
        ValueError: If it is of another layout than `layout` describes.
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
        # One by one, in the order of the records; a picture may be there twice.
        queries = [
            database[position]
            for number in np.asarray(content["qidx"]).ravel()
            for position in read_positions(
                number, size=len(database), source=f"{path}: qidx", first=1
            )
        ]
    records = content["gnd"]
    records = [records] if isinstance(records, dict) else records
    if not isinstance(records, list) or len(records) != len(queries):
        description = (
            len(records) if isinstance(records, list) else type(records).__name__
        )
        raise ValueError(
            f"{path}: gnd must be a struct for each of {len(queries)} queries, got "
            f"{description}."
        )
    return _MatlabGroundTruth(tuple(database), tuple(queries), tuple(records))


def _check_number_fields(record: Any, fields: tuple[str, ...], *, source: str) -> None:
    """Refuses a record that lacks one of its numeric fields.

    Raises:
        ValueError: With the fields that it has; the message begins with `source`.
    """
    for field in fields:
        if not isinstance(record, dict) or not isinstance(
            record.get(field), np.ndarray
        ):
            description = sorted(record) if isinstance(record, dict) else record
            raise ValueError(
                f"{source}: must have numbers {' and '.join(fields)}, got "
                f"{description}."
            )


def _check_names(value: Any, source: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(
            f"{source} must be a cell of names, got {_kind_of_value(value)}."
        )
    return value


def _kind_of_value(value: Any) -> str:
    if isinstance(value, list):
        other_value = next(entry for entry in value if not isinstance(entry, str))
        return f"a cell with {type(other_value).__name__}"
    return type(value).__name__
