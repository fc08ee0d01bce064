"""MATLAB's files of version 5 to 7."""

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
    simplify_structs,
    text,
)

# The types of elements, by their numbers in the format.
_NUMBERS = dict(enumerate(("i1", "u1", "i2", "u2", "i4", "u4", "f4"), start=1))
_NUMBERS |= {9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "latin1", 2: "latin1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
_TEXTS |= {18: "utf-32"}
_MATRIX, _COMPRESSED = 14, 15

# The classes of matrices.
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE, _FUNCTION, _OPAQUE = 1, 2, 3, 4, 5, 16, 17
_CLASSES = dict(
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

_TAG = 8  # Bytes of the head of each element, to a multiple of which it is filled up.


def read_version_5(path: pathlib.Path) -> dict[str, Any]:
    """Reads the variables; see `read_matlab`.

    SciPy has a reader too, but it takes numbers in a file for places in its tables, so
    that a damaged byte can end the program, and gives doubles that MATLAB packed into
    bytes either as bytes or without their imaginary parts.
    """
    with path.open("rb") as file:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    order = "<" if bytes(content[126:128]) == b"IM" else ">"
    elements = _Elements(content[128:], order)
    variables: dict[str, Any] = {}
    while elements.left:
        kind, part = elements.take()
        if kind == _COMPRESSED:
            kind, part = _Elements(memoryview(zlib.decompress(part)), order).take()
        if kind != _MATRIX:
            raise ValueError(f"a variable is an element of type {kind}")
        name, value = _read_matrix(_Elements(part, order))
        if name in variables:
            raise ValueError(f"it has two variables {name!r}")
        variables[name] = value
    # MATLAB keeps what its objects hold in a variable without a name.
    return {name: value for name, value in variables.items() if name}


class _Elements:
    """A row of elements; each is taken from its front.

    Attributes:
        order: The byte order, as NumPy writes it.
    """

    def __init__(self, content: memoryview, order: str) -> None:
        self._content = content
        self.order = order

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._content)

    def take(self) -> tuple[int, memoryview]:
        """Takes an element: its type and what it holds."""
        if self.left < _TAG:
            raise ValueError("it is cut short")
        kind, size = (
            int(n) for n in np.frombuffer(self._content[:_TAG], f"{self.order}u4")
        )
        if kind >> 16:  # A small one: its size lies beside its type, it in the head.
            kind, size, start, end = kind & 0xFFFF, kind >> 16, 4, _TAG
        else:
            start, end = _TAG, _TAG + size
            # What is compressed is not filled up, and the last of all may lack that.
            end += 0 if kind == _COMPRESSED else -size % _TAG
        if start + size > min(end, self.left):
            raise ValueError("an element is longer than what holds it")
        part = self._content[start : start + size]
        self._content = self._content[end:]
        return kind, part

    def numbers(self) -> Shaped[np.ndarray, " n"]:
        """Takes an element of numbers of any type."""
        kind, part = self.take()
        if kind not in _NUMBERS:
            raise ValueError(f"an element of type {kind} lies where numbers should")
        return np.frombuffer(part, self.order + _NUMBERS[kind])

    def text(self) -> str:
        """Takes an element of characters."""
        kind, part = self.take()
        if kind not in _TEXTS:
            raise ValueError(f"an element of type {kind} lies where a text should")
        codec = _TEXTS[kind]
        if codec in {"utf-16", "utf-32"}:
            codec += "-le" if self.order == "<" else "-be"
        return bytes(part).decode(codec, "surrogatepass")

    def matrix(self) -> Any:
        """Takes the value of a cell or a field."""
        kind, part = self.take()
        if kind != _MATRIX:
            raise ValueError(f"an element of type {kind} lies where a value should")
        if not part:
            return np.zeros((0, 0))
        return _read_matrix(_Elements(part, self.order)).value


class _Variable(NamedTuple):
    """A matrix with its name, which is empty for cells and fields."""

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
    if kind in _CLASSES:
        value = _array(elements, shape, int(flags[0]), _CLASSES[kind])
    elif kind == _SPARSE:
        value = _sparse(elements, shape, int(flags[0]))
    else:
        value = _READERS_BY_CLASS.get(kind, _refuse_unknown_class)(elements, shape)
    return _Variable(name, value)


def _array(
    elements: _Elements, shape: tuple[int, ...], flags: int, kind: str
) -> Shaped[np.ndarray, "..."]:
    """Numbers, which may lie there as a smaller type than that of their class."""
    dtype = NUMPY_TYPES["logical" if flags & _LOGICAL else kind]
    values = elements.numbers().astype(dtype)
    if flags & _COMPLEX:
        values = values + 1j * elements.numbers()
    return values.reshape(shape, order="F")


def _sparse(
    elements: _Elements, shape: tuple[int, ...], flags: int
) -> scipy.sparse.csc_array:
    rows, starts = elements.numbers(), elements.numbers()
    values = _array(elements, (-1,), flags, "double")
    # There may be room for more entries than there are.
    count = int(starts[-1])
    matrix = scipy.sparse.csc_array(
        (values[:count], rows[:count].astype("i8"), starts.astype("i8")), shape
    )
    matrix.check_format(full_check=True)
    return matrix


def _cell(elements: _Elements, shape: tuple[int, ...]) -> list[Any]:
    count = _checked_count(elements, shape, 1)
    grid = np.empty(count, object)
    for place in range(count):
        grid[place] = elements.matrix()
    return simplify_cells(flatten_to_matrix(grid.reshape(shape, order="F")).tolist())


def _struct(elements: _Elements, shape: tuple[int, ...]) -> Any:
    width = int(elements.numbers()[0])
    names = elements.text()
    if width < 1:
        raise ValueError(f"the names of a struct's fields are {width} bytes long")
    fields = [
        names[start : start + width].split("\0")[0]
        for start in range(0, len(names), width)
    ]
    count = _checked_count(elements, shape, len(fields))
    return simplify_structs(
        [{f: elements.matrix() for f in fields} for _ in range(count)]
    )


def _object(elements: _Elements, _: tuple[int, ...]) -> OpaqueValue:
    return OpaqueValue(elements.text())


def _function(_: _Elements, __: tuple[int, ...]) -> OpaqueValue:
    return OpaqueValue("function_handle")


def _char(elements: _Elements, shape: tuple[int, ...]) -> str | list[str]:
    characters = elements.text()
    if shape[0] <= 1:
        return characters
    if len(characters) != math.prod(shape):
        raise ValueError(f"a text of shape {shape} has {len(characters)} characters")
    grid = np.array(list(characters), "U1").reshape(shape, order="F")
    return text(["".join(row) for row in flatten_to_matrix(grid)])


def _refuse_unknown_class(*_: object) -> None:
    raise ValueError("a matrix is of no known class")


_READERS_BY_CLASS = {
    _CELL: _cell,
    _STRUCT: _struct,
    _OBJECT: _object,
    _CHAR: _char,
    _FUNCTION: _function,
}


def _checked_count(elements: _Elements, shape: tuple[int, ...], fields: int) -> int:
    """How many cells or structs there are; each value takes a head at least."""
    count = math.prod(shape)
    if count > 1 and count * max(fields, 1) * _TAG > elements.left:
        raise ValueError(f"cells or structs of shape {shape} do not fit their element")
    return count
