"""Local web server of one file, with the faults of real servers."""

import contextlib
import hashlib
import http.server
import threading
from collections.abc import Iterator

import pytest

from diffjax.downloads import RemoteFile, download

CONTENT = bytes(range(256)) * 1200  # 307,200 bytes: more than one packet.
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = SIZE // 2


class Site(http.server.ThreadingHTTPServer):
    """Server of one file; its attributes are the faults that a test wants."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.content = CONTENT
        self.headers = {"ETag": '"one"'}
        self.codes = []  # Status codes to answer with before the file, one per request.
        self.cuts = []  # Bytes of the body after which to cut, one per request.
        self.ranges = True
        self.shift = 0  # Bytes by which a range starts later than requested.
        self.redirect = None
        self.go_on = threading.Event()  # Not set: bodies pause in the middle.
        self.go_on.set()
        self.requests = []  # Headers of each request.
        self.served = 0  # Bytes of bodies.

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/weights.pth"

    def range(self, number):
        return self.requests[number].get("Range")


class Answer(http.server.BaseHTTPRequestHandler):
    """Handler of one request."""

    @property
    def site(self):
        assert isinstance(self.server, Site)
        return self.server

    def do_GET(self):
        site = self.site
        site.requests.append(dict(self.headers))
        if site.codes:
            self.send_error(site.codes.pop(0))
        elif site.redirect and self.path != "/moved":
            self.send_response(302)
            self.send_header("Location", site.redirect)
            self.end_headers()
        else:
            self.send_file()

    def send_file(self):
        site, start = self.site, 0
        requested, condition = self.headers.get("Range"), self.headers.get("If-Range")
        is_same = condition in (None, *site.headers.values())
        if requested and site.ranges and is_same:
            start = int(requested.removeprefix("bytes=").removesuffix("-")) + site.shift
            if start >= len(site.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(site.content)}")
                self.end_headers()
                return
        body = site.content[start:]
        self.send_response(206 if start else 200)
        if start:
            end, total = len(site.content) - 1, len(site.content)
            self.send_header("Content-Range", f"bytes {start}-{end}/{total}")
        for name, value in {"Content-Length": len(body), **site.headers}.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        cut = site.cuts.pop(0) if site.cuts else len(body)
        self.wfile.write(body[:cut])
        self.wfile.flush()
        site.served += len(body[:cut])
        if not site.go_on.is_set():
            site.go_on.wait(10)
            self.wfile.write(body[cut:])

    def log_message(self, format, *args):  # noqa: A002  # The library's name.
        del format, args


@contextlib.contextmanager
def serving() -> Iterator[Site]:
    """Running server, stopped at the end of the context."""
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield site
        finally:
            site.go_on.set()
            site.shutdown()
            thread.join()


def names(path):
    """Names of the files beside `path`, itself included."""
    return sorted(file.name for file in path.parent.iterdir())


def broken_download(site, path, *, remote=None, at=HALF):
    """Download interrupted for good after `at` bytes; returns the error message."""
    site.cuts = [at, 0, 0]
    with pytest.raises(OSError, match="could not be downloaded") as caught:
        download(remote or RemoteFile(site.url), path)
    site.requests.clear()
    site.served = 0
    return str(caught.value)
