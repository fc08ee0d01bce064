"""Downloads from the web: resumed, checked by SHA-256, renamed into place."""

import contextlib
import errno
import fcntl
import http.client
import io
import json
import math
import os
import pathlib
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from importlib.metadata import version
from typing import NamedTuple

from diffjax._io import file_digest, write_atomically

_TIMEOUT = 30.0  # Seconds of silence.
_RETRY_DELAYS = (1.0, 2.0, 4.0)  # Seconds before each new attempt.
_CHUNK = 1 << 20


class TransferError(Exception):
    """Why a file can't be had."""


class _TransientError(Exception):
    """Trouble that may be over at the next attempt."""


class Transfer:
    """A file on its way: what there is of it, and how the rest is fetched.

    What was interrupted goes on where it was if the server can do that and says that
    its file is still the same.

    Attributes:
        done: How many bytes there are.
    """

    def __init__(
        self,
        url: str,
        part: pathlib.Path,
        file: io.FileIO,
        *,
        size: int | None,
        checked: bool,
        report_bytes: Callable[[int, int], None],
    ) -> None:
        """Takes up what there is.

        Args:
            url: Address of the file; `is_web_url`.
            part: Where the bytes are kept. Beside it, PART.json says whose they are.
            file: `part`, open for appending and unbuffered, nobody else's.
            size: Size of the file in bytes; None if it is not known.
            checked: Whether the whole is compared with a digest in the end.
            report_bytes: Called with bytes done and of how many, where the latter is
                known.
        """
        self.url, self.part, self.file = url, part, file
        self.size, self.checked, self.report_bytes = size, checked, report_bytes
        self.origin = part.with_name(f"{part.name}.json")
        self.done = file.seek(0, os.SEEK_END)

    def run(self) -> None:
        """Fetches what is missing, with a few attempts.

        Raises:
            TransferError: If it can't be had; what came stays.
            OSError: If it can't be written.

        References:
            Fielding, Nottingham and Reschke, "HTTP Semantics", RFC 9110, 2022: Range
            and If-Range; only a draft of it was opened, so no section is cited.
        """
        for wait in (*_RETRY_DELAYS, None):
            try:
                self._fetch()
                break
            except _TransientError as trouble:
                if wait is None:
                    raise TransferError(str(trouble)) from trouble
                time.sleep(wait)

    def _fetch(self) -> None:
        """Asks for what is missing and writes what comes."""
        validator = self._read_validator()
        if self.done == self.size and validator is not None:
            return  # Stopped between the last byte and the new name.
        headers = {"User-Agent": f"diffjax/{version('diffjax')}"}
        # Without a validator, only the digest can tell halves of two versions.
        if self.done and (validator or (validator == "" and self.checked)):
            headers["Range"] = f"bytes={self.done}-"
            if validator:
                headers["If-Range"] = validator
        try:
            with _open_url(self.url, headers) as answer:
                self._receive(answer)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._check_complete(error.headers)
                return
            said = f"the server says {error.code} ({error.reason})"
            if error.code == http.HTTPStatus.TOO_MANY_REQUESTS or error.code >= 500:
                raise _TransientError(said) from error
            raise TransferError(said) from error
        except urllib.error.URLError as error:
            raise self._connection_error(error.reason) from error
        except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
            raise self._connection_error(error) from error

    def _read_validator(self) -> str | None:
        """What the server called the version of the part; None if it is another's."""
        try:
            origin = json.loads(self.origin.read_text())
            return origin["validator"] if origin["url"] == self.url else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _receive(self, answer: http.client.HTTPResponse) -> None:
        """Writes the body of an answer behind what is there, or in place of it."""
        if answer.headers.get_content_type() == "text/html":
            # A network that wants a login answers every address like this.
            raise TransferError("a web page came instead of a file")
        if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
            start, total = _content_range(answer.headers)
            if start != self.done:
                self.restart()
                raise _TransientError("the server sent another part than was asked for")
        else:
            self.restart()
            self._write_origin(answer.headers)
            total = answer.length
        if None not in (total, self.size) and total != self.size:
            self.restart()
            raise TransferError(f"it has {total} bytes there, not {self.size}")
        if total == 0:
            raise TransferError("the server sent a file without a byte")
        total = total or self.size
        while total is None or self.done < total:
            self._report(total)
            try:
                chunk = answer.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _TransientError(f"the connection broke ({error!r})") from error
            if not chunk:
                break
            self._write(chunk)
        if total is not None and self.done < total:
            raise _TransientError(f"the connection broke before all {total} bytes came")
        self._report(self.done)

    def _check_complete(self, headers: Message) -> None:
        """Takes a part as whole if the server has nothing beyond it, else drops it."""
        _, total = _content_range(headers)
        if total != self.done:
            self.restart()
            raise _TransientError("the server has less than was fetched before")

    def _write_origin(self, headers: Message) -> None:
        """Writes down whose part this is, before there is any of it."""
        tag = headers.get("ETag", "")
        # A weak tag promises the same meaning, not the same bytes.
        validator = headers.get("Last-Modified", "") if tag[:2] in ("", "W/") else tag
        origin = {"url": self.url, "validator": validator}
        write_atomically(self.origin, json.dumps(origin).encode())

    def restart(self) -> None:
        """Drops what there is."""
        self.file.truncate(0)
        self.done = self.file.seek(0)

    def _write(self, chunk: bytes) -> None:
        left = memoryview(chunk)
        try:
            while left:
                written = self.file.write(left)
                self.done += written
                left = left[written:]
        except OSError as error:
            error.filename = str(self.part)  # A write that fails knows no name.
            raise

    def _report(self, total: int | None) -> None:
        if total is not None:
            self.report_bytes(self.done, total)

    def _connection_error(self, reason: BaseException | str) -> Exception:
        """Makes an error of what kept an answer from coming."""
        host = urllib.parse.urlsplit(self.url).hostname
        match reason:
            case TimeoutError():
                return _TransientError(f"{host} was silent for {_TIMEOUT:g} seconds")
            case socket.gaierror():
                return TransferError(f"the name {host} is unknown: is there a network?")
            case ssl.SSLError():
                return TransferError(f"no secure connection to {host}: {reason}")
            case ConnectionRefusedError():
                return TransferError(f"{host} refuses connections")
            case ConnectionError() | http.client.HTTPException():
                return _TransientError(f"the connection to {host} broke ({reason!r})")
        return TransferError(str(reason))


