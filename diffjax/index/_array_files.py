"""Array files in NumPy's format: row-wise writer, memory mapping, folder lock."""

import contextlib
import mmap
import os
import pathlib
import sys
import tokenize
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Any

import numpy as np
from jaxtyping import Shaped

_PARTIAL_SUFFIX = ".part"


class RowsFile:
    """Writer of an array file in NumPy's format, which grows row by row.

    The file has a temporary name until it is complete, so `path` is never partial.
    """

    def __init__(
        self,
        path: pathlib.Path,
        dtype: np.dtype | type,
        *shape: int,
        rows: int = 0,
    ) -> None:
        """Opens the partial file.

        Args:
            path: Path of the complete file.
            dtype: Type of its entries.
            shape: Shape of one row; empty for a number.
            rows: Rows of the partial file to keep; later ones are written again.
        """
        self._path, self._dtype, self._shape = path, np.dtype(dtype), shape
        self._aside = partial_path(path)
        self._rows = rows
        self._file = self._aside.open("rb+" if rows else "wb")
        self._write_header()
        self._start = self._file.tell()
        row_bytes = self._dtype.itemsize * int(np.prod(shape))
        self._file.truncate(self._start + rows * row_bytes)
        self._file.seek(0, os.SEEK_END)

    def append(self, rows: Shaped[np.ndarray, "..."]) -> None:
        """Appends rows to the file."""
        self._rows += len(rows)
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)

    def sync(self) -> None:
        """Waits until all rows are on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Writes the number of rows, and renames the complete file to its path."""
        self._file.seek(0)
        self._write_header()
        if self._file.tell() != self._start:
            raise ValueError(f"{self._path} must have fewer rows, got {self._rows}.")
        self.sync()
        self._file.close()
        self._aside.replace(self._path)

    def _write_header(self) -> None:
        np.lib.format.write_array_header_1_0(
            self._file,
            {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (self._rows, *self._shape),
            },
        )

    def __enter__(self) -> "RowsFile":  # noqa: PYI034  # The type checker of tests.
        """Returns the file itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finishes the file; after an error it stays partial."""
        if kind is None:
            self.finish()
        else:
            self._file.close()


def partial_path(path: pathlib.Path) -> pathlib.Path:
    """Path of a file while it is incomplete."""
    return path.with_name(path.name + _PARTIAL_SUFFIX)


def count_partial_rows(path: pathlib.Path) -> int:
    """Counts the complete rows of a partial file that an earlier run has left.

    Returns:
        Number of rows; 0 if there is no such file, or its header is damaged.
    """
    partial = partial_path(path)
    try:
        with partial.open("rb") as file:
            np.lib.format.read_magic(file)
            (_, *shape), _, dtype = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
    except (OSError, ValueError, tokenize.TokenError):
        return 0
    return (partial.stat().st_size - start) // (dtype.itemsize * int(np.prod(shape)))


def array_path(folder: pathlib.Path, name: str, digest: str) -> pathlib.Path:
    """Path of an array's file, named by the array and a hash."""
    return folder / f"{name}-{digest}.npy"


def write_array(path: pathlib.Path, array: Shaped[np.ndarray, "..."]) -> None:
    """Writes an array to a file, atomically."""
    with RowsFile(path, array.dtype, *array.shape[1:]) as file:
        file.append(array)


def map_array(path: pathlib.Path) -> Shaped[np.ndarray, "..."]:
    """Maps an array file into memory, so that only the pages in use are read.

    The data start at a multiple of 64 bytes, so that JAX uses them on a processor
    without a copy.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is no array, or holds objects.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        # An empty array can't be mapped.
        array = np.load(path, allow_pickle=False)
        if array.size:
            raise
    return array.view(np.ndarray)


def release_pages(array: Any) -> None:
    """Releases the pages of a mapped array from memory; they are read again if needed.

    Otherwise they count as memory of this process until the system reclaims them.
    Changed pages of a private copy are never released.

    Args:
        array: Any array; one that is not mapped stays as it is.
    """
    base, read_only = array, False
    while base is not None and not isinstance(base, mmap.mmap):
        read_only = read_only or getattr(base, "mode", None) == "r"
        base = getattr(base, "base", None)
    if base is not None and read_only and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


@contextlib.contextmanager
def lock_folder(folder: pathlib.Path, name: str) -> Iterator[None]:
    """Locks a folder against other builds, until this one ends or is killed.

    Where the system or the disk has no file locks, it locks nothing.

    Args:
        folder: The folder.
        name: Name of the lock file, which exists meanwhile. The file of a killed build
            locks nothing.

    Raises:
        ValueError: If another build is running in the folder.
    """
    if sys.platform == "win32":
        yield
        return
    path = folder / name
    file = _open_locked(path)
    try:
        yield
    finally:
        # Before it is unlocked, so that the file of the next build is not removed.
        path.unlink(missing_ok=True)
        file.close()


def _open_locked(path: pathlib.Path) -> IO[bytes]:
    import fcntl  # noqa: PLC0415  # Not on every system.

    while True:
        file = path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise ValueError(
                f"another build is running in {path.parent}: wait for its end, or name "
                "another place."
            ) from error
        except OSError:  # This disk has none.
            return file
        # The process before may have removed the file after it was opened here.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()
