"""A web site of one file on this machine, with the faults of real ones."""

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
    """A server of one file, with the faults that a test gives it."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.content = CONTENT
        self.headers = {"ETag": '"one"'}
        self.codes = []  # Answers to give before the file, one per request.
        self.cuts = []  # Bytes of the body after which to cut, one per request.
        self.ranges = True
        self.shift = 0  # By how much a range starts later than was asked for.
        self.redirect = None
        self.go_on = threading.Event()  # Set: no waiting in mid-body.
        self.go_on.set()
        self.requests = []  # Headers of each request.
        self.served = 0  # Bytes of bodies.

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/weights.pth"

    def range(self, number):
        return self.requests[number].get("Range")


class Answer(http.server.BaseHTTPRequestHandler):
    """What the site answers to one request."""

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
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        same = condition in (None, *site.headers.values())
        if asked and site.ranges and same:
            start = int(asked.removeprefix("bytes=").removesuffix("-")) + site.shift
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
    """Runs a site as long as it is needed."""
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
    return sorted(each.name for each in path.parent.iterdir())


def broken_download(site, path, *, remote=None, at=HALF):
    """Interrupts a download for good after `at` bytes; returns what it said."""
    site.cuts = [at, 0, 0]
    with pytest.raises(OSError, match="could not be downloaded") as said:
        download(remote or RemoteFile(site.url), path)
    site.requests.clear()
    site.served = 0
    return str(said.value)
