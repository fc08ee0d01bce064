import errno
import json
import socket
import ssl

import pytest
from website import CONTENT, HALF, SHA256, SIZE, broken_download, names

from diffjax import _transfer
from diffjax.downloads import Remote, download


def test_a_file_of_unknown_length_ends_where_the_connection_does(site, path):
    site.headers["Content-Length"] = None
    told = []
    download(Remote(site.url), path, progress=lambda *t: told.append(t))
    assert path.read_bytes() == CONTENT
    assert told == [("downloading weights.pth (MB)", 1, 1)]


def test_a_connection_that_breaks_is_taken_up_where_it_was(site, path):
    site.cuts = [HALF]
    download(Remote(site.url, SIZE, SHA256), path)
    assert path.read_bytes() == CONTENT
    assert [site.range(0), site.range(1)] == [None, f"bytes={HALF}-"]
    assert site.requests[1]["If-Range"] == '"one"'
    assert site.served == SIZE


@pytest.mark.parametrize(
    "headers",
    [{"ETag": '"two"'}, {"Last-Modified": "Tue, 24 Nov 2026 10:00:00 GMT"}, {}],
)
def test_a_file_that_changed_meanwhile_starts_anew(site, path, headers):
    site.headers = dict.fromkeys(headers, "before")
    broken_download(site, path)
    site.content, site.headers = CONTENT[::-1], headers
    download(Remote(site.url), path)
    assert path.read_bytes() == CONTENT[::-1]


def test_a_weak_tag_is_no_promise_of_the_same_bytes(site, path):
    site.headers = {"ETag": 'W/"one"', "Last-Modified": "Tue, 24 Nov 2026 10:00:00 GMT"}
    broken_download(site, path)
    download(Remote(site.url), path)
    assert site.requests[0]["If-Range"] == site.headers["Last-Modified"]


def test_without_a_version_only_a_digest_allows_to_go_on(site, path):
    site.headers = {}
    known = Remote(site.url, None, SHA256)
    broken_download(site, path, remote=known)
    download(Remote(site.url), path)
    assert site.range(0) is None
    path.unlink()
    broken_download(site, path, remote=known)
    download(known, path)
    assert site.range(0) == f"bytes={HALF}-"
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "origin",
    [None, "{", "[]", "{}", '{"url": "http://other/x", "validator": "\\"one\\""}'],
    ids=["none", "half", "list", "empty", "other"],
)
def test_a_part_of_unknown_origin_is_not_gone_on_with(site, path, part, origin):
    broken_download(site, path)
    note = path.with_name("weights.pth.part.json")
    assert json.loads(note.read_text())["url"] == site.url
    note.unlink() if origin is None else note.write_text(origin)
    download(Remote(site.url, SIZE, SHA256), path)
    assert site.range(0) is None
    assert path.read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_starts_anew(site, path):
    site.ranges = False
    site.cuts = [HALF]
    download(Remote(site.url), path)
    assert path.read_bytes() == CONTENT
    assert site.served == HALF + SIZE


def test_a_server_that_sends_another_range_starts_anew(site, path):
    site.cuts, site.shift = [HALF], 5
    download(Remote(site.url), path)
    assert path.read_bytes() == CONTENT
    assert [r.get("Range") for r in site.requests] == [None, f"bytes={HALF}-", None]


@pytest.mark.parametrize(
    ("remote_size", "requests"), [(SIZE, 0), (None, 1)], ids=["size", "no size"]
)
def test_a_download_stopped_before_its_new_name_only_gets_the_name(
    site, path, part, remote_size, requests
):
    broken_download(site, path)
    part.write_bytes(CONTENT)
    download(Remote(site.url, remote_size, SHA256), path)
    assert path.read_bytes() == CONTENT
    assert (len(site.requests), site.served) == (requests, 0)  # 416 where it asks.


