"""Safe unpacking of tar and zip archives into one folder."""

import lzma
import os
import pathlib
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator

from diffjax.progress import Progress, no_progress

_READ_BYTES = 2**20

# Exceptions of the two libraries for a damaged archive, beside an OSError without a
# number: those of the system have one.
_DAMAGED_ARCHIVE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    ValueError,
)


def unpack_archive(
    archive: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
) -> None:
    """Unpacks a tar or zip archive, compressed or not, into a folder.

    The archive is unpacked into a hidden folder beside `folder` first, so that `folder`
    gets all files or, after an error, none. Files are added to an existing `folder` and
    replace those of the same name. The hidden folder of a killed process is removed by
    the next call.

    Collections of pictures consist of files and folders: an archive with a link or a
    device, or with a name that is absolute or contains "..", is refused completely.

    Args:
        archive: The file, whose kind is detected by content.
        folder: Destination; it is made, with its parents.
        progress: Called with the task, megabytes done, and megabytes in total.

    Raises:
        ValueError: If it is another kind of file, damaged, or refused.
        OSError: If it can't be read, or its files can't be written, for example to a
            full disk. No file is left then.
    """
    archive, folder = pathlib.Path(archive), pathlib.Path(folder).absolute()
    progress = progress or no_progress
    partial = folder.with_name(f".{folder.name}.{archive.name}.part")
    _remove_folder(partial)
    unpack = _unpack_zip if zipfile.is_zipfile(archive) else _unpack_tar
    try:
        partial.mkdir(parents=True)
        for sizes in unpack(archive, partial):
            megabytes = (-(-size // 10**6) for size in sizes)
            progress(f"unpacking {archive.name} (MB)", *megabytes)
        _move_files(partial, folder)
    except _DAMAGED_ARCHIVE_ERRORS as error:
        raise _archive_error(archive, error) from error
    except OSError as error:
        if error.errno is None:
            raise _archive_error(archive, error) from error
        if error.filename is None:
            error.filename = str(folder)  # A failed write carries no file name.
        raise
    finally:
        _remove_folder(partial)


def _archive_error(archive: pathlib.Path, error: BaseException) -> ValueError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return ValueError(f"{archive}: no archive that can be unpacked: {reason}.")


def _unpack_tar(
    archive: pathlib.Path, folder: pathlib.Path
) -> Iterator[tuple[int, int]]:
    """Unpacks member by member; yields bytes read and bytes of the archive."""
    size = archive.stat().st_size
    with archive.open("rb") as file, tarfile.open(fileobj=file) as tar:
        for member in tar:
            _check_member_name(member.name)
            if not (member.isreg() or member.isdir()):
                raise ValueError(f"{member.name!r} is neither a file nor a folder")
            # The filter also refuses cases that are not checked here.
            tar.extract(member, folder, filter="data")
            yield file.tell(), size
        # The checksum is at the end of the archive.
        while tar.fileobj is not None and tar.fileobj.read(_READ_BYTES):
            pass


def _unpack_zip(
    archive: pathlib.Path, folder: pathlib.Path
) -> Iterator[tuple[int, int]]:
    """Unpacks member by member; yields bytes written and bytes in total."""
    with zipfile.ZipFile(archive) as bundle:
        members = bundle.infolist()
        size, done = sum(member.file_size for member in members), 0
        for member in members:
            _check_member_name(member.filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise ValueError(f"{member.filename!r} is neither a file nor a folder")
            bundle.extract(member, folder)
            done += member.file_size
            yield done, size


def _check_member_name(name: str) -> None:
    # A plain name on one system may be a path on another.
    for path_class in (pathlib.PurePosixPath, pathlib.PureWindowsPath):
        path = path_class(name)
        if path.anchor or ".." in path.parts:
            raise ValueError(f"{name!r} is no path within the folder")


def _move_files(source: pathlib.Path, target: pathlib.Path) -> None:
    """Renames a folder, or moves its files into an existing one of the new name."""
    if not target.exists():
        source.replace(target)
        return
    for path in sorted(source.rglob("*")):
        destination = target / path.relative_to(source)
        if path.is_dir():
            destination.mkdir(exist_ok=True)
        else:
            path.replace(destination)


def _remove_folder(folder: pathlib.Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
