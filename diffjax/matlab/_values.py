"""Python values of MATLAB data, and how error messages describe them."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

# MATLAB's numeric classes.
NUMPY_TYPES: Mapping[str, str] = {
    "double": "f8",
    "single": "f4",
    "logical": "?",
    **{f"int{8 * size}": f"i{size}" for size in (1, 2, 4, 8)},
    **{f"uint{8 * size}": f"u{size}" for size in (1, 2, 4, 8)},
}


class OpaqueValue(NamedTuple):
    """Stands for a value that only MATLAB understands: an object, a function handle.

    Attributes:
        matlab_class: What it is.
    """

    matlab_class: str


def flatten_to_matrix(value: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "r c"]:
    """Cells of more than two dimensions become rows, as MATLAB prints them."""
    return value.reshape(len(value), math.prod(value.shape[1:]), order="F")


def simplify_cells(rows: list[list[Any]]) -> list[Any]:
    """A row or a column of cells is one list; else a list of rows."""
    if len(rows) == 1:
        return rows[0]
    if all(len(row) == 1 for row in rows):
        return [cell for row in rows for cell in row]
    return rows if any(rows) else []


def simplify_structs(
    records: list[dict[str, Any]],
) -> dict[str, Any] | list[dict[str, Any]]:
    """A struct array of one is a struct."""
    return records[0] if len(records) == 1 else records


def text(rows: list[str]) -> str | list[str]:
    """A row of characters is a text, and so is none."""
    return rows if len(rows) > 1 else "".join(rows)


def missing_variable_error(
    path: pathlib.Path, name: str, kind: str, contents: dict[str, Any]
) -> ValueError:
    """Makes the error of a file that lacks a variable; it says what there is.

    Args:
        path: The file.
        name: The variable that it should have.
        kind: Of which kind it should be, in MATLAB's words.
        contents: What the file has, from `read_matlab`.

    Returns:
        The error, to be raised.
    """
    there = (
        ", ".join(f"{n} ({describe_value(v)})" for n, v in contents.items())
        or "nothing"
    )
    return ValueError(f"{path}: it must have the {kind} {name}, got {there}.")


def describe_value(value: Any) -> str:
    """Says what a value is in MATLAB's words.

    Args:
        value: One of the values of `read_matlab`.

    Returns:
        Its type and shape, or its kind.
    """
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {format_shape(value)}"
    if isinstance(value, list):
        kind = "struct array" if value and isinstance(value[0], dict) else "cell"
        return f"{kind} of {len(value)}"
    names = {dict: "struct", str: "text", OpaqueValue: "object"}
    return names.get(type(value), "sparse matrix")


def format_shape(value: Shaped[np.ndarray, "..."]) -> str:
    """Writes the shape of an array as MATLAB does.

    Args:
        value: The array.

    Returns:
        Its sides with x between them.
    """
    return " x ".join(map(str, value.shape))