def test_a_part_beyond_the_end_starts_anew(site, path, part):
    broken_download(site, path)
    part.write_bytes(CONTENT + b"?")
    download(Remote(site.url), path)
    assert path.read_bytes() == CONTENT


def test_a_wrong_size_is_seen_before_the_body_is_read(site, path):
    with pytest.raises(OSError, match=f"has {SIZE} bytes there, not 5;"):
        download(Remote(site.url, 5), path)
    assert names(path) == []


def test_a_body_shorter_than_its_known_size_is_not_taken(site, path):
    site.headers = {"Content-Length": None}
    with pytest.raises(OSError, match=f"broke before all {SIZE + 1} bytes"):
        download(Remote(site.url, SIZE + 1), path)
    assert not path.exists()


def test_a_web_page_is_not_taken_for_a_file(site, path):
    site.headers["Content-Type"] = "text/html; charset=utf-8"
    with pytest.raises(OSError, match="a web page came instead of a file"):
        download(Remote(site.url), path)
    assert names(path) == []


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(site, path, code):
    site.codes = [code, code]
    download(Remote(site.url), path)
    assert path.read_bytes() == CONTENT
    site.codes = [code] * 9
    path.unlink()
    with pytest.raises(OSError, match=rf"the server says {code} \("):
        download(Remote(site.url), path)
    assert len(site.requests) == 3 + 3  # Three attempts each: two waits.


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_refusal_is_final_and_says_what_to_do(site, path, code):
    site.codes = [code]
    with pytest.raises(OSError, match=rf"the server says {code} \(") as said:
        download(Remote(site.url), path)
    assert len(site.requests) == 1
    assert f"by hand and put it at {path}" in str(said.value)
    assert names(path) == []


def test_a_silent_server_is_given_up(site, path, part, monkeypatch):
    monkeypatch.setattr(_transfer, "_TIMEOUT", 0.05)
    site.cuts = [HALF] * 3
    site.go_on.clear()
    site.ranges = False
    with pytest.raises(OSError, match=r"the connection broke .*[Tt]ime"):
        download(Remote(site.url), path)
    assert len(site.requests) == 3
    assert part.read_bytes() == CONTENT[:HALF]


@pytest.mark.parametrize(
    ("trouble", "said", "attempts"),
    [
        (socket.gaierror(-2, "Name or service not known"), "is there a network", 1),
        (ssl.SSLCertVerificationError("self-signed"), "no secure connection", 1),
        (ConnectionRefusedError(errno.ECONNREFUSED, "no"), "refuses connections", 1),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "unreachable", 1),
        (TimeoutError("timed out"), "was silent for 30 seconds", 3),
        (ConnectionResetError(errno.ECONNRESET, "Reset"), "broke", 3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_connection_is_told_in_a_line(path, monkeypatch, trouble, said, attempts):
    tried = []

    def fail(*args, **_):
        tried.append(args)
        raise trouble

    monkeypatch.setattr(socket, "create_connection", fail)
    with pytest.raises(OSError, match=said) as caught:
        download(Remote("https://example.org/w.pth"), path)
    assert len(tried) == attempts
    line = str(caught.value)
    assert line.startswith("https://example.org/w.pth could not be downloaded: ")
    assert line.endswith(f"https://example.org/w.pth by hand and put it at {path}")
    assert "\n" not in line


def test_redirections_are_followed_with_the_range(site, path):
    site.redirect = "/moved"
    site.cuts = [HALF]
    download(Remote(site.url, SIZE, SHA256), path)
    assert path.read_bytes() == CONTENT
    assert site.range(3) == f"bytes={HALF}-"


@pytest.mark.parametrize("target", ["file:///etc/hosts", "ftp://127.0.0.1/x"])
def test_redirections_do_not_lead_out_of_the_web(site, path, target):
    site.redirect = target
    with pytest.raises(OSError, match=target):
        download(Remote(site.url), path)
    assert not path.exists()