def is_web_url(url: str) -> bool:
    """Whether an address is one of http or https."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme in ("http", "https") and bool(parts.netloc)


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but not away from the web (urllib would follow to ftp)."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # noqa: PLR0917  # urllib's signature.
        if not is_web_url(newurl):
            raise urllib.error.URLError(f"the server redirects to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open_url(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  # It was checked.
    return urllib.request.build_opener(_WebRedirects).open(request, timeout=_TIMEOUT)


def _content_range(headers: Message) -> tuple[int | None, int | None]:
    """Reads start and total of `Content-Range: bytes 5-9/10` or `bytes */10`."""
    found = re.fullmatch(
        r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", headers.get("Content-Range", "")
    )
    if found is None:
        return None, None
    start, total = (None if n is None else int(n) for n in found.groups())
    return start, total


# `pooch` fetches and checks files too, but starts anew what was interrupted, and half
# a gigabyte over a poor line is then never there.

_SHA256_PREFIX = re.compile("[0-9a-fA-F]{7,64}")
# What shared file systems without locks answer.
_LOCKS_UNSUPPORTED = errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP

Progress = Callable[[str, int, int], None]


class RemoteFile(NamedTuple):
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
    remote: RemoteFile,
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
    _check_remote(remote, path)
    if (fault := _find_mismatch(remote, path)) is None:
        return path
    if _is_offline(offline=offline):
        raise OSError(
            f"{path} {fault}, and nothing is fetched offline: "
            f"{_manual_download_hint(remote, path)}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with _lock_partial_file(part) as file:
        # Who held it before may have fetched the file.
        if _find_mismatch(remote, path) is not None:
            transfer = Transfer(
                remote.url,
                part,
                file,
                size=remote.size,
                checked=remote.sha256 is not None,
                report_bytes=_report_megabytes(path, progress),
            )
            try:
                _fetch_and_verify(remote, path, transfer)
            finally:
                if not transfer.done or not part.exists():
                    transfer.origin.unlink(missing_ok=True)
    return path


def _check_remote(remote: RemoteFile, path: pathlib.Path) -> None:
    if not is_web_url(remote.url):
        raise ValueError(f"url must start with http:// or https://, got {remote.url}.")
    if remote.size is not None and remote.size < 1:
        raise ValueError(f"size must be at least 1, got {remote.size}.")
    if remote.sha256 is not None and not _SHA256_PREFIX.fullmatch(remote.sha256):
        raise ValueError(
            f"sha256 must be 7 to 64 hexadecimal digits, got {remote.sha256!r}."
        )
    if path.is_dir():
        raise ValueError(f"path must name a file, got the folder {path}.")


def _is_offline(*, offline: bool | None) -> bool:
    if offline is None:
        return os.environ.get("DIFFJAX_OFFLINE", "") not in ("", "0")
    return offline


def _find_mismatch(remote: RemoteFile, path: pathlib.Path) -> str | None:
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


def _manual_download_hint(remote: RemoteFile, path: pathlib.Path) -> str:
    return f"download {remote.url} by hand and put it at {path}"


@contextlib.contextmanager
def _lock_partial_file(part: pathlib.Path) -> Iterator[io.FileIO]:
    """Opens a file for appending and keeps other processes from it.

    The system takes the lock back when the process ends, however it ends.
    """
    while True:
        with part.open("ab", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _LOCKS_UNSUPPORTED:
                    raise
            # Who held it before may have renamed or removed what was opened here.
            if not _is_same_file(file, part):
                continue
            try:
                yield file
            finally:
                if _is_same_file(file, part) and not file.tell():
                    part.unlink()
            return


def _is_same_file(file: io.FileIO, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _fetch_and_verify(
    remote: RemoteFile, path: pathlib.Path, transfer: Transfer
) -> None:
    """Fetches what is missing, checks the whole and renames it."""
    by_hand = _manual_download_hint(remote, path)
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
    if (fault := _find_mismatch(remote, transfer.part)) is not None:
        transfer.restart()
        raise OSError(
            f"What came from {remote.url} {fault}; nothing of it was kept: try again, "
            f"or {by_hand}"
        )
    os.fsync(transfer.file.fileno())
    transfer.part.replace(path)


def _report_megabytes(
    path: pathlib.Path, progress: Progress | None
) -> Callable[[int, int], None]:
    def report_bytes(done: int, of: int) -> None:
        if progress is not None:
            megabytes = (math.ceil(size / 1e6) for size in (done, of))
            progress(f"downloading {path.name} (MB)", *megabytes)

    return report_bytes
