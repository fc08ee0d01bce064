"""Atomic files: written whole or not at all, and named by hash."""

import contextlib
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


class StoredFile(NamedTuple):
    """A file named by its content.

    Attributes:
        name: Its name.
        sha256: Hash of all its bytes.
        bytes: Its size.
    """

    name: str
    sha256: str
    bytes: int


def write_atomically(
    path: str | os.PathLike[str], data: bytes, *, sync: bool = True
) -> None:
    """Writes a file aside and renames it, so that `path` never holds half of it.

    Args:
        path: The file.
        data: Its bytes.
        sync: Whether to wait until they are on the disk. Not for one of many files that
            can be made again.

    Raises:
        OSError: If it can't be written; nothing is left behind.
    """
    path = pathlib.Path(path)
    with _temporary_path(path) as aside:
        aside.write_bytes(data)
        if sync:
            _flush_to_disk(aside)
        aside.replace(path)


def write_safetensors(
    folder: pathlib.Path, prefix: str, arrays: Mapping[str, Shaped[np.ndarray, "..."]]
) -> StoredFile:
    """Writes arrays into `folder` as PREFIX-HASH.safetensors, whole or not at all.

    Raises:
        OSError: If they can't be written; nothing is left behind.
    """
    with _temporary_path(folder / prefix) as aside:
        aside.touch()
        rights = stat.S_IMODE(aside.stat().st_mode)
        # The library writes the memory behind a view, whatever its strides say.
        dense = {name: np.asarray(a, order="C") for name, a in arrays.items()}
        try:
            safetensors.numpy.save_file(dense, aside)
        except safetensors.SafetensorError as error:
            # The library's own class hides what the system said, "disk full" say.
            raise OSError(f"{folder} can't be written: {error}") from error
        aside.chmod(rights)  # It made a file of its own, for its owner alone.
        _flush_to_disk(aside)
        digest = file_digest(aside)
        stored = StoredFile(
            f"{prefix}-{digest[:16]}.safetensors", digest, aside.stat().st_size
        )
        aside.replace(folder / stored.name)
    return stored


def remove_partial_files(folder: pathlib.Path, prefix: str) -> None:
    """Removes what killed programs left of files PREFIX... that they were writing."""
    # The second kind is what the safetensors library calls a file until it is whole.
    for pattern in (f"{prefix}*.part", ".tmp??????"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def file_digest(path: str | os.PathLike[str]) -> str:
    """Computes the SHA-256 of a file's bytes, as hexadecimal digits."""
    with pathlib.Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _temporary_path(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Names a file beside `path` and takes it away again if it is still there."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield aside
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)  # A write that fails knows no name.
        raise
    finally:
        aside.unlink(missing_ok=True)


def _flush_to_disk(path: pathlib.Path) -> None:
    """Waits until the bytes are on the disk, so that no rename comes before them."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
