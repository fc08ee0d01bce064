"""Ground truth of INSTRE in the split of the paper: a MATLAB file."""

import os
import pathlib

import numpy as np

from ._gnd import check_numbers, read_gnd
from ._truth import GroundTruth, read_box, read_positions, refuse_contradictions

_WANTED = "imlist, qimlist and gnd with ok and bbx"


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
    read = read_gnd(path, wanted=_WANTED)
    positives, boxes = [], []
    for number, (record, query) in enumerate(
        zip(read.records, read.queries, strict=True)
    ):
        place = f"{path}, query {number} ({query})"
        check_numbers(record, ("ok", "bbx"), place=place)
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
    return refuse_contradictions(truth, source=path)
