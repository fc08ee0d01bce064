import errno
import fcntl
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

import pytest
from website import CONTENT, HALF, SHA256, SIZE, broken_download, names

from diffjax import downloads
from diffjax import downloads as _transfer
from diffjax.downloads import RemoteFile, download

# Downloads its first argument to its second; the third is an extra line before.
PROGRAM = """
import sys
from diffjax import downloads
downloads._RETRY_DELAYS = ()
exec(sys.argv[3])
try:
    downloads.download(downloads.RemoteFile(sys.argv[1]), sys.argv[2])
except OSError as error:
    print(error.errno, error)
"""


@pytest.fixture
def no_network(monkeypatch):
    """Makes every attempt at a connection a failure of the test."""

    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("digits", [None, 7, 8, 64])
def test_a_file_arrives_whole_and_alone(site, path, digits):
    remote = RemoteFile(site.url, SIZE, digits and SHA256[:digits])
    assert download(remote, str(path)) == path
    assert path.read_bytes() == CONTENT
    assert names(path) == ["weights.pth"]
    assert site.requests[0]["User-Agent"].startswith("diffjax/")


def test_a_file_that_is_there_and_right_asks_nothing(site, path, no_network):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    for remote in (RemoteFile(site.url), RemoteFile(site.url, SIZE, SHA256.upper())):
        assert download(remote, path) == path
    assert site.requests == []


@pytest.mark.parametrize("there", [CONTENT[:-1], CONTENT[:-1] + b"?"])
def test_a_file_that_is_there_and_wrong_is_replaced(site, path, there):
    path.parent.mkdir()
    path.write_bytes(there)
    download(RemoteFile(site.url, SIZE, SHA256), path)
    assert path.read_bytes() == CONTENT


def test_an_empty_body_is_no_file(site, path):
    site.content = b""
    with pytest.raises(OSError, match="sent a file without a byte"):
        download(RemoteFile(site.url), path)
    assert not path.exists()


def test_what_an_interrupted_download_left_is_taken_up_the_next_time(site, path, part):
    said = broken_download(site, path)
    assert f"{HALF} bytes are kept in {part}" in said
    assert "\n" not in said
    assert part.read_bytes() == CONTENT[:HALF]
    assert not path.exists()
    download(RemoteFile(site.url, SIZE, SHA256), path)
    assert path.read_bytes() == CONTENT
    assert [r["Range"] for r in site.requests] == [f"bytes={HALF}-"]
    assert site.served == SIZE - HALF
    assert names(path) == ["weights.pth"]


@pytest.mark.parametrize("digits", [7, 64])
def test_a_wrong_checksum_keeps_nothing_and_says_both(site, path, digits):
    right = SHA256[:digits]
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")
    with pytest.raises(OSError, match=f"expected {wrong}, got {SHA256}") as said:
        download(RemoteFile(site.url, SIZE, wrong), path)
    assert names(path) == []
    assert f"download {site.url} by hand and put it at {path}" in str(said.value)


def test_a_checksum_is_of_the_whole_also_after_going_on(site, path, part):
    broken_download(site, path)
    part.write_bytes(b"?" + part.read_bytes()[1:])
    with pytest.raises(OSError, match="wrong sha256"):
        download(RemoteFile(site.url, SIZE, SHA256), path)
    assert names(path) == []


@pytest.mark.parametrize(
    ("variable", "argument"), [("1", None), ("0", True), (None, True)]
)
def test_offline_opens_no_connection_and_says_what_to_put_where(
    monkeypatch, path, no_network, variable, argument
):
    if variable is not None:
        monkeypatch.setenv("DIFFJAX_OFFLINE", variable)
    remote = RemoteFile("https://example.org/w.pth", SIZE, SHA256)
    with pytest.raises(
        OSError, match="is missing, and nothing is fetched offline"
    ) as e:
        download(remote, path, offline=argument)
    assert f"download {remote.url} by hand and put it at {path}" in str(e.value)
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert download(remote, path, offline=argument) == path
    path.write_bytes(b"?")
    with pytest.raises(OSError, match=f"expected {SIZE} bytes, got 1"):
        download(remote, path, offline=argument)


@pytest.mark.parametrize(("variable", "argument"), [("1", False), ("0", None)])
def test_online_is_what_the_nearest_wish_says(
    monkeypatch, site, path, variable, argument
):
    monkeypatch.setenv("DIFFJAX_OFFLINE", variable)
    download(RemoteFile(site.url), path, offline=argument)
    assert path.read_bytes() == CONTENT


