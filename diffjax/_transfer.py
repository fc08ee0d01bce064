"""One file over HTTP, behind what there is of it already."""

import http.client
import io
import json
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

from ._files import write_whole

_TIMEOUT = 30.0  # Seconds of silence.
_WAITS = (1.0, 2.0, 4.0)  # Seconds before each new attempt.
_CHUNK = 1 << 20


class TransferError(Exception):
    """Why a file can't be had."""


class _PassingError(Exception):
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
        tell: Callable[[int, int], None],
    ) -> None:
        """Takes up what there is.

        Args:
            url: Address of the file; `is_web`.
            part: Where the bytes are kept. Beside it, PART.json says whose they are.
            file: `part`, open for appending and unbuffered, nobody else's.
            size: Size of the file in bytes; None if it is not known.
            checked: Whether the whole is compared with a digest in the end.
            tell: Called with bytes done and of how many, where the latter is known.
        """
        self.url, self.part, self.file = url, part, file
        self.size, self.checked, self.tell = size, checked, tell
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
        for wait in (*_WAITS, None):
            try:
                self._fetch()
                break
            except _PassingError as trouble:
                if wait is None:
                    raise TransferError(str(trouble)) from trouble
                time.sleep(wait)

    def _fetch(self) -> None:
        """Asks for what is missing and writes what comes."""
        validator = self._validator()
        if self.done == self.size and validator is not None:
            return  # Stopped between the last byte and the new name.
        headers = {"User-Agent": f"diffjax/{version('diffjax')}"}
        # Without a validator, only the digest can tell halves of two versions.
        if self.done and (validator or (validator == "" and self.checked)):
            headers["Range"] = f"bytes={self.done}-"
            if validator:
                headers["If-Range"] = validator
        try:
            with _open(self.url, headers) as answer:
                self._receive(answer)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._judge_end(error.headers)
                return
            said = f"the server says {error.code} ({error.reason})"
            if error.code == http.HTTPStatus.TOO_MANY_REQUESTS or error.code >= 500:
                raise _PassingError(said) from error
            raise TransferError(said) from error
        except urllib.error.URLError as error:
            raise self._unreachable(error.reason) from error
        except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def _validator(self) -> str | None:
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
                self.start_anew()
                raise _PassingError("the server sent another part than was asked for")
        else:
            self.start_anew()
            self._keep_origin(answer.headers)
            total = answer.length
        if None not in (total, self.size) and total != self.size:
            self.start_anew()
            raise TransferError(f"it has {total} bytes there, not {self.size}")
        if total == 0:
            raise TransferError("the server sent a file without a byte")
        total = total or self.size
        while total is None or self.done < total:
            self._report(total)
            try:
                chunk = answer.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _PassingError(f"the connection broke ({error!r})") from error
            if not chunk:
                break
            self._write(chunk)
        if total is not None and self.done < total:
            raise _PassingError(f"the connection broke before all {total} bytes came")
        self._report(self.done)

    def _judge_end(self, headers: Message) -> None:
        """Takes a part as whole if the server has nothing beyond it, else drops it."""
        _, total = _content_range(headers)
        if total != self.done:
            self.start_anew()
            raise _PassingError("the server has less than was fetched before")

    def _keep_origin(self, headers: Message) -> None:
        """Writes down whose part this is, before there is any of it."""
        tag = headers.get("ETag", "")
        # A weak tag promises the same meaning, not the same bytes.
        validator = headers.get("Last-Modified", "") if tag[:2] in ("", "W/") else tag
        origin = {"url": self.url, "validator": validator}
        write_whole(self.origin, json.dumps(origin).encode())

    def start_anew(self) -> None:
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
            self.tell(self.done, total)

    def _unreachable(self, reason: BaseException | str) -> Exception:
        """Makes an error of what kept an answer from coming."""
        host = urllib.parse.urlsplit(self.url).hostname
        match reason:
            case TimeoutError():
                return _PassingError(f"{host} was silent for {_TIMEOUT:g} seconds")
            case socket.gaierror():
                return TransferError(f"the name {host} is unknown: is there a network?")
            case ssl.SSLError():
                return TransferError(f"no secure connection to {host}: {reason}")
            case ConnectionRefusedError():
                return TransferError(f"{host} refuses connections")
            case ConnectionError() | http.client.HTTPException():
                return _PassingError(f"the connection to {host} broke ({reason!r})")
        return TransferError(str(reason))


def is_web(url: str) -> bool:
    """Whether an address is one of http or https."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme in ("http", "https") and bool(parts.netloc)


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but not away from the web (urllib would follow to ftp)."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # noqa: PLR0917  # urllib's signature.
        if not is_web(newurl):
            raise urllib.error.URLError(f"the server redirects to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
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
