"""Files of vectors: NumPy's `.npy` and `.npz`, Parquet and Arrow."""

import pathlib
import tokenize
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

_ARROW = ".arrow", ".feather", ".ipc"
VECTOR_SUFFIXES = ".npy", ".npz", ".parquet", *_ARROW
# What NumPy raises for other files; `TokenError` for a header that is no Python.
_NUMPY_ERRORS = ValueError, EOFError, tokenize.TokenError, zipfile.BadZipFile


class VectorFile(NamedTuple):
    """Vectors of a file, and the ids that it holds for them.

    Attributes:
        vectors: Matrix, mapped where the file is `.npy`.
        ids: Id of every row; None where the file holds none.
    """

    vectors: Any
    ids: Any | None


def read_vector_file(path: pathlib.Path, ids: str | None = None) -> VectorFile:
    """Reads vectors, and their ids, from a file.

    | File | Vectors | Ids |
    |---|---|---|
    | `.npy` | the array, mapped | a file of their own |
    | `.npz` | the array `vectors`, or the only matrix | the array `ids` |
    | `.parquet`, `.arrow`, `.feather` | the only column of lists, or all columns of \
numbers but that of the ids | the column that `ids` names |

    Args:
        path: The file.
        ids: A file of ids, `.npy` or text with an id a line; or the column or array of
            this file that holds them. None is the array `ids` of an `.npz`.

    Raises:
        ValueError: If the file is damaged, of another kind, or holds no such vectors.
        OSError: If it can't be read.
        ModuleNotFoundError: If it needs pyarrow, of the extra `arrow`.
    """
    if path.suffix == ".npz":
        vectors, inside = _read_npz(path, ids)
    elif path.suffix == ".parquet" or path.suffix in _ARROW:
        vectors, inside = _read_arrow(path, ids)
    else:
        vectors, inside = read_array(path), None
    if ids is not None and inside is None:
        return VectorFile(vectors, read_ids(pathlib.Path(ids)))
    return VectorFile(vectors, inside)


def read_array(path: pathlib.Path) -> np.ndarray:
    """Maps an array in NumPy's format, so that only what is used is read.

    Raises:
        ValueError: If the file is no array, or holds objects.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(array, np.ndarray):
            return array
        array.close()
        raise ValueError("an archive of arrays")
    except _NUMPY_ERRORS as error:
        raise ValueError(
            f"{path} must be an array in NumPy's format (numpy.save), got another "
            f"file ({error})."
        ) from error


def read_ids(path: pathlib.Path) -> Any:
    """Reads ids: an array of NumPy, or text with an id a line.

    Raises:
        ValueError: If the file is neither.
    """
    if path.suffix == ".npy":
        return read_array(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be text of UTF-8 with an id a line, or .npy ({error})."
        ) from error
    return text.removesuffix("\n").split("\n")


def _read_npz(path: pathlib.Path, ids: str | None) -> VectorFile:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except _NUMPY_ERRORS as error:
        raise ValueError(
            f"{path} must be an archive of arrays (numpy.savez), got another file "
            f"({error})."
        ) from error
    matrices = [name for name, array in arrays.items() if array.ndim > 1]
    name = "vectors" if "vectors" in arrays else "".join(matrices[:1])
    if not name or ("vectors" not in arrays and len(matrices) > 1):
        raise ValueError(
            f"{path} must hold an array called vectors, or one matrix, got: "
            f"{', '.join(arrays) or 'no array'}."
        )
    return VectorFile(arrays[name], arrays.get(ids or "ids"))


def _read_arrow(path: pathlib.Path, ids: str | None) -> VectorFile:
    try:
        import pyarrow as pa  # noqa: PLC0415  # Of an extra.
        from pyarrow import feather, parquet  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path} needs pyarrow, which is not installed: pip install "
            "'diffjax[arrow]'"
        ) from error
    try:
        if path.suffix == ".parquet":
            table = parquet.read_table(path, memory_map=True)
        else:
            table = feather.read_table(path, memory_map=True)
    except pa.ArrowException as error:
        raise ValueError(f"{path} is damaged or of another kind ({error}).") from error
    names = [name for name in table.column_names if name != ids]
    lists = [name for name in names if _is_list(table.schema.field(name).type)]
    if len(lists) > 1:
        raise ValueError(
            f"{path} must hold one column of vectors, got: {', '.join(lists)}."
        )
    blocks = _list_blocks(table, lists[0]) if lists else _iterate_blocks(table, names)
    try:
        vectors = np.concatenate([*blocks] or [np.zeros((0, 0), np.float32)])
        if vectors.dtype.kind not in "fiu":
            raise ValueError(f"got {vectors.dtype} instead of numbers")
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} must hold vectors in one column of lists, or a number for each "
            f"dimension in a column of its own: {error}."
        ) from error
    inside = table[ids].to_pylist() if ids in table.column_names else None
    return VectorFile(vectors, inside)


def _is_list(kind: "pa.DataType") -> bool:
    from pyarrow import types  # noqa: PLC0415

    return any(
        is_kind(kind)
        for is_kind in (types.is_list, types.is_large_list, types.is_fixed_size_list)
    )


def _list_blocks(table: "pa.Table", name: str) -> Iterator[np.ndarray]:
    """Vectors of a column of lists, chunk by chunk."""
    from pyarrow import compute  # noqa: PLC0415  # Of an extra.

    dim = None
    for chunk in table[name].chunks:
        rows = compute.call_function("list_value_length", [chunk]).unique().to_pylist()
        lengths = {length or 0 for length in rows}
        values = chunk.flatten()
        dim = dim or max(lengths, default=0)
        if lengths - {dim} or values.null_count:
            raise ValueError(
                f"{name} has vectors of lengths {sorted(lengths)} and "
                f"{values.null_count} missing numbers"
            )
        yield values.to_numpy(zero_copy_only=False).reshape(len(chunk), dim)


def _iterate_blocks(table: "pa.Table", names: list[str]) -> Iterator[np.ndarray]:
    """Vectors of a table with a column for each dimension."""
    for batch in table.select(names).to_batches():
        columns = [column.to_numpy(zero_copy_only=False) for column in batch.columns]
        yield np.stack(columns, axis=1)
