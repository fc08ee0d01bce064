import errno
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
def test_a_download_is_one_complete_file(site, path, digits):
    remote = RemoteFile(site.url, SIZE, digits and SHA256[:digits])
    assert download(remote, str(path)) == path
    assert path.read_bytes() == CONTENT
    assert names(path) == ["weights.pth"]
    assert site.requests[0]["User-Agent"].startswith("diffjax/")


def test_an_existing_right_file_is_not_downloaded(site, path, no_network):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    for remote in (RemoteFile(site.url), RemoteFile(site.url, SIZE, SHA256.upper())):
        assert download(remote, path) == path
    assert site.requests == []


@pytest.mark.parametrize("existing", [CONTENT[:-1], CONTENT[:-1] + b"?"])
def test_an_existing_wrong_file_is_replaced(site, path, existing):
    path.parent.mkdir()
    path.write_bytes(existing)
    download(RemoteFile(site.url, SIZE, SHA256), path)
    assert path.read_bytes() == CONTENT


def test_an_empty_body_is_refused(site, path):
    site.content = b""
    with pytest.raises(OSError, match="sent an empty file"):
        download(RemoteFile(site.url), path)
    assert not path.exists()


def test_an_interrupted_download_resumes_at_the_next_call(site, path, part):
    message = broken_download(site, path)
    assert f"{HALF} bytes are kept in {part}" in message
    assert "\n" not in message
    assert part.read_bytes() == CONTENT[:HALF]
    assert not path.exists()
    download(RemoteFile(site.url, SIZE, SHA256), path)
    assert path.read_bytes() == CONTENT
    assert [r["Range"] for r in site.requests] == [f"bytes={HALF}-"]
    assert site.served == SIZE - HALF
    assert names(path) == ["weights.pth"]


@pytest.mark.parametrize("digits", [7, 64])
def test_a_wrong_checksum_keeps_nothing_and_names_both(site, path, digits):
    right = SHA256[:digits]
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")
    with pytest.raises(OSError, match=f"expected {wrong}, got {SHA256}") as caught:
        download(RemoteFile(site.url, SIZE, wrong), path)
    assert names(path) == []
    assert f"download {site.url} by hand and put it at {path}" in str(caught.value)


def test_the_checksum_is_of_the_complete_file_after_resuming(site, path, part):
    broken_download(site, path)
    part.write_bytes(b"?" + part.read_bytes()[1:])
    with pytest.raises(OSError, match="wrong sha256"):
        download(RemoteFile(site.url, SIZE, SHA256), path)
    assert names(path) == []


