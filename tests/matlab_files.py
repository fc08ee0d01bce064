"""Writers of MATLAB files of both layouts from the same plain values."""

import itertools
import pathlib
from typing import Any, NamedTuple

import h5py
import numpy as np
import scipy.io


class StructArray(NamedTuple):
    """Struct array, as a list of dicts; a plain list is a cell array."""

    records: list[dict[str, Any]]


NUMBERS = itertools.count()  # For unique names of referenced values.
CLASSES = {"f8": "double", "f4": "single", "b1": "logical"} | {
    f"{kind}{size}": f"{sign}int{8 * size}"
    for kind, sign in [("i", ""), ("u", "u")]
    for size in (1, 2, 4, 8)
}


def write_5(path: pathlib.Path, variables: dict[str, Any], **options: Any) -> None:
    """Writes version 5, with SciPy."""
    scipy.io.savemat(path, {n: as_scipy(v) for n, v in variables.items()}, **options)


def as_scipy(value: Any) -> Any:
    """Value for SciPy, which writes object arrays as cells and records as structs."""
    if isinstance(value, StructArray):
        names = list(value.records[0]) if value.records else ["ok"]
        array = np.empty((1, len(value.records)), [(name, object) for name in names])
        for position, record in enumerate(value.records):
            for name in names:
                array[name][0, position] = as_scipy(record[name])
        return array
    if isinstance(value, dict):
        return {name: as_scipy(item) for name, item in value.items()}
    if isinstance(value, list):
        rows = value if value and all(type(v) is list for v in value) else [value]
        cells = np.empty((len(rows), len(rows[0])), object)
        for number, row in enumerate(rows):
            for column, item in enumerate(row):
                cells[number, column] = as_scipy(item)
        return cells
    return value


def write_73(path: pathlib.Path, variables: dict[str, Any]) -> None:
    """Writes version 7.3 as MATLAB does: HDF5 after a header, with reversed axes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        references = file.create_group("#refs#")
        for name, value in variables.items():
            put(references, file, name, value)
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    with path.open("r+b") as file:
        file.write(header)


def put(references: h5py.Group, parent: h5py.Group, name: str, value: Any) -> Any:
    """Writes one value, with the values that it references in `references`."""
    if isinstance(value, dict):
        group = parent.create_group(name)
        group.attrs["MATLAB_class"] = np.bytes_("struct")
        for field, item in value.items():
            put(references, group, field, item)
        return group
    if isinstance(value, StructArray) and value.records:
        group = parent.create_group(name)
        group.attrs["MATLAB_class"] = np.bytes_("struct")
        for field in value.records[0]:
            refer(references, group, field, [[r[field] for r in value.records]])
        return group
    if isinstance(value, list) and value:
        rows = value if all(type(item) is list for item in value) else [value]
        node = refer(references, parent, name, rows)
        node.attrs["MATLAB_class"] = np.bytes_("cell")
        return node
    if isinstance(value, np.ndarray):
        kind, content = CLASSES[value.dtype.str[1:]], value.T
        content = content.astype("u1") if kind == "logical" else content
    else:
        kind = {str: "char", list: "cell", StructArray: "struct"}[type(value)]
        content = np.frombuffer(str(value).encode("utf-16-le"), "<u2")[:, None]
    if not (value.records if isinstance(value, StructArray) else len(value)):
        shape = value.shape if isinstance(value, np.ndarray) else (0, 0)
        node = parent.create_dataset(name, data=np.array(shape, "<u8"))
        node.attrs["MATLAB_empty"] = np.uint8(1)
    else:
        options = {"compression": "gzip"} if content.size > 1000 else {}
        node = parent.create_dataset(name, data=content, **options)
    node.attrs["MATLAB_class"] = np.bytes_(kind)
    return node


def refer(references: h5py.Group, parent: h5py.Group, name: str, rows: Any) -> Any:
    """Writes a matrix of references to values."""
    matrix = np.empty((len(rows), len(rows[0])), h5py.ref_dtype)
    for number, row in enumerate(rows):
        for column, item in enumerate(row):
            node = put(references, references, f"r{next(NUMBERS)}", item)
            matrix[number, column] = node.ref
    return parent.create_dataset(name, data=matrix.T)
