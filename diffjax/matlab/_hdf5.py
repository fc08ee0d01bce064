"""Reader of MATLAB files of version 7.3, which are HDF5."""

import math
import pathlib
from typing import Any

import h5py
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

# Upper bound of the compression ratio of deflate: 258 bytes in two bits.
_MAX_COMPRESSION = 1032


def read_hdf5(path: pathlib.Path) -> dict[str, Any]:
    """Reads the variables; see `read_matlab`."""
    with h5py.File(path, "r") as file:
        names = [str(name) for name in file if not str(name).startswith("#")]
        reader = _Reader(file)
        return {name: reader.read(_open_child(file, name)) for name in names}


class _Reader:
    """Reads values of one HDF5 file; a value that is referenced twice is read once.

    It uses h5py's low-level interface, which has no types for pyright: a list of names
    has one dataset per name, and the usual interface takes a millisecond for each.
    """

    def __init__(self, file: h5py.File) -> None:
        self._file = file.id
        self._values: dict[tuple[int, int], Any] = {}

    def read(self, node: Any) -> Any:
        """Reads a variable, a field or a cell."""
        kind = _matlab_class(node)
        if isinstance(node, h5py.h5g.GroupID):
            return self._group(h5py.Group(node), kind)
        if _is_marked_empty(node):
            return _make_empty(_read_array(node), kind)
        if kind == "cell":
            rows = flatten_to_matrix(_read_array(node))
            return simplify_cells(
                [[self._dereference(cell) for cell in row] for row in rows]
            )
        if kind == "char":
            return simplify_chars(
                [_decode_utf16(row) for row in flatten_to_matrix(_read_array(node))]
            )
        if kind in NUMPY_TYPES:
            return _read_numbers(node, kind)
        return OpaqueValue(kind)

    def _group(self, group: h5py.Group, kind: str) -> Any:
        children = {name: _open_child(group, name) for name in _field_names(group)}
        if "MATLAB_sparse" in group.attrs:
            rows = np.asarray(group.attrs["MATLAB_sparse"])
            return _sparse(children, rows=int(rows), kind=kind)
        if kind != "struct":
            return OpaqueValue(kind)
        # The fields of a struct array are references without a class.
        if any(_matlab_class(child) for child in children.values()) or not children:
            return {name: self.read(child) for name, child in children.items()}
        columns = {
            n: _read_array(child).ravel(order="F") for n, child in children.items()
        }
        return simplify_structs(
            [
                dict(zip(columns, map(self._dereference, record), strict=True))
                for record in zip(*columns.values(), strict=True)
            ]
        )

    def _dereference(self, reference: h5py.Reference) -> Any:
        node = h5py.h5r.dereference(reference, self._file)
        address = h5py.h5g.get_objinfo(node).objno
        if address not in self._values:
            self._values[address] = self.read(node)
        return self._values[address]


def _open_child(group: h5py.Group, name: str) -> Any:
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is a link to somewhere else")
    return group[name].id


def _matlab_class(node: Any) -> str:
    if not h5py.h5a.exists(node, b"MATLAB_class"):
        return ""
    attribute = h5py.h5a.open(node, b"MATLAB_class")
    value: Any = np.empty(attribute.shape, attribute.dtype)
    attribute.read(value)
    return value.tolist().decode()


def _is_marked_empty(node: Any) -> bool:
    if not h5py.h5a.exists(node, b"MATLAB_empty"):
        return False
    return bool(h5py.Dataset(node).attrs["MATLAB_empty"])


def _field_names(node: h5py.Group) -> list[str]:
    """Names of a struct's fields, in MATLAB's order if the file has it."""
    names = node.attrs.get("MATLAB_fields")
    if names is None:
        return list(node)
    return [b"".join(name).decode() for name in names]


def _read_array(dataset: Any) -> Shaped[np.ndarray, "..."]:
    """Reads an array in MATLAB's shape, with the axes in reverse order."""
    # Data without an offset in this file are compressed, or in another file.
    if dataset.get_offset() is None:
        layout = dataset.get_create_plist()
        if layout.get_external_count() or layout.get_layout() == h5py.h5d.VIRTUAL:
            raise ValueError("a variable lies in another file")
    shape, dtype = dataset.shape, dataset.dtype
    size, stored_size = math.prod(shape) * dtype.itemsize, dataset.get_storage_size()
    if size > _MAX_COMPRESSION * stored_size:
        raise ValueError(f"a variable announces {size} bytes, {stored_size} are stored")
    array = np.empty(shape, dtype)
    if size:
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    return array.T


def _read_numbers(node: Any, kind: str) -> Shaped[np.ndarray, "..."]:
    array = _read_array(node)
    if array.dtype.names == ("real", "imag"):
        return array["real"] + 1j * array["imag"]
    return array.astype(NUMPY_TYPES[kind], copy=False)


def _sparse(
    children: dict[str, Any], *, rows: int, kind: str
) -> scipy.sparse.csc_array:
    """Sparse matrix by columns; without entries it has only the column pointers."""
    starts = _read_array(children["jc"])
    shape = (rows, len(starts) - 1)
    if "data" not in children:
        return scipy.sparse.csc_array(shape, dtype=NUMPY_TYPES[kind])
    values = _read_numbers(children["data"], kind)
    matrix = scipy.sparse.csc_array(
        (values, _read_array(children["ir"]), starts), shape
    )
    matrix.check_format(full_check=True)  # A row index out of range would crash later.
    return matrix


def _make_empty(extents: Shaped[np.ndarray, "..."], kind: str) -> Any:
    """Value without elements; its shape is stored in place of the data."""
    shape = tuple(int(extent) for extent in extents)
    if 0 not in shape:
        raise ValueError(f"a variable is marked as empty, but has shape {shape}")
    if kind in NUMPY_TYPES:
        return np.zeros(shape, NUMPY_TYPES[kind])
    return {"char": "", "cell": [], "struct": []}.get(kind, OpaqueValue(kind))


def _decode_utf16(row: Shaped[np.ndarray, " n"]) -> str:
    return row.astype("<u2").tobytes().decode("utf-16-le", "surrogatepass")
