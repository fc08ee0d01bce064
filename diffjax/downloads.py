"""Files from the web: fetched once, checked, and taken up where they broke off."""

import contextlib
import errno
import fcntl
import io
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ._files import file_digest
from ._transfer import Transfer, TransferError, is_web

# `pooch` fetches and checks files too, but starts anew what was interrupted, and half
# a gigabyte over a poor line is then never there.

_DIGITS = re.compile("[0-9a-fA-F]{7,64}")
# What shared file systems without locks answer.
_NO_LOCKS = errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP

Progress = Callable[[str, int, int], None]


class Remote(NamedTuple):
    """A file on the web, and what is known of it beforehand.

    Attributes:
        url: Its address, http or https.
        size: Its size in bytes; None where it is not published.
        sha256: Its SHA-256 in hexadecimal digits, all 64 or at least the first 7; None
            where it is not published.
    """

    url: str
    size: int | None = None
    sha256: str | None = None


def download(
    remote: Remote,
    path: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    offline: bool | None = None,
) -> pathlib.Path:
    """Puts a file of the web at `path`, unless it is there already.

    What is there counts if it has the size and the SHA-256 that are known; it is read
    for that each time. What arrives is kept in PATH.part until it is whole and checked,
    so that `path` never holds half of it, and a download that was interrupted goes on
    where it was if the server can do that and its file is still the same. Of several
    processes that want the same file, one fetches it and the others wait. Proxies are
    those of the environment ($https_proxy and so on).

    Args:
        remote: The file.
        path: Where to put it; folders are made.
        progress: Called with what is being done, megabytes done, and of how many.
        offline: Open no connection; None for what $DIFFJAX_OFFLINE says (1: offline).

    Returns:
        `path`.

    Raises:
        ValueError: If `remote` is not an http address with a sensible size and digest,
            or `path` is a folder.
        OSError: If the file can't be had, or is not what was expected. The message says
            what to do.
    """
    path = pathlib.Path(path)
    _check(remote, path)
    if (fault := _fault(remote, path)) is None:
        return path
    if _is_offline(offline=offline):
        raise OSError(
            f"{path} {fault}, and nothing is fetched offline: {_by_hand(remote, path)}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with _held(part) as file:
        # Who held it before may have fetched the file.
        if _fault(remote, path) is not None:
            transfer = Transfer(
                remote.url,
                part,
                file,
                size=remote.size,
                checked=remote.sha256 is not None,
                tell=_teller(path, progress),
            )
            try:
                _complete(remote, path, transfer)
            finally:
                if not transfer.done or not part.exists():
                    transfer.origin.unlink(missing_ok=True)
    return path


def _check(remote: Remote, path: pathlib.Path) -> None:
    if not is_web(remote.url):
        raise ValueError(f"url must start with http:// or https://, got {remote.url}.")
    if remote.size is not None and remote.size < 1:
        raise ValueError(f"size must be at least 1, got {remote.size}.")
    if remote.sha256 is not None and not _DIGITS.fullmatch(remote.sha256):
        raise ValueError(
            f"sha256 must be 7 to 64 hexadecimal digits, got {remote.sha256!r}."
        )
    if path.is_dir():
        raise ValueError(f"path must name a file, got the folder {path}.")


def _is_offline(*, offline: bool | None) -> bool:
    if offline is None:
        return os.environ.get("DIFFJAX_OFFLINE", "") not in ("", "0")
    return offline


def _fault(remote: Remote, path: pathlib.Path) -> str | None:
    """Says in what a file differs from what is known of it; None if in nothing."""
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"has the wrong size (expected {remote.size} bytes, got {size})"
    if remote.sha256 is not None:
        digest = file_digest(path)
        if not digest.startswith(remote.sha256.lower()):
            return f"has the wrong sha256 (expected {remote.sha256}, got {digest})"
    return None


def _by_hand(remote: Remote, path: pathlib.Path) -> str:
    return f"download {remote.url} by hand and put it at {path}"


@contextlib.contextmanager
def _held(part: pathlib.Path) -> Iterator[io.FileIO]:
    """Opens a file for appending and keeps other processes from it.

    The system takes the lock back when the process ends, however it ends.
    """
    while True:
        with part.open("ab", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
            # Who held it before may have renamed or removed what was opened here.
            if not _is_at(file, part):
                continue
            try:
                yield file
            finally:
                if _is_at(file, part) and not file.tell():
                    part.unlink()
            return


def _is_at(file: io.FileIO, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _complete(remote: Remote, path: pathlib.Path, transfer: Transfer) -> None:
    """Fetches what is missing, checks the whole and renames it."""
    by_hand = _by_hand(remote, path)
    try:
        transfer.run()
    except TransferError as error:
        kept = ""
        if transfer.done:
            kept = (
                f"{transfer.done} bytes are kept in {transfer.part} and the same call "
                "goes on from there, or "
            )
        line = f"{remote.url} could not be downloaded: {error}; {kept}{by_hand}"
        raise OSError(" ".join(line.split())) from error
    if (fault := _fault(remote, transfer.part)) is not None:
        transfer.start_anew()
        raise OSError(
            f"What came from {remote.url} {fault}; nothing of it was kept: try again, "
            f"or {by_hand}"
        )
    os.fsync(transfer.file.fileno())
    transfer.part.replace(path)


def _teller(
    path: pathlib.Path, progress: Progress | None
) -> Callable[[int, int], None]:
    def tell(done: int, of: int) -> None:
        if progress is not None:
            megabytes = (math.ceil(size / 1e6) for size in (done, of))
            progress(f"downloading {path.name} (MB)", *megabytes)

    return tell
