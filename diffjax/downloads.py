"""Downloads from the web: resumed, checked by SHA-256, renamed into place."""

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
from collections.abc import Callable
from email.message import Message
from importlib.metadata import version
from typing import NamedTuple

from diffjax._io import file_digest, folder_lock, write_atomically
from diffjax.progress import Progress, no_progress

# `pooch` fetches and checks files too, but starts anew after an interruption, and half
# a gigabyte never arrives over a poor line.

_TIMEOUT = 30.0  # Seconds without a byte.
_RETRY_DELAYS = (1.0, 2.0, 4.0)  # Seconds before each new attempt.
_CHUNK_BYTES = 1 << 20
_SHA256_PREFIX = re.compile("[0-9a-fA-F]{7,64}")


class RemoteFile(NamedTuple):
    """Address of a file on the web, with its size and checksum where published.

    Attributes:
        url: Address, http or https.
        size: Size in bytes; None where it is not published.
        sha256: SHA-256 in hexadecimal digits, all 64 or at least the first 7; None
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
    """Downloads a file to `path`, unless it is there already.

    An existing file is taken if it has the known size and SHA-256; it is read for that
    each time. Bytes are collected in PATH.part until they are complete and checked, so
    that `path` is never partial, and an interrupted download resumes if the server can
    do that and its file is still the same. Of several processes that want the same
    file, one downloads it and the others wait. Proxies are those of the environment
    ($https_proxy and so on).

    Args:
        remote: The file.
        path: Destination; its folders are made.
        progress: Called with the task, megabytes done, and megabytes in total.
        offline: Open no connection; None for the setting of $DIFFJAX_OFFLINE (1 is
            offline).

    Returns:
        `path`.

    Raises:
        ValueError: If `remote` is not an http address with a valid size and digest, or
            `path` is a folder.
        OSError: If the file can't be downloaded, or is not the expected one. The
            message says what to do.
    """
    path = pathlib.Path(path)
    _check_remote(remote, path)
    if (mismatch := _find_mismatch(remote, path)) is None:
        return path
    if _is_offline(offline=offline):
        raise OSError(
            f"{path} {mismatch}, and nothing is fetched offline: "
            f"{_manual_download_hint(remote, path)}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_name(f"{path.name}.part")
    with folder_lock(path.parent, f"{partial_file.name}.lock", wait=True):
        # The previous holder of the lock may have downloaded the file.
        if _find_mismatch(remote, path) is not None:
            with partial_file.open("ab", buffering=0) as file:
                transfer = _Transfer(
                    remote.url,
                    partial_file,
                    file,
                    size=remote.size,
                    is_checked=remote.sha256 is not None,
                    report_bytes=_report_megabytes(path, progress or no_progress),
                )
                try:
                    _fetch_and_verify(remote, path, transfer)
                finally:
                    transfer.remove_if_empty()
    return path


def is_web_url(url: str) -> bool:
    """Whether an address is one of http or https."""
    url_parts = urllib.parse.urlsplit(url)
    return url_parts.scheme in ("http", "https") and bool(url_parts.netloc)


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
    """Difference between a file and its known size and digest; None if it agrees."""
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


def _report_megabytes(
    path: pathlib.Path, progress: Progress
) -> Callable[[int, int], None]:
    def report_bytes(done: int, total: int) -> None:
        megabytes = (math.ceil(size / 1e6) for size in (done, total))
        progress(f"downloading {path.name} (MB)", *megabytes)

    return report_bytes


def _fetch_and_verify(
    remote: RemoteFile, path: pathlib.Path, transfer: "_Transfer"
) -> None:
    """Completes the partial file, checks it and renames it to `path`."""
    by_hand = _manual_download_hint(remote, path)
    try:
        transfer.run()
    except _TransferError as error:
        resume = ""
        if transfer.num_bytes:
            resume = (
                f"{transfer.num_bytes} bytes are kept in {transfer.partial_file} and "
                "the same call resumes from there, or "
            )
        line = f"{remote.url} could not be downloaded: {error}; {resume}{by_hand}"
        raise OSError(" ".join(line.split())) from error
    if (mismatch := _find_mismatch(remote, transfer.partial_file)) is not None:
        transfer.restart()
        raise OSError(
            f"the download of {remote.url} {mismatch}; nothing of it is kept: try "
            f"again, or {by_hand}"
        )
    os.fsync(transfer.file.fileno())
    transfer.partial_file.replace(path)


class _TransferError(Exception):
    """Failure of a transfer that another attempt would not mend."""


class _TransientError(Exception):
    """Failure of a transfer that may be over at the next attempt."""


class _Transfer:
    """Transfer of one file into a partial file, resumed where possible.

    A transfer resumes if the server supports ranges and says that its file is still the
    same.

    Attributes:
        part: Path of the partial file.
        file: The partial file, open for appending.
        num_bytes: Bytes in the partial file so far.
    """

    def __init__(
        self,
        url: str,
        partial_file: pathlib.Path,
        file: io.FileIO,
        *,
        size: int | None,
        is_checked: bool,
        report_bytes: Callable[[int, int], None],
    ) -> None:
        """Opens a transfer that resumes from the bytes of the partial file.

        Args:
            url: Address of the file; `is_web_url`.
            partial_file: Path of the partial file. Its name with .json added is the
                file that names its origin.
            file: The partial file, open for appending and unbuffered, used by no other.
            size: Size of the complete file in bytes; None if it is not known.
            is_checked: Whether the complete file is compared with a digest afterwards.
            report_bytes: Called with bytes done and in total, once the total is known.
        """
        self.partial_file, self.file = partial_file, file
        self.num_bytes = file.seek(0, os.SEEK_END)
        self._url, self._size, self._is_checked = url, size, is_checked
        self._report_bytes = report_bytes
        self._origin = partial_file.with_name(f"{partial_file.name}.json")

    def run(self) -> None:
        """Fetches the missing bytes, in a few attempts.

        Raises:
            _TransferError: If they can't be fetched; the bytes so far are kept.
            OSError: If they can't be written.

        References:
            Fielding, Nottingham and Reschke, "HTTP Semantics", RFC 9110, 2022: Range
            and If-Range; only a draft of it was opened, so no section is cited.
        """
        for delay in (*_RETRY_DELAYS, None):
            try:
                self._fetch()
                break
            except _TransientError as error:
                if delay is None:
                    raise _TransferError(str(error)) from error
                time.sleep(delay)

    def restart(self) -> None:
        """Discards the bytes so far."""
        self.file.truncate(0)
        self.num_bytes = self.file.seek(0)

    def remove_if_empty(self) -> None:
        """Removes the partial file if it is empty, and its origin if it is gone."""
        if not self.num_bytes:
            self.partial_file.unlink(missing_ok=True)
        if not self.partial_file.exists():
            self._origin.unlink(missing_ok=True)

    def _fetch(self) -> None:
        """Requests the missing bytes and writes them."""
        validator = self._read_validator()
        if self.num_bytes == self._size and validator is not None:
            return  # Interrupted between the last byte and the renaming.
        headers = {"User-Agent": f"diffjax/{version('diffjax')}"}
        # Without a validator, only the digest can tell halves of two versions.
        if self.num_bytes and (validator or (validator == "" and self._is_checked)):
            headers["Range"] = f"bytes={self.num_bytes}-"
            if validator:
                headers["If-Range"] = validator
        try:
            with _open_url(self._url, headers) as response:
                self._receive(response)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._check_complete(error.headers)
                return
            message = f"the server says {error.code} ({error.reason})"
            if error.code == http.HTTPStatus.TOO_MANY_REQUESTS or error.code >= 500:
                raise _TransientError(message) from error
            raise _TransferError(message) from error
        except urllib.error.URLError as error:
            raise self._connection_error(error.reason) from error
        except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
            raise self._connection_error(error) from error

    def _receive(self, response: http.client.HTTPResponse) -> None:
        """Appends the body of a response to the partial file, or replaces it."""
        if response.headers.get_content_type() == "text/html":
            # A network that wants a login answers every request like this.
            raise _TransferError("a web page came instead of a file")
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            start, total = _content_range(response.headers)
            if start != self.num_bytes:
                self.restart()
                raise _TransientError("the server sent another range than requested")
        else:
            self.restart()
            self._write_origin(response.headers)
            total = response.length
        if None not in (total, self._size) and total != self._size:
            self.restart()
            raise _TransferError(
                f"the server's file has {total} bytes, not {self._size}"
            )
        if total == 0:
            raise _TransferError("the server sent an empty file")
        total = total or self._size
        while total is None or self.num_bytes < total:
            self._report(total)
            try:
                chunk = response.read1(_CHUNK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise _TransientError(f"the connection broke ({error!r})") from error
            if not chunk:
                break
            self._write(chunk)
        if total is not None and self.num_bytes < total:
            raise _TransientError(f"the connection broke before all {total} bytes came")
        self._report(self.num_bytes)

    def _check_complete(self, headers: Message) -> None:
        """Accepts a partial file as complete if the server's has no more bytes."""
        _, total = _content_range(headers)
        if total != self.num_bytes:
            self.restart()
            raise _TransientError("the server has less than was fetched before")

    def _read_validator(self) -> str | None:
        """Server's version of the partial file; None if it is of another address."""
        try:
            origin = json.loads(self._origin.read_text())
            return origin["validator"] if origin["url"] == self._url else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _write_origin(self, headers: Message) -> None:
        """Writes the origin of the partial file, before its first byte."""
        tag = headers.get("ETag", "")
        # A weak tag promises the same meaning, not the same bytes.
        validator = headers.get("Last-Modified", "") if tag[:2] in ("", "W/") else tag
        origin = {"url": self._url, "validator": validator}
        write_atomically(self._origin, json.dumps(origin).encode())

    def _write(self, chunk: bytes) -> None:
        remaining = memoryview(chunk)
        try:
            while remaining:
                num_written = self.file.write(remaining)
                self.num_bytes += num_written
                remaining = remaining[num_written:]
        except OSError as error:
            error.filename = str(
                self.partial_file
            )  # A failed write carries no file name.
            raise

    def _report(self, total: int | None) -> None:
        if total is not None:
            self._report_bytes(self.num_bytes, total)

    def _connection_error(self, reason: BaseException | str) -> Exception:
        """Error for the reason why no response came."""
        host = urllib.parse.urlsplit(self._url).hostname
        match reason:
            case TimeoutError():
                return _TransientError(f"{host} was silent for {_TIMEOUT:g} seconds")
            case socket.gaierror():
                return _TransferError(
                    f"the name {host} is unknown: is there a network?"
                )
            case ssl.SSLError():
                return _TransferError(f"no secure connection to {host}: {reason}")
            case ConnectionRefusedError():
                return _TransferError(f"{host} refuses connections")
            case ConnectionError() | http.client.HTTPException():
                return _TransientError(f"the connection to {host} broke ({reason!r})")
        return _TransferError(str(reason))


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Redirections within the web (urllib would also follow one to ftp)."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # noqa: PLR0917  # urllib's signature.
        if not is_web_url(newurl):
            raise urllib.error.URLError(f"the server redirects to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open_url(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  # It was checked.
    return urllib.request.build_opener(_WebRedirects).open(request, timeout=_TIMEOUT)


def _content_range(headers: Message) -> tuple[int | None, int | None]:
    """Start and total of `Content-Range: bytes 5-9/10` or `bytes */10`."""
    match = re.fullmatch(
        r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", headers.get("Content-Range", "")
    )
    if match is None:
        return None, None
    start, total = (None if n is None else int(n) for n in match.groups())
    return start, total
