"""Telling and reading the versions of MATLAB's files."""

import os
import pathlib
import zlib
from typing import Any

_VERSION = slice(124, 128)  # Two bytes of version and two that tell the byte order.
_VERSIONS_5 = (b"\x00\x01IM", b"\x01\x00MI")
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HDF5_OFFSETS = (0, 512)  # Behind MATLAB's own header, if it was MATLAB that wrote it.


# What the two libraries raise for a damaged file.
_READ_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zlib.error,
)


def read_matlab(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the variables of a MATLAB file, of version 5 to 7 or 7.3 (HDF5).

    | in MATLAB | here |
    |---|---|
    | numbers, logicals | NumPy array of MATLAB's class and shape, at least 2-D |
    | sparse matrix | `scipy.sparse.csc_array` |
    | char row, char matrix | str, list of str |
    | cell row or column, cell matrix | list, list of rows |
    | struct, struct array | dict, list of dicts (a matrix column by column) |
    | object, table, function handle | `OpaqueValue` |

    So a struct array of one is a dict, as MATLAB itself makes no difference; what is
    empty gives an array without elements, "" or [].

    What a file announces is compared with what it holds before memory is taken for it.

    Args:
        path: The file, usually `*.mat`.

    Returns:
        The values by the names of the variables.

    Raises:
        ValueError: If it is no such file, or a damaged one.
        OSError: If the file can't be read.

    References:
        MAT-File Format, The MathWorks, for versions 5 to 7. Version 7.3 is described
        nowhere; this follows files that MATLAB wrote.
    """
    path = pathlib.Path(path)
    with path.open("rb") as file:
        head = file.read(max(_HDF5_OFFSETS) + len(_HDF5_SIGNATURE))
    # Each takes a library along that is slow to import; `is_matlab` needs neither.
    if _is_hdf5(head):
        from ._hdf5 import read_hdf5 as read  # noqa: PLC0415
    elif head[_VERSION] in _VERSIONS_5:
        from ._version5 import read_version_5 as read  # noqa: PLC0415
    else:
        raise ValueError(f"{path}: no MATLAB file of version 5 to 7.3.")
    try:
        return read(path)
    except _READ_ERRORS as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{path}: no readable MATLAB file: {reason}.") from error


def is_matlab(head: bytes) -> bool:
    """Whether the first 520 bytes of a file are those of one that is read here."""
    return _is_hdf5(head) or head[_VERSION] in _VERSIONS_5


def _is_hdf5(head: bytes) -> bool:
    return any(head[place:].startswith(_HDF5_SIGNATURE) for place in _HDF5_OFFSETS)
