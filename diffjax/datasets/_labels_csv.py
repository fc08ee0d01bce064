"""Ground truth from a CSV file of pictures, boxes and labels."""

import csv
import os
import pathlib

import numpy as np

from diffjax.images import Box

from ._ground_truth import GroundTruth, check_consistent, read_box

_CORNER_COLUMNS = ("x0", "y0", "x1", "y1")
_LABEL_COLUMNS = ("picture", *_CORNER_COLUMNS, "label")


def read_labels(
    path: str | os.PathLike[str], *, name: str | None = None
) -> GroundTruth:
    """Reads a CSV file of pictures, boxes and labels, in which every row is a query.

    Positives are the other pictures with the label of the row; its own picture is junk.

    Args:
        path: The file, in UTF-8, with the first line `picture,x0,y0,x1,y1,label`, the
            columns in any order. A picture may have several rows. Four empty cells of a
            box mean the whole picture; empty lines are skipped.
        name: Name of the benchmark; None is the name of the file.

    Returns:
        The ground truth. Queries are the rows, in the order of the file, with their
        labels as objects; the database is all pictures, sorted. A row whose label no
        other picture has is a query without positives.

    Raises:
        ValueError: If the header has an unknown, duplicate or missing column; if a row
            has another number of cells, no picture or label, an invalid box, or repeats
            another one. It names the line.
        OSError: If the file can't be read.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
        lines = list(csv.reader(text.splitlines(), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} must be a CSV file in UTF-8, got {error}.") from error
    header = [cell.strip().lower() for cell in lines[0]] if lines else []
    _check_header(header, f"{path}, line 1")
    rows: dict[tuple[str, Box | None, str], int] = {}
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        row = _parse_row(header, cells, f"{path}, line {number}")
        if row in rows:
            raise ValueError(
                f"{path}, line {number}: must not repeat line {rows[row]}, got "
                f"{','.join(cells)!r} again."
            )
        rows[row] = number
    database = sorted({picture for picture, _, _ in rows})
    positions = {picture: position for position, picture in enumerate(database)}
    members: dict[str, set[int]] = {}
    for picture, _, label in rows:
        members.setdefault(label, set()).add(positions[picture])
    truth = GroundTruth(
        name=name or pathlib.Path(path).stem,
        database=tuple(database),
        queries=tuple(picture for picture, _, _ in rows),
        boxes=tuple(box for _, box, _ in rows),
        positives=tuple(
            np.array(sorted(members[label] - {positions[picture]}), np.int64)
            for picture, _, label in rows
        ),
        junk=tuple(np.array([positions[picture]]) for picture, _, _ in rows),
        objects=tuple(label for _, _, label in rows),
    )
    return check_consistent(truth, source=path)


def _check_header(header: list[str], source: str) -> None:
    rule = f"{source}: must be {','.join(_LABEL_COLUMNS)}"
    header_text = ",".join(header)
    unknown = [column for column in header if column not in _LABEL_COLUMNS]
    if unknown:
        raise ValueError(
            f"{rule}, got unknown column {unknown[0]!r} in {header_text!r}."
        )
    duplicate = [column for column in _LABEL_COLUMNS if header.count(column) > 1]
    if duplicate:
        raise ValueError(
            f"{rule}, got column {duplicate[0]!r} twice in {header_text!r}."
        )
    missing = [column for column in _LABEL_COLUMNS if column not in header]
    if missing:
        raise ValueError(f"{rule}, got no column {missing[0]!r} in {header_text!r}.")


def _parse_row(
    header: list[str], cells: list[str], source: str
) -> tuple[str, Box | None, str]:
    """Picture, box and label of one row."""
    line = ",".join(cells)
    if len(cells) != len(header):
        raise ValueError(f"{source}: must have {len(header)} cells, got {line!r}.")
    row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
    for column in ("picture", "label"):
        if not row[column]:
            raise ValueError(f"{source}: must have a {column}, got {line!r}.")
    corners = [row[corner] for corner in _CORNER_COLUMNS]
    box = read_box(corners, source=source) if any(corners) else None
    return row["picture"], box, row["label"]
