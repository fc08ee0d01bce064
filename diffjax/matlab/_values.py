"""Conversion of MATLAB values to Python, and their description in errors."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

# NumPy types of MATLAB's numeric classes.
NUMPY_TYPES: Mapping[str, str] = {
    "double": "f8",
    "single": "f4",
    "logical": "?",
    **{f"int{8 * size}": f"i{size}" for size in (1, 2, 4, 8)},
    **{f"uint{8 * size}": f"u{size}" for size in (1, 2, 4, 8)},
}


class OpaqueValue(NamedTuple):
    """Value without a Python equivalent, such as an object or a function handle.

    Attributes:
        matlab_class: Its class in MATLAB.
    """

    matlab_class: str


def flatten_to_matrix(value: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "r c"]:
    """Array of any dimensions as a matrix, whose further dimensions are columns."""
    return value.reshape(len(value), math.prod(value.shape[1:]), order="F")


def simplify_cells(rows: list[list[Any]]) -> list[Any]:
    """Cell array as a list: flat for a row or a column, else a list of rows."""
    if len(rows) == 1:
        return rows[0]
    if all(len(row) == 1 for row in rows):
        return [cell for row in rows for cell in row]
    return rows if any(rows) else []


def simplify_structs(
    records: list[dict[str, Any]],
) -> dict[str, Any] | list[dict[str, Any]]:
    """Struct array as a list of dicts, or one dict for an array of one."""
    return records[0] if len(records) == 1 else records


def simplify_chars(rows: list[str]) -> str | list[str]:
    """Char array as a str, or as a list of str for several rows."""
    return rows if len(rows) > 1 else "".join(rows)


def missing_variable_error(
    path: pathlib.Path, name: str, kind: str, contents: dict[str, Any]
) -> ValueError:
    """Error for a missing variable, with the variables that the file has.

    Args:
        path: The file.
        name: Name of the missing variable.
        kind: Kind of the missing variable, in MATLAB's terms.
        contents: Variables of the file, from `read_matlab`.

    Returns:
        The error, to be raised.
    """
    variables = (
        ", ".join(f"{n} ({describe_value(v)})" for n, v in contents.items())
        or "nothing"
    )
    return ValueError(f"{path}: it must have the {kind} {name}, got {variables}.")


def describe_value(value: Any) -> str:
    """Description of a value in MATLAB's terms, for errors.

    Args:
        value: A value of `read_matlab`.

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
    """Shape of an array in MATLAB's notation.

    Args:
        value: The array.

    Returns:
        Its extents, separated by x.
    """
    return " x ".join(map(str, value.shape))
