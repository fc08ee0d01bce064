"""What the values of MATLAB become, whatever the version of their file."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

# MATLAB's numeric classes.
NUMERIC: Mapping[str, str] = {
    "double": "f8",
    "single": "f4",
    "logical": "?",
    **{f"int{8 * size}": f"i{size}" for size in (1, 2, 4, 8)},
    **{f"uint{8 * size}": f"u{size}" for size in (1, 2, 4, 8)},
}


class Unreadable(NamedTuple):
    """Stands for a value that only MATLAB understands: an object, a function handle.

    Attributes:
        matlab_class: What it is.
    """

    matlab_class: str


def as_matrix(value: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "r c"]:
    """Cells of more than two dimensions become rows, as MATLAB prints them."""
    return value.reshape(len(value), math.prod(value.shape[1:]), order="F")


def cells(rows: list[list[Any]]) -> list[Any]:
    """A row or a column of cells is one list; else a list of rows."""
    if len(rows) == 1:
        return rows[0]
    if all(len(row) == 1 for row in rows):
        return [cell for row in rows for cell in row]
    return rows if any(rows) else []


def structs(records: list[dict[str, Any]]) -> dict[str, Any] | list[dict[str, Any]]:
    """A struct array of one is a struct."""
    return records[0] if len(records) == 1 else records


def text(rows: list[str]) -> str | list[str]:
    """A row of characters is a text, and so is none."""
    return rows if len(rows) > 1 else "".join(rows)