def test_progress_goes_from_what_is_there_to_all(site, path):
    site.content = bytes(2_500_000)
    broken_download(site, path, at=1_200_000)
    told = []
    download(RemoteFile(site.url), path, progress=lambda *t: told.append(t))
    assert {task for task, _, _ in told} == {"downloading weights.pth (MB)"}
    assert {of for _, _, of in told} == {3}
    done = [done for _, done, _ in told]
    assert (done[0], done[-1]) == (2, 3)
    assert done == sorted(done)


def test_two_that_want_the_same_file_fetch_it_once(site, path):
    remote = RemoteFile(site.url, SIZE, SHA256)
    site.cuts = [HALF]
    site.go_on.clear()  # The first stands still in the middle.
    threads = [threading.Thread(target=download, args=(remote, path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    while not site.served:
        time.sleep(0.001)
    time.sleep(0.05)  # The others have come to wait.
    site.go_on.set()
    for thread in threads:
        thread.join()
    assert len(site.requests) == 1
    assert path.read_bytes() == CONTENT
    assert names(path) == ["weights.pth"]


def test_who_waited_for_a_part_that_is_gone_makes_its_own(site, path, part):
    path.parent.mkdir()
    with part.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        waiting = threading.Thread(target=download, args=(RemoteFile(site.url), path))
        waiting.start()
        time.sleep(0.05)  # It has come to wait.
        assert site.requests == []
        part.unlink()
    waiting.join()
    assert path.read_bytes() == CONTENT


def test_a_file_system_without_locks_does(site, path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(downloads.fcntl, "flock", fail)
    download(RemoteFile(site.url), path)
    assert path.read_bytes() == CONTENT


def test_a_program_killed_in_the_middle_is_taken_up(site, path, part):
    path.parent.mkdir()
    site.cuts = [HALF]
    site.go_on.clear()
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, site.url, path, ""])
    while not (part.exists() and part.stat().st_size == HALF):
        assert program.poll() is None
        time.sleep(0.005)
    program.send_signal(signal.SIGKILL)
    program.wait()
    site.go_on.set()
    site.served = 0
    download(RemoteFile(site.url, SIZE, SHA256), path)
    assert path.read_bytes() == CONTENT
    assert (site.range(1), site.served) == (f"bytes={HALF}-", SIZE - HALF)
    assert names(path) == ["weights.pth"]


def test_a_full_disk_is_told_in_a_line_and_gone_on_from(site, path, part):
    path.parent.mkdir()
    full = f"import resource as r; r.setrlimit(r.RLIMIT_FSIZE, ({HALF}, {HALF}))"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, site.url, path, full],
        capture_output=True,
        text=True,
        check=True,
    )
    code, said = done.stdout.split(maxsplit=1)
    assert int(code) == errno.EFBIG
    assert said.strip() == f"[Errno {code}] {os.strerror(errno.EFBIG)}: '{part}'"
    assert part.read_bytes() == CONTENT[:HALF]
    download(RemoteFile(site.url), path)
    assert path.read_bytes() == CONTENT
    assert site.range(1) == f"bytes={HALF}-"


@pytest.mark.parametrize(
    ("remote", "said"),
    [
        (RemoteFile("ftp://example.org/x"), "url must start with http.*got ftp://"),
        (RemoteFile("file:///etc/hosts"), "url must start with http"),
        (RemoteFile("/etc/hosts"), "url must start with http"),
        (RemoteFile("https:///x"), "url must start with http"),
        (RemoteFile("https://example.org/x", 0), "size must be at least 1, got 0"),
        (RemoteFile("https://example.org/x", 1, "abc123"), "sha256 must be 7 to 64"),
        (RemoteFile("https://example.org/x", 1, ""), "sha256 must be 7 to 64"),
        (RemoteFile("https://example.org/x", 1, "g" * 64), "sha256 must be 7 to 64"),
        (RemoteFile("https://example.org/x", 1, "0" * 65), "sha256 must be 7 to 64"),
    ],
)
def test_a_remote_that_can_not_be_is_refused(path, no_network, remote, said):
    with pytest.raises(ValueError, match=said):
        download(remote, path)


def test_a_folder_is_no_place_for_a_file(tmp_path, no_network):
    with pytest.raises(ValueError, match="path must name a file, got the folder"):
        download(RemoteFile("https://example.org/x"), tmp_path)


def test_a_file_of_unknown_length_ends_where_the_connection_does(site, path):
    site.headers["Content-Length"] = None
    told = []
    download(RemoteFile(site.url), path, progress=lambda *t: told.append(t))
    assert path.read_bytes() == CONTENT
    assert told == [("downloading weights.pth (MB)", 1, 1)]


