"""Reader of MATLAB files of version 5 to 7."""

import math
import mmap
import pathlib
import zlib
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Shaped

from ._values import (
    NUMPY_TYPES,
    OpaqueValue,
    flatten_to_matrix,
    simplify_cells,
    simplify_chars,
    simplify_structs,
)

# Types of elements, by their numbers in the format.
_NUMBER_TYPES = dict(enumerate(("i1", "u1", "i2", "u2", "i4", "u4", "f4"), start=1))
_NUMBER_TYPES |= {9: "f8", 12: "i8", 13: "u8"}
_TEXT_CODECS = {1: "latin1", 2: "latin1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
_TEXT_CODECS |= {18: "utf-32"}
_MATRIX, _COMPRESSED = 14, 15

# Classes of matrices.
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE, _FUNCTION, _OPAQUE = 1, 2, 3, 4, 5, 16, 17
_NUMERIC_CLASSES = dict(
    enumerate(
        (
            "double",
            "single",
            *(f"{u}int{n}" for n in (8, 16, 32, 64) for u in ("", "u")),
        ),
        start=6,
    )
)
_COMPLEX, _LOGICAL = 0x0800, 0x0200

_TAG = 8  # Bytes of the tag of an element; its data are padded to a multiple of them.


def read_version_5(path: pathlib.Path) -> dict[str, Any]:
    """Reads the variables; see `read_matlab`.

    SciPy has a reader, too, but it uses numbers of the file as indices without a check,
    so that a damaged byte can crash the process, and it returns doubles that MATLAB
    stored as bytes either as bytes or without their imaginary parts.
    """
    with path.open("rb") as file:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    order = "<" if bytes(content[126:128]) == b"IM" else ">"
    elements = _Elements(content[128:], order)
    variables: dict[str, Any] = {}
    while elements.num_bytes:
        kind, data = elements.take()
        if kind == _COMPRESSED:
            kind, data = _Elements(memoryview(zlib.decompress(data)), order).take()
        if kind != _MATRIX:
            raise ValueError(f"a variable is an element of type {kind}")
        name, value = _read_matrix(_Elements(data, order))
        if name in variables:
            raise ValueError(f"it has two variables {name!r}")
        variables[name] = value
    # The content of objects is in a variable without a name.
    return {name: value for name, value in variables.items() if name}


class _Elements:
    """Queue of elements in a buffer.

    Attributes:
        order: Byte order in NumPy's notation.
    """

    def __init__(self, content: memoryview, order: str) -> None:
        self._content = content
        self.order = order

    @property
    def num_bytes(self) -> int:
        """Number of remaining bytes."""
        return len(self._content)

    def take(self) -> tuple[int, memoryview]:
        """Takes the type and the data of the first element."""
        if self.num_bytes < _TAG:
            raise ValueError("it is cut short")
        kind, size = (
            int(n) for n in np.frombuffer(self._content[:_TAG], f"{self.order}u4")
        )
        if kind >> 16:  # A small element: its size and data are in the tag.
            kind, size, start, end = kind & 0xFFFF, kind >> 16, 4, _TAG
        else:
            start, end = _TAG, _TAG + size
            # Compressed elements are not padded, and the last element may not be.
            end += 0 if kind == _COMPRESSED else -size % _TAG
        if start + size > min(end, self.num_bytes):
            raise ValueError("an element is longer than what holds it")
        data = self._content[start : start + size]
        self._content = self._content[end:]
        return kind, data

    def numbers(self) -> Shaped[np.ndarray, " n"]:
        """Takes an element of numbers, of any type."""
        kind, data = self.take()
        if kind not in _NUMBER_TYPES:
            raise ValueError(f"an element of type {kind} is in the place of numbers")
        return np.frombuffer(data, self.order + _NUMBER_TYPES[kind])

    def text(self) -> str:
        """Takes an element of characters."""
        kind, data = self.take()
        if kind not in _TEXT_CODECS:
            raise ValueError(f"an element of type {kind} is in the place of a text")
        codec = _TEXT_CODECS[kind]
        if codec in {"utf-16", "utf-32"}:
            codec += "-le" if self.order == "<" else "-be"
        return bytes(data).decode(codec, "surrogatepass")

    def matrix(self) -> Any:
        """Takes an element that is the value of a cell or a field."""
        kind, data = self.take()
        if kind != _MATRIX:
            raise ValueError(f"an element of type {kind} is in the place of a value")
        if not data:
            return np.zeros((0, 0))
        return _read_matrix(_Elements(data, self.order)).value


class _Variable(NamedTuple):
    """Value with its name, which is empty for cells and fields."""

    name: str
    value: Any


def _read_matrix(elements: _Elements) -> _Variable:
    flags = elements.numbers()
    if not flags.size:
        raise ValueError("a matrix has no class")
    kind = int(flags[0]) & 0xFF
    if kind == _OPAQUE:
        name, _, matlab_class = (elements.text() for _ in range(3))
        return _Variable(name, OpaqueValue(matlab_class))
    shape = tuple(int(extent) for extent in elements.numbers())
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"a matrix has shape {shape}")
    name = elements.text()
    if kind in _NUMERIC_CLASSES:
        value = _read_array(elements, shape, int(flags[0]), _NUMERIC_CLASSES[kind])
    elif kind == _SPARSE:
        value = _read_sparse(elements, shape, int(flags[0]))
    else:
        value = _READERS_BY_CLASS.get(kind, _refuse_unknown_class)(elements, shape)
    return _Variable(name, value)


