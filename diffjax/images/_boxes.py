"""Region boxes of pictures, read from a CSV file."""

import csv
import os
import pathlib

import numpy as np
from jaxtyping import Float

from ._reading import MIN_BOX

_CSV_COLUMNS = ["picture", "x0", "y0", "x1", "y1"]


def read_boxes_csv(path: str | os.PathLike[str]) -> dict[str, Float[np.ndarray, "r 4"]]:
    """Reads region boxes from a CSV file with lines picture,x0,y0,x1,y1.

    Args:
        path: Path of the file, in UTF-8. A first line with these column names is
            skipped, and so are empty lines.

    Returns:
        Boxes of each picture by its name in the file, in the order of the file, in
        pixels of the upright picture; float32.

    Raises:
        ValueError: If a line has not five columns, a corner is not a finite number, or
            a box has fewer than 8 pixels on a side; the message names the line.
        OSError: If the file can't be read.
    """
    boxes: dict[str, list[list[float]]] = {}
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
        rows = list(csv.reader(text.splitlines(), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} must be a CSV file in UTF-8, got {error}.") from error
    for number, row in enumerate(rows, start=1):
        if not row or (
            number == 1 and [c.strip().lower() for c in row] == _CSV_COLUMNS
        ):
            continue
        name, *corners = row
        try:
            x0, y0, x1, y1 = (float(corner) for corner in corners)
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: must be {','.join(_CSV_COLUMNS)}, got "
                f"{','.join(row)!r}."
            ) from None
        # Written as a negation, so that NaN fails, too.
        if not (0 <= x0 < x1 < np.inf and 0 <= y0 < y1 < np.inf):
            raise ValueError(
                f"{path}, line {number}: must have 0 <= x0 < x1 and 0 <= y0 < y1, "
                f"got {','.join(corners)}."
            )
        if min(x1 - x0, y1 - y0) < MIN_BOX:
            raise ValueError(
                f"{path}, line {number}: must have {MIN_BOX} px or more on each "
                f"side, got {','.join(corners)} (in pixels, not fractions)."
            )
        boxes.setdefault(name.strip(), []).append([x0, y0, x1, y1])
    return {name: np.array(corners, np.float32) for name, corners in boxes.items()}
