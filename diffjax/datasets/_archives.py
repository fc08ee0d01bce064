"""Archives from the web, unpacked into one folder and nowhere else."""

import lzma
import os
import pathlib
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator

_READ_BYTES = 2**20

# What the two libraries raise for a damaged archive, beside an OSError that has no
# number: the system gives one to each of its own.
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
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Unpacks a tar or zip archive, compressed or not, into a folder.

    It is unpacked aside first, into a hidden folder beside `folder`, so that `folder`
    gets all of it or, if anything is wrong with it, nothing. Where `folder` is there
    already, the files are added to it, each in place of the one of its name. What a
    program that was killed has left aside is removed the next time.

    Collections of pictures consist of files and folders: an archive that holds a link
    or a device, or a name that is absolute or leads through "..", is refused whole.

    Args:
        archive: The file; its content tells its kind, not its name.
        folder: Where to; it is made, and so are those above.
        progress: Called with what is being done, megabytes done, and of how many.

    Raises:
        ValueError: If it is no such archive, a damaged one, or one that is refused.
        OSError: If it can't be read, or what is in it can't be written: the disk is
            full, say. Nothing of it is left.
    """
    archive, folder = pathlib.Path(archive), pathlib.Path(folder).absolute()
    aside = folder.with_name(f".{folder.name}.{archive.name}.part")
    _remove_folder(aside)
    members = _unpack_zip if zipfile.is_zipfile(archive) else _unpack_tar
    try:
        aside.mkdir(parents=True)
        for done, of in members(archive, aside):
            if progress is not None:
                megabytes = (-(-size // 10**6) for size in (done, of))
                progress(f"unpacking {archive.name} (MB)", *megabytes)
        _move_files(aside, folder)
    except _DAMAGED_ARCHIVE_ERRORS as error:
        raise _archive_error(archive, error) from error
    except OSError as error:
        if error.errno is None:
            raise _archive_error(archive, error) from error
        if error.filename is None:
            error.filename = str(folder)  # A write that fails knows no name.
        raise
    finally:
        _remove_folder(aside)


def _archive_error(archive: pathlib.Path, error: BaseException) -> ValueError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return ValueError(f"{archive}: no archive that can be unpacked: {reason}.")


def _unpack_tar(
    archive: pathlib.Path, folder: pathlib.Path
) -> Iterator[tuple[int, int]]:
    """Unpacks member by member; yields how far it has come in the archive's bytes."""
    size = archive.stat().st_size
    with archive.open("rb") as file, tarfile.open(fileobj=file) as tar:
        for member in tar:
            _check_member_name(member.name)
            if not (member.isreg() or member.isdir()):
                raise ValueError(f"{member.name!r} is neither a file nor a folder")
            # Its filter also sees what this module does not think of.
            tar.extract(member, folder, filter="data")
            yield file.tell(), size
        # Up to its end, where the checksum of what was packed is.
        while tar.fileobj is not None and tar.fileobj.read(_READ_BYTES):
            pass


def _unpack_zip(
    archive: pathlib.Path, folder: pathlib.Path
) -> Iterator[tuple[int, int]]:
    """Unpacks member by member; yields how many bytes are written, and of how many."""
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
    # What is a plain name on one system may be a path on another.
    for kind in (pathlib.PurePosixPath, pathlib.PureWindowsPath):
        path = kind(name)
        if path.anchor or ".." in path.parts:
            raise ValueError(f"{name!r} is no path within the folder")


def _move_files(source: pathlib.Path, target: pathlib.Path) -> None:
    """Renames a folder, or what is in it if there is one of the new name."""
    if not target.exists():
        source.replace(target)
        return
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(exist_ok=True)
        else:
            path.replace(place)


def _remove_folder(folder: pathlib.Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