def _read_array(
    elements: _Elements, shape: tuple[int, ...], flags: int, kind: str
) -> Shaped[np.ndarray, "..."]:
    """Array of numbers, which may be stored in a smaller type than their class."""
    dtype = NUMPY_TYPES["logical" if flags & _LOGICAL else kind]
    values = elements.numbers().astype(dtype)
    if flags & _COMPLEX:
        values = values + 1j * elements.numbers()
    return values.reshape(shape, order="F")


def _read_sparse(
    elements: _Elements, shape: tuple[int, ...], flags: int
) -> scipy.sparse.csc_array:
    rows, starts = elements.numbers(), elements.numbers()
    values = _read_array(elements, (-1,), flags, "double")
    # More entries may be allocated than are used.
    count = int(starts[-1])
    matrix = scipy.sparse.csc_array(
        (values[:count], rows[:count].astype("i8"), starts.astype("i8")), shape
    )
    matrix.check_format(full_check=True)
    return matrix


def _read_cell(elements: _Elements, shape: tuple[int, ...]) -> list[Any]:
    count = _check_count(elements, shape, 1)
    grid = np.empty(count, object)
    for position in range(count):
        grid[position] = elements.matrix()
    return simplify_cells(flatten_to_matrix(grid.reshape(shape, order="F")).tolist())


def _read_struct(elements: _Elements, shape: tuple[int, ...]) -> Any:
    width = int(elements.numbers()[0])
    names = elements.text()
    if width < 1:
        raise ValueError(f"the names of a struct's fields are {width} bytes long")
    fields = [
        names[start : start + width].split("\0")[0]
        for start in range(0, len(names), width)
    ]
    count = _check_count(elements, shape, len(fields))
    return simplify_structs(
        [{f: elements.matrix() for f in fields} for _ in range(count)]
    )


def _read_object(elements: _Elements, _: tuple[int, ...]) -> OpaqueValue:
    return OpaqueValue(elements.text())


def _read_function_handle(_: _Elements, __: tuple[int, ...]) -> OpaqueValue:
    return OpaqueValue("function_handle")


def _read_char(elements: _Elements, shape: tuple[int, ...]) -> str | list[str]:
    characters = elements.text()
    if shape[0] <= 1:
        return characters
    if len(characters) != math.prod(shape):
        raise ValueError(f"a text of shape {shape} has {len(characters)} characters")
    grid = np.array(list(characters), "U1").reshape(shape, order="F")
    return simplify_chars(["".join(row) for row in flatten_to_matrix(grid)])


def _refuse_unknown_class(*_: object) -> None:
    raise ValueError("a matrix is of no known class")


_READERS_BY_CLASS = {
    _CELL: _read_cell,
    _STRUCT: _read_struct,
    _OBJECT: _read_object,
    _CHAR: _read_char,
    _FUNCTION: _read_function_handle,
}


def _check_count(elements: _Elements, shape: tuple[int, ...], fields: int) -> int:
    """Number of cells or structs, each value of which takes at least a tag."""
    count = math.prod(shape)
    if count > 1 and count * max(fields, 1) * _TAG > elements.num_bytes:
        raise ValueError(f"cells or structs of shape {shape} do not fit their element")
    return count