@pytest.mark.parametrize(
    ("variable", "argument"), [("1", None), ("0", True), (None, True)]
)
def test_offline_opens_no_connection_and_asks_for_a_manual_download(
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
def test_the_argument_goes_before_the_environment(
    monkeypatch, site, path, variable, argument
):
    monkeypatch.setenv("DIFFJAX_OFFLINE", variable)
    download(RemoteFile(site.url), path, offline=argument)
    assert path.read_bytes() == CONTENT


def test_progress_starts_with_the_bytes_of_the_partial_file(site, path):
    site.content = bytes(2_500_000)
    broken_download(site, path, at=1_200_000)
    calls = []
    download(RemoteFile(site.url), path, progress=lambda *call: calls.append(call))
    assert {task for task, _, _ in calls} == {"downloading weights.pth (MB)"}
    assert {of for _, _, of in calls} == {3}
    done = [done for _, done, _ in calls]
    assert (done[0], done[-1]) == (2, 3)
    assert done == sorted(done)


def test_concurrent_calls_download_a_file_once(site, path):
    remote = RemoteFile(site.url, SIZE, SHA256)
    site.cuts = [HALF]
    site.go_on.clear()  # The first download pauses in the middle.
    threads = [threading.Thread(target=download, args=(remote, path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    while not site.served:
        time.sleep(0.001)
    time.sleep(0.05)  # The others wait by now.
    site.go_on.set()
    for thread in threads:
        thread.join()
    assert len(site.requests) == 1
    assert path.read_bytes() == CONTENT
    assert names(path) == ["weights.pth"]


def test_a_file_system_without_locks_is_enough(site, path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", fail)
    download(RemoteFile(site.url), path)
    assert path.read_bytes() == CONTENT


def test_the_download_of_a_killed_process_resumes(site, path, part):
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


def test_a_full_disk_is_reported_in_a_line_and_resumed_from(site, path, part):
    path.parent.mkdir()
    limit = f"import resource as r; r.setrlimit(r.RLIMIT_FSIZE, ({HALF}, {HALF}))"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, site.url, path, limit],
        capture_output=True,
        text=True,
        check=True,
    )
    code, message = done.stdout.split(maxsplit=1)
    assert int(code) == errno.EFBIG
    assert message.strip() == f"[Errno {code}] {os.strerror(errno.EFBIG)}: '{part}'"
    assert part.read_bytes() == CONTENT[:HALF]
    download(RemoteFile(site.url), path)
    assert path.read_bytes() == CONTENT
    assert site.range(1) == f"bytes={HALF}-"


@pytest.mark.parametrize(
    ("remote", "message"),
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
def test_an_invalid_remote_file_is_refused(path, no_network, remote, message):
    with pytest.raises(ValueError, match=message):
        download(remote, path)


def test_a_folder_as_destination_is_refused(tmp_path, no_network):
    with pytest.raises(ValueError, match="path must name a file, got the folder"):
        download(RemoteFile("https://example.org/x"), tmp_path)


def test_a_file_of_unknown_length_ends_where_the_connection_does(site, path):
    site.headers["Content-Length"] = None
    calls = []
    download(RemoteFile(site.url), path, progress=lambda *call: calls.append(call))
    assert path.read_bytes() == CONTENT
    assert calls == [("downloading weights.pth (MB)", 1, 1)]


def test_a_broken_connection_is_resumed_in_the_same_call(site, path):
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
def test_a_file_that_changed_meanwhile_is_downloaded_anew(site, path, headers):
    site.headers = dict.fromkeys(headers, "before")
    broken_download(site, path)
    site.content, site.headers = CONTENT[::-1], headers
    download(RemoteFile(site.url), path)
    assert path.read_bytes() == CONTENT[::-1]


def test_a_weak_tag_is_not_used_for_resuming(site, path):
    site.headers = {"ETag": 'W/"one"', "Last-Modified": "Tue, 24 Nov 2026 10:00:00 GMT"}
    broken_download(site, path)
    download(RemoteFile(site.url), path)
    assert site.requests[0]["If-Range"] == site.headers["Last-Modified"]


def test_without_a_validator_only_a_known_digest_resumes(site, path):
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
def test_a_partial_file_of_unknown_origin_is_not_resumed(site, path, part, origin):
    broken_download(site, path)
    origin_file = path.with_name("weights.pth.part.json")
    assert json.loads(origin_file.read_text())["url"] == site.url
    origin_file.unlink() if origin is None else origin_file.write_text(origin)
    download(RemoteFile(site.url, SIZE, SHA256), path)
    assert site.range(0) is None
    assert path.read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_sends_all_again(site, path):
    site.ranges = False
    site.cuts = [HALF]
    download(RemoteFile(site.url), path)
    assert path.read_bytes() == CONTENT
    assert site.served == HALF + SIZE


def test_another_range_than_requested_is_discarded(site, path):
    site.cuts, site.shift = [HALF], 5
    download(RemoteFile(site.url), path)
    assert path.read_bytes() == CONTENT
    assert [r.get("Range") for r in site.requests] == [None, f"bytes={HALF}-", None]


@pytest.mark.parametrize(
    ("remote_size", "requests"), [(SIZE, 0), (None, 1)], ids=["size", "no size"]
)
def test_a_complete_partial_file_is_only_renamed(
    site, path, part, remote_size, requests
):
    broken_download(site, path)
    part.write_bytes(CONTENT)
    download(RemoteFile(site.url, remote_size, SHA256), path)
    assert path.read_bytes() == CONTENT
    assert (len(site.requests), site.served) == (requests, 0)  # 416 where it asks.


def test_a_partial_file_beyond_the_end_is_discarded(site, path, part):
    broken_download(site, path)
    part.write_bytes(CONTENT + b"?")
    download(RemoteFile(site.url), path)
    assert path.read_bytes() == CONTENT


def test_a_wrong_size_is_refused_before_the_body_is_read(site, path):
    with pytest.raises(OSError, match=f"file has {SIZE} bytes, not 5;"):
        download(RemoteFile(site.url, 5), path)
    assert names(path) == []


def test_a_body_shorter_than_the_known_size_is_refused(site, path):
    site.headers = {"Content-Length": None}
    with pytest.raises(OSError, match=f"broke before all {SIZE + 1} bytes"):
        download(RemoteFile(site.url, SIZE + 1), path)
    assert not path.exists()


def test_a_web_page_is_refused(site, path):
    site.headers["Content-Type"] = "text/html; charset=utf-8"
    with pytest.raises(OSError, match="a web page came instead of a file"):
        download(RemoteFile(site.url), path)
    assert names(path) == []


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_server_error_is_retried(site, path, code):
    site.codes = [code, code]
    download(RemoteFile(site.url), path)
    assert path.read_bytes() == CONTENT
    site.codes = [code] * 9
    path.unlink()
    with pytest.raises(OSError, match=rf"the server says {code} \("):
        download(RemoteFile(site.url), path)
    assert len(site.requests) == 3 + 3  # Three attempts each: two waits.


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_client_error_is_final_and_says_what_to_do(site, path, code):
    site.codes = [code]
    with pytest.raises(OSError, match=rf"the server says {code} \(") as caught:
        download(RemoteFile(site.url), path)
    assert len(site.requests) == 1
    assert f"by hand and put it at {path}" in str(caught.value)
    assert names(path) == []


def test_a_silent_server_times_out(site, path, part, monkeypatch):
    monkeypatch.setattr(downloads, "_TIMEOUT", 0.05)
    site.cuts = [HALF] * 3
    site.go_on.clear()
    site.ranges = False
    with pytest.raises(OSError, match=r"the connection broke .*[Tt]ime"):
        download(RemoteFile(site.url), path)
    assert len(site.requests) == 3
    assert part.read_bytes() == CONTENT[:HALF]


@pytest.mark.parametrize(
    ("error", "message", "attempts"),
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
def test_a_failed_connection_is_reported_in_a_line(
    path, monkeypatch, error, message, attempts
):
    tried = []

    def fail(*args, **_):
        tried.append(args)
        raise error

    monkeypatch.setattr(socket, "create_connection", fail)
    with pytest.raises(OSError, match=message) as caught:
        download(RemoteFile("http://example.org/w.pth"), path)
    assert len(tried) == attempts
    line = str(caught.value)
    assert line.startswith("http://example.org/w.pth could not be downloaded: ")
    assert line.endswith(f"http://example.org/w.pth by hand and put it at {path}")
    assert "\n" not in line


def test_redirections_keep_the_range(site, path):
    site.redirect = "/moved"
    site.cuts = [HALF]
    download(RemoteFile(site.url, SIZE, SHA256), path)
    assert path.read_bytes() == CONTENT
    assert site.range(3) == f"bytes={HALF}-"


@pytest.mark.parametrize("target", ["file:///etc/hosts", "ftp://127.0.0.1/x"])
def test_redirections_out_of_the_web_are_refused(site, path, target):
    site.redirect = target
    with pytest.raises(OSError, match=target):
        download(RemoteFile(site.url), path)
    assert not path.exists()
