"""Reader of MATLAB files of all versions, detected by content."""

import os
import pathlib
import zlib
from typing import Any

_VERSION = slice(124, 128)  # Two bytes of version and two of byte order.
_VERSIONS_5 = (b"\x00\x01IM", b"\x01\x00MI")
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HDF5_OFFSETS = (0, 512)  # Files written by MATLAB begin with a header of its own.

# Exceptions of the readers for a damaged file.
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

    | MATLAB | Python |
    |---|---|
    | numbers, logicals | NumPy array of MATLAB's class and shape, at least 2-D |
    | sparse matrix | `scipy.sparse.csc_array` |
    | char row, char matrix | str, list of str |
    | cell row or column, cell matrix | list, list of rows |
    | struct, struct array | dict, list of dicts (a matrix column by column) |
    | object, table, function handle | `OpaqueValue` |

    A struct array of one is a dict, as MATLAB itself makes no difference. Empty values
    are an array without elements, "" or [].

    Announced sizes are compared with the size of the file before memory is allocated.

    Args:
        path: The file, usually `*.mat`.

    Returns:
        Values by the names of the variables.

    Raises:
        ValueError: If it is another kind of file, or damaged.
        OSError: If the file can't be read.
        ModuleNotFoundError: If the file has version 7.3 and h5py, of the extra
            `matlab`, is not installed.

    References:
        MAT-File Format, The MathWorks, for versions 5 to 7. Version 7.3 is described
        nowhere; this follows files that MATLAB wrote.
    """
    path = pathlib.Path(path)
    with path.open("rb") as file:
        head = file.read(max(_HDF5_OFFSETS) + len(_HDF5_SIGNATURE))
    # Both import libraries that are slow to import; `is_matlab` needs neither.
    if _is_hdf5(head):
        try:
            from ._hdf5 import read_hdf5 as read  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{path}: MATLAB files of version 7.3 need h5py, which is not "
                "installed: pip install 'diffjax[matlab]'"
            ) from error
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
    """Whether the first 520 bytes are those of a MATLAB file that can be read."""
    return _is_hdf5(head) or head[_VERSION] in _VERSIONS_5


def _is_hdf5(head: bytes) -> bool:
    return any(head[offset:].startswith(_HDF5_SIGNATURE) for offset in _HDF5_OFFSETS)
