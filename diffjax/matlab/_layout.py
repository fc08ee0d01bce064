"""What a file holds, in MATLAB's words."""

import pathlib
from typing import Any

import numpy as np
from jaxtyping import Shaped

from ._values import Unreadable


def other_layout(
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
    there = ", ".join(f"{n} ({kind_text(v)})" for n, v in contents.items()) or "nothing"
    return ValueError(f"{path}: it must have the {kind} {name}, got {there}.")


def kind_text(value: Any) -> str:
    """Says what a value is in MATLAB's words.

    Args:
        value: One of the values of `read_matlab`.

    Returns:
        Its type and shape, or its kind.
    """
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {shape_text(value)}"
    if isinstance(value, list):
        kind = "struct array" if value and isinstance(value[0], dict) else "cell"
        return f"{kind} of {len(value)}"
    names = {dict: "struct", str: "text", Unreadable: "object"}
    return names.get(type(value), "sparse matrix")


def shape_text(value: Shaped[np.ndarray, "..."]) -> str:
    """Writes the shape of an array as MATLAB does.

    Args:
        value: The array.

    Returns:
        Its sides with x between them.
    """
    return " x ".join(map(str, value.shape))
