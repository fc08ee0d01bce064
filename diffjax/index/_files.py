"""Array files in NumPy's format: written row by row, mapped into memory."""

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

_PART = ".part"


class RowsFile:
    """A file of the NumPy format that grows row by row.

    It has another name until it is whole, so that `path` never holds half of it.
    """

    def __init__(
        self,
        path: pathlib.Path,
        dtype: np.dtype | type,
        *shape: int,
        rows: int = 0,
    ) -> None:
        """Opens the file.

        Args:
            path: Its name once it is whole.
            dtype: Of its entries.
            shape: Of one row; nothing for a number.
            rows: Rows that an earlier run has written for good; what it wrote after
                them is written again.
        """
        self._path, self._dtype, self._shape = path, np.dtype(dtype), shape
        self._aside = aside_of(path)
        self._rows = rows
        self._file = self._aside.open("rb+" if rows else "wb")
        self._write_header()
        self._start = self._file.tell()
        each = self._dtype.itemsize * int(np.prod(shape))
        self._file.truncate(self._start + rows * each)
        self._file.seek(0, os.SEEK_END)

    def append(self, rows: Shaped[np.ndarray, "..."]) -> None:
        """Writes more rows."""
        self._rows += len(rows)
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)

    def sync(self) -> None:
        """Waits until all rows are on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Writes how many rows there are, and gives the file its name."""
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
        """Gives the file itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finishes the file, unless something went wrong: then it stays aside."""
        if kind is None:
            self.finish()
        else:
            self._file.close()


def aside_of(path: pathlib.Path) -> pathlib.Path:
    """Where a file lies until it is whole."""
    return path.with_name(path.name + _PART)


def rows_aside(path: pathlib.Path) -> int:
    """Counts the whole rows of a file that an earlier run has left aside.

    Returns:
        How many; 0 where there is no such file, or its header is none.
    """
    aside = aside_of(path)
    try:
        with aside.open("rb") as file:
            np.lib.format.read_magic(file)
            (_, *shape), _, dtype = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
    except (OSError, ValueError, tokenize.TokenError):
        return 0
    return (aside.stat().st_size - start) // (dtype.itemsize * int(np.prod(shape)))


def array_path(folder: pathlib.Path, name: str, digest: str) -> pathlib.Path:
    """Path of an array's file, named by the array and a hash."""
    return folder / f"{name}-{digest}.npy"


def write_array(path: pathlib.Path, array: Shaped[np.ndarray, "..."]) -> None:
    """Writes an array, whole or not at all."""
    with RowsFile(path, array.dtype, *array.shape[1:]) as file:
        file.append(array)


def map_array(path: pathlib.Path) -> Shaped[np.ndarray, "..."]:
    """Maps an array into memory: what is not looked at is not read.

    Its numbers start at a multiple of 64 bytes, so that JAX takes it on a processor as
    it is, without a copy.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is no array, or holds objects.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        # Nothing can't be mapped.
        array = np.load(path, allow_pickle=False)
        if array.size:
            raise
    return array.view(np.ndarray)


def give_back(array: Any) -> None:
    """Gives back the memory of pages of a mapped file, which are read again if need be.

    Otherwise they count as memory of this process until the system wants it for
    something else. What was changed in a private copy is never given back.

    Args:
        array: Any array; of one that is not mapped nothing is given back.
    """
    base, read_only = array, False
    while base is not None and not isinstance(base, mmap.mmap):
        read_only = read_only or getattr(base, "mode", None) == "r"
        base = getattr(base, "base", None)
    if base is not None and read_only and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


@contextlib.contextmanager
def hold_folder(folder: pathlib.Path, name: str) -> Iterator[None]:
    """Keeps other builds out of a folder, until this one ends or is killed.

    Where the system or the disk has no such locks, nothing is kept out.

    Args:
        folder: The folder.
        name: Of a file in it that is there meanwhile. One that a killed build has left
            keeps nobody out.

    Raises:
        ValueError: If another build is in it.
    """
    if sys.platform == "win32":
        yield
        return
    path = folder / name
    file = _lock(path)
    try:
        yield
    finally:
        # Before it is let go, so that nobody removes the file of the next one.
        path.unlink(missing_ok=True)
        file.close()


def _lock(path: pathlib.Path) -> IO[bytes]:
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
        # Who held it before may have removed the file after it was opened here.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()