def test_a_connection_that_breaks_is_taken_up_where_it_was(site, path):
    site.cuts = [HALF]
    download(RemoteFile(site.url, SIZE, SHA256), path)
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
    download(RemoteFile(site.url), path)
    assert path.read_bytes() == CONTENT[::-1]


def test_a_weak_tag_is_no_promise_of_the_same_bytes(site, path):
    site.headers = {"ETag": 'W/"one"', "Last-Modified": "Tue, 24 Nov 2026 10:00:00 GMT"}
    broken_download(site, path)
    download(RemoteFile(site.url), path)
    assert site.requests[0]["If-Range"] == site.headers["Last-Modified"]


def test_without_a_version_only_a_digest_allows_to_go_on(site, path):
    site.headers = {}
    known = RemoteFile(site.url, None, SHA256)
    broken_download(site, path, remote=known)
    download(RemoteFile(site.url), path)
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
    download(RemoteFile(site.url, SIZE, SHA256), path)
    assert site.range(0) is None
    assert path.read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_starts_anew(site, path):
    site.ranges = False
    site.cuts = [HALF]
    download(RemoteFile(site.url), path)
    assert path.read_bytes() == CONTENT
    assert site.served == HALF + SIZE


def test_a_server_that_sends_another_range_starts_anew(site, path):
    site.cuts, site.shift = [HALF], 5
    download(RemoteFile(site.url), path)
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
    download(RemoteFile(site.url, remote_size, SHA256), path)
    assert path.read_bytes() == CONTENT
    assert (len(site.requests), site.served) == (requests, 0)  # 416 where it asks.


def test_a_part_beyond_the_end_starts_anew(site, path, part):
    broken_download(site, path)
    part.write_bytes(CONTENT + b"?")
    download(RemoteFile(site.url), path)
    assert path.read_bytes() == CONTENT


def test_a_wrong_size_is_seen_before_the_body_is_read(site, path):
    with pytest.raises(OSError, match=f"has {SIZE} bytes there, not 5;"):
        download(RemoteFile(site.url, 5), path)
    assert names(path) == []


def test_a_body_shorter_than_its_known_size_is_not_taken(site, path):
    site.headers = {"Content-Length": None}
    with pytest.raises(OSError, match=f"broke before all {SIZE + 1} bytes"):
        download(RemoteFile(site.url, SIZE + 1), path)
    assert not path.exists()


def test_a_web_page_is_not_taken_for_a_file(site, path):
    site.headers["Content-Type"] = "text/html; charset=utf-8"
    with pytest.raises(OSError, match="a web page came instead of a file"):
        download(RemoteFile(site.url), path)
    assert names(path) == []


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(site, path, code):
    site.codes = [code, code]
    download(RemoteFile(site.url), path)
    assert path.read_bytes() == CONTENT
    site.codes = [code] * 9
    path.unlink()
    with pytest.raises(OSError, match=rf"the server says {code} \("):
        download(RemoteFile(site.url), path)
    assert len(site.requests) == 3 + 3  # Three attempts each: two waits.


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_refusal_is_final_and_says_what_to_do(site, path, code):
    site.codes = [code]
    with pytest.raises(OSError, match=rf"the server says {code} \(") as said:
        download(RemoteFile(site.url), path)
    assert len(site.requests) == 1
    assert f"by hand and put it at {path}" in str(said.value)
    assert names(path) == []


def test_a_silent_server_is_given_up(site, path, part, monkeypatch):
    monkeypatch.setattr(_transfer, "_TIMEOUT", 0.05)
    site.cuts = [HALF] * 3
    site.go_on.clear()
    site.ranges = False
    with pytest.raises(OSError, match=r"the connection broke .*[Tt]ime"):
        download(RemoteFile(site.url), path)
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
        download(RemoteFile("https://example.org/w.pth"), path)
    assert len(tried) == attempts
    line = str(caught.value)
    assert line.startswith("https://example.org/w.pth could not be downloaded: ")
    assert line.endswith(f"https://example.org/w.pth by hand and put it at {path}")
    assert "\n" not in line


def test_redirections_are_followed_with_the_range(site, path):
    site.redirect = "/moved"
    site.cuts = [HALF]
    download(RemoteFile(site.url, SIZE, SHA256), path)
    assert path.read_bytes() == CONTENT
    assert site.range(3) == f"bytes={HALF}-"


@pytest.mark.parametrize("target", ["file:///etc/hosts", "ftp://127.0.0.1/x"])
def test_redirections_do_not_lead_out_of_the_web(site, path, target):
    site.redirect = target
    with pytest.raises(OSError, match=target):
        download(RemoteFile(site.url), path)
    assert not path.exists()
