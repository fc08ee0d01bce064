"""Files on disk: atomic writes, names by content hash, locks on folders."""

import contextlib
import errno
import hashlib
import os
import pathlib
import stat
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Shaped

# Error numbers of file systems that have no locks, some shared ones for instance.
_LOCKS_UNSUPPORTED = errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP


class StoredFile(NamedTuple):
    """A file whose name holds a hash of its content.

    Attributes:
        name: File name.
        sha256: SHA-256 of all bytes, as hexadecimal digits.
        bytes: File size.
    """

    name: str
    sha256: str
    bytes: int


def write_atomically(
    path: str | os.PathLike[str], data: bytes, *, sync: bool = True
) -> None:
    """Writes a file under a temporary name and renames it, so that it is never partial.

    Args:
        path: The file.
        data: Its bytes.
        sync: Whether to wait until they are on the disk. False suits one of many files
            that can be computed again.

    Raises:
        OSError: If it can't be written; the temporary file is removed.
    """
    path = pathlib.Path(path)
    with _temporary_path(path) as temporary_path:
        temporary_path.write_bytes(data)
        if sync:
            _flush_to_disk(temporary_path)
        temporary_path.replace(path)


def write_safetensors(
    folder: pathlib.Path, prefix: str, arrays: Mapping[str, Shaped[np.ndarray, "..."]]
) -> StoredFile:
    """Writes arrays into `folder` as PREFIX-HASH.safetensors, atomically.

    Raises:
        OSError: If they can't be written; the temporary file is removed.
    """
    with _temporary_path(folder / prefix) as temporary_path:
        temporary_path.touch()
        permissions = stat.S_IMODE(temporary_path.stat().st_mode)
        # The library writes the memory behind a view, whatever its strides are.
        contiguous_arrays = {
            name: np.asarray(a, order="C") for name, a in arrays.items()
        }
        try:
            safetensors.numpy.save_file(contiguous_arrays, temporary_path)
        except safetensors.SafetensorError as error:
            # The library's own class hides the system's message, "disk full" say.
            raise OSError(f"{folder} can't be written: {error}") from error
        # It replaced the file by one that only its owner may read.
        temporary_path.chmod(permissions)
        _flush_to_disk(temporary_path)
        digest = file_digest(temporary_path)
        stored_file = StoredFile(
            f"{prefix}-{digest[:16]}.safetensors", digest, temporary_path.stat().st_size
        )
        temporary_path.replace(folder / stored_file.name)
    return stored_file


def remove_partial_files(folder: pathlib.Path, prefix: str) -> None:
    """Removes temporary files of PREFIX... that killed processes left behind."""
    # The second pattern is that of the safetensors library's temporary files.
    for pattern in (f"{prefix}*.part", ".tmp??????"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def file_digest(path: str | os.PathLike[str]) -> str:
    """Computes the SHA-256 of a file's bytes, as hexadecimal digits."""
    with pathlib.Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def folder_lock(
    folder: pathlib.Path, name: str, *, wait: bool = False
) -> Iterator[None]:
    """Lock on a folder: one process at a time holds it, until it ends or is killed.

    The operating system holds the lock, not the file NAME, which exists meanwhile: a
    file that a killed process left behind locks nobody out. Without effect on a file
    system that has no locks, and in a folder that is read-only.

    Args:
        folder: An existing folder.
        name: Name of the lock file in it.
        wait: Whether to wait for a process that holds the lock.

    Raises:
        ValueError: If another process, or another thread, holds it; not with `wait`.
        OSError: If the lock file can't be opened.
    """
    if not os.access(folder, os.W_OK):
        yield
        return
    import filelock  # noqa: PLC0415  # Imports asyncio, which takes 0.1 s.

    path = folder / name
    # Its soft locks, for file systems without others, would outlive a killed process.
    lock = filelock.FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(blocking=wait)
    except filelock.Timeout as error:
        raise ValueError(
            f"another process is writing to {folder}: wait for its end, or name "
            "another folder."
        ) from error
    except OSError as error:
        if error.errno not in _LOCKS_UNSUPPORTED:
            raise
    try:
        yield
    finally:
        # While it is locked: afterwards it may be the file of the next process. Windows
        # removes no open file; there filelock does so.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


@contextlib.contextmanager
def _temporary_path(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Temporary path beside `path`; its file is removed at the end if still there."""
    temporary_path = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield temporary_path
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)  # A failed write carries no file name.
        raise
    finally:
        temporary_path.unlink(missing_ok=True)


def _flush_to_disk(path: pathlib.Path) -> None:
    """Waits until a file is on the disk, so that its renaming can't come earlier."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
