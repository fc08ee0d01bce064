import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from website import CONTENT, HALF, SHA256, SIZE, broken_download, names

from diffjax import downloads
from diffjax.downloads import Remote, download

# Downloads its first argument to its second; the third is an extra line before.
PROGRAM = """
import sys
from diffjax import _transfer, downloads
_transfer._WAITS = ()
exec(sys.argv[3])
try:
    downloads.download(downloads.Remote(sys.argv[1]), sys.argv[2])
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
    remote = Remote(site.url, SIZE, digits and SHA256[:digits])
    assert download(remote, str(path)) == path
    assert path.read_bytes() == CONTENT
    assert names(path) == ["weights.pth"]
    assert site.requests[0]["User-Agent"].startswith("diffjax/")


def test_a_file_that_is_there_and_right_asks_nothing(site, path, no_network):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    for remote in (Remote(site.url), Remote(site.url, SIZE, SHA256.upper())):
        assert download(remote, path) == path
    assert site.requests == []


@pytest.mark.parametrize("there", [CONTENT[:-1], CONTENT[:-1] + b"?"])
def test_a_file_that_is_there_and_wrong_is_replaced(site, path, there):
    path.parent.mkdir()
    path.write_bytes(there)
    download(Remote(site.url, SIZE, SHA256), path)
    assert path.read_bytes() == CONTENT


def test_an_empty_body_is_no_file(site, path):
    site.content = b""
    with pytest.raises(OSError, match="sent a file without a byte"):
        download(Remote(site.url), path)
    assert not path.exists()


def test_what_an_interrupted_download_left_is_taken_up_the_next_time(site, path, part):
    said = broken_download(site, path)
    assert f"{HALF} bytes are kept in {part}" in said
    assert "\n" not in said
    assert part.read_bytes() == CONTENT[:HALF]
    assert not path.exists()
    download(Remote(site.url, SIZE, SHA256), path)
    assert path.read_bytes() == CONTENT
    assert [r["Range"] for r in site.requests] == [f"bytes={HALF}-"]
    assert site.served == SIZE - HALF
    assert names(path) == ["weights.pth"]


@pytest.mark.parametrize("digits", [7, 64])
def test_a_wrong_checksum_keeps_nothing_and_says_both(site, path, digits):
    right = SHA256[:digits]
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")
    with pytest.raises(OSError, match=f"expected {wrong}, got {SHA256}") as said:
        download(Remote(site.url, SIZE, wrong), path)
    assert names(path) == []
    assert f"download {site.url} by hand and put it at {path}" in str(said.value)


def test_a_checksum_is_of_the_whole_also_after_going_on(site, path, part):
    broken_download(site, path)
    part.write_bytes(b"?" + part.read_bytes()[1:])
    with pytest.raises(OSError, match="wrong sha256"):
        download(Remote(site.url, SIZE, SHA256), path)
    assert names(path) == []


@pytest.mark.parametrize(
    ("variable", "argument"), [("1", None), ("0", True), (None, True)]
)
def test_offline_opens_no_connection_and_says_what_to_put_where(
    monkeypatch, path, no_network, variable, argument
):
    if variable is not None:
        monkeypatch.setenv("DIFFJAX_OFFLINE", variable)
    remote = Remote("https://example.org/w.pth", SIZE, SHA256)
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
    download(Remote(site.url), path, offline=argument)
    assert path.read_bytes() == CONTENT


def test_progress_goes_from_what_is_there_to_all(site, path):
    site.content = bytes(2_500_000)
    broken_download(site, path, at=1_200_000)
    told = []
    download(Remote(site.url), path, progress=lambda *t: told.append(t))
    assert {task for task, _, _ in told} == {"downloading weights.pth (MB)"}
    assert {of for _, _, of in told} == {3}
    done = [done for _, done, _ in told]
    assert (done[0], done[-1]) == (2, 3)
    assert done == sorted(done)


def test_two_that_want_the_same_file_fetch_it_once(site, path):
    remote = Remote(site.url, SIZE, SHA256)
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
        waiting = threading.Thread(target=download, args=(Remote(site.url), path))
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
    download(Remote(site.url), path)
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
    download(Remote(site.url, SIZE, SHA256), path)
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
    download(Remote(site.url), path)
    assert path.read_bytes() == CONTENT
    assert site.range(1) == f"bytes={HALF}-"


@pytest.mark.parametrize(
    ("remote", "said"),
    [
        (Remote("ftp://example.org/x"), "url must start with http.*got ftp://"),
        (Remote("file:///etc/hosts"), "url must start with http"),
        (Remote("/etc/hosts"), "url must start with http"),
        (Remote("https:///x"), "url must start with http"),
        (Remote("https://example.org/x", 0), "size must be at least 1, got 0"),
        (Remote("https://example.org/x", 1, "abc123"), "sha256 must be 7 to 64"),
        (Remote("https://example.org/x", 1, ""), "sha256 must be 7 to 64"),
        (Remote("https://example.org/x", 1, "g" * 64), "sha256 must be 7 to 64"),
        (Remote("https://example.org/x", 1, "0" * 65), "sha256 must be 7 to 64"),
    ],
)
def test_a_remote_that_can_not_be_is_refused(path, no_network, remote, said):
    with pytest.raises(ValueError, match=said):
        download(remote, path)


def test_a_folder_is_no_place_for_a_file(tmp_path, no_network):
    with pytest.raises(ValueError, match="path must name a file, got the folder"):
        download(Remote("https://example.org/x"), tmp_path)
