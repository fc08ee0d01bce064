import errno
import hashlib
import io
import json
import re
import socket
import tarfile
import threading
import urllib.parse
import zipfile
from typing import Any

import pytest
from website import Answer, serving

from diffjax import downloads
from diffjax.datasets._fetch import (
    DATASETS,
    DataFile,
    DataSet,
    fetch_dataset,
    picture_folder,
)
from diffjax.downloads import RemoteFile

PICTURES = {f"paris/{n}.jpg": bytes([n]) * 40_000 for n in range(6)}


def packed(pictures, kind="tgz"):
    """Archive of pictures."""
    content = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(content, "w") as bundle:
            for name, picture in pictures.items():
                bundle.writestr(name, picture)
        return content.getvalue()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, picture in pictures.items():
            member = tarfile.TarInfo(name)
            member.size = len(picture)
            tar.addfile(member, io.BytesIO(picture))
    return content.getvalue()


def some(*numbers):
    return {name: PICTURES[name] for n in numbers for name in [f"paris/{n}.jpg"]}


FILES = {
    "1.tgz": packed(some(0, 1)),
    "2.zip": packed(some(2, 3), "zip"),
    "3.tar.gz": packed(some(4, 5)),
    "gnd.txt": b"0 1 2\n",
    "gnd_toy.pkl": b"pickle",
    "odd.part1.rar": b"Rar!",
    "odd.part2.rar": b"Rar!",
}


class ByName(Answer):
    """Handler that serves several files and records their names."""

    def do_GET(self):  # noqa: N802  # The library's name.
        site: Any = self.site
        name = self.path.rpartition("/")[2]
        site.requested.append(name)
        site.content = site.files[name]
        super().do_GET()


@pytest.fixture
def site(monkeypatch):
    """Running server of several files that records requests."""
    monkeypatch.setattr(downloads, "_RETRY_DELAYS", ())
    monkeypatch.delenv("DIFFJAX_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    with serving() as server:
        site: Any = server
        site.RequestHandlerClass = ByName
        site.files, site.requested = dict(FILES), []
        yield site


@pytest.fixture
def known(site):
    """Data sets of that server: `toy`, one that shares its pictures, and others."""

    def file(name, unpack_to=None):
        content = site.files[name]
        digest = hashlib.sha256(content).hexdigest()
        remote = RemoteFile(urllib.parse.urljoin(site.url, name), len(content), digest)
        return DataFile(remote, "here", unpack_to)

    def by_hand(name, unpack_to=None):
        return DataFile(RemoteFile(f"ftp://example.org/{name}"), "there", unpack_to)

    pictures = (*(file(name, "jpg") for name in ("1.tgz", "2.zip", "3.tar.gz")),)
    return {
        "toy": DataSet((*pictures, file("gnd.txt")), "Six pictures."),
        "rtoy": DataSet((file("gnd_toy.pkl"),), "The same.", shares_pictures_of="toy"),
        "hand": DataSet(
            (
                file("gnd.txt"),
                by_hand("1.tgz", "jpg"),
                by_hand("odd_siamac.mat"),
                file("2.zip", "jpg"),
            ),
            "Half of it by ftp.",
        ),
        "rar": DataSet(
            tuple(file(f"odd.part{n}.rar", "jpg") for n in (1, 2)), "In parts."
        ),
    }


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "fetched.json"
    }


COMPLETE = {f"jpg/{name}": content for name, content in PICTURES.items()}
COMPLETE |= {"gnd.txt": FILES["gnd.txt"]}


def test_a_data_set_is_fetched_completely(site, known, folder):
    calls = []
    home = fetch_dataset(
        "toy", str(folder), datasets=known, progress=lambda *call: calls.append(call)
    )
    assert home == folder / "toy"
    assert contents(home) == COMPLETE
    assert sorted(p.name for p in home.iterdir()) == ["fetched.json", "gnd.txt", "jpg"]
    assert picture_folder("toy", folder, datasets=known) == home / "jpg"
    tasks = list(dict.fromkeys(task for task, _, _ in calls))
    assert tasks[:2] == ["downloading 1.tgz (MB)", "unpacking 1.tgz (MB)"]
    assert len(tasks) == 7
    record = json.loads((home / "fetched.json").read_text())
    for file in known["toy"].files:
        assert record[file.name] == {
            "url": file.remote.url,
            "bytes": file.remote.size,
            "sha256": file.remote.sha256,
        }


def test_existing_files_are_not_fetched_again(site, known, folder):
    fetch_dataset("toy", folder, datasets=known)
    site.requested.clear()
    fetch_dataset("toy", folder, datasets=known)
    fetch_dataset("toy", folder, datasets=known, offline=True)
    assert site.requested == []
    (folder / "toy" / "gnd.txt").unlink()
    (folder / "toy" / "2.zip").write_bytes(b"left by a program that was killed")
    fetch_dataset("toy", folder, datasets=known)
    assert site.requested == ["gnd.txt"]
    assert contents(folder / "toy") == COMPLETE


@pytest.mark.parametrize(
    "position",
    [0, 3, *(pytest.param(position, marks=pytest.mark.full) for position in (1, 2))],
)
def test_an_interrupted_call_is_resumed(site, known, folder, position):
    order = [file.name for file in known["toy"].files]
    half = len(FILES[order[position]]) // 2
    site.cuts = [len(FILES[name]) for name in order[:position]] + [half]
    with pytest.raises(
        OSError, match=rf"{order[position]} could not be downloaded: .*"
    ):
        fetch_dataset("toy", folder, datasets=known)
    # The folder of pictures appears only when complete.
    assert (folder / "toy" / "jpg").exists() == (position == 3)
    assert site.requested == order[: position + 1]
    site.requested.clear()
    fetch_dataset("toy", folder, datasets=known)
    assert site.requested == order[position:]
    assert site.requests[position + 1]["Range"] == f"bytes={half}-"
    assert contents(folder / "toy") == COMPLETE


def test_pictures_removed_before_completion_are_fetched_again(site, known, folder):
    site.files["3.tar.gz"] = b""
    with pytest.raises(OSError, match=r"3.tar.gz could not be downloaded"):
        fetch_dataset("toy", folder, datasets=known)
    collected = folder / "toy" / ".jpg.part"
    assert len(contents(collected)) == 4
    for path in sorted(collected.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    collected.rmdir()
    site.files["3.tar.gz"] = FILES["3.tar.gz"]
    fetch_dataset("toy", folder, datasets=known)
    assert contents(folder / "toy") == COMPLETE


def test_a_damaged_record_is_written_again(site, known, folder):
    fetch_dataset("toy", folder, datasets=known)
    record = folder / "toy" / "fetched.json"
    for damaged in ("", "{", "[1]", '{"other": 1}'):
        record.write_text(damaged)
        fetch_dataset("toy", folder, datasets=known)
        assert "gnd.txt" in json.loads(record.read_text())


def test_another_ground_truth_shares_the_pictures(site, known, folder):
    assert fetch_dataset("rtoy", folder, datasets=known) == folder / "rtoy"
    assert contents(folder / "toy") == COMPLETE
    assert contents(folder / "rtoy") == {"gnd_toy.pkl": b"pickle"}
    assert picture_folder("rtoy", folder, datasets=known) == folder / "toy" / "jpg"
    site.requested.clear()
    fetch_dataset("toy", folder, datasets=known)
    assert site.requested == []


def test_files_outside_the_web_are_listed_and_accepted_once_there(site, known, folder):
    home = folder / "hand"
    with pytest.raises(OSError, match="hand is not complete") as caught:
        fetch_dataset("hand", folder, datasets=known)
    line = str(caught.value)
    for name in ("1.tgz", "odd_siamac.mat"):
        assert f"download ftp://example.org/{name} and put it at {home / name}" in line
    assert "\n" not in line
    assert (home / "gnd.txt").exists()  # It can be fetched.
    assert not (home / "jpg").exists()
    (home / "1.tgz").write_bytes(FILES["1.tgz"])
    with pytest.raises(
        OSError, match=r"by hand: download ftp://example.org/odd_siamac"
    ):
        fetch_dataset("hand", folder, datasets=known)
    assert (home / "jpg").exists()
    (home / "odd_siamac.mat").write_bytes(b"MATLAB")
    site.requested.clear()
    assert fetch_dataset("hand", folder, datasets=known) == home
    assert site.requested == []
    files = contents(home)
    assert files.pop("1.tgz") == FILES["1.tgz"]  # The user's file is kept.
    expected = {f"jpg/{name}": content for name, content in some(0, 1, 2, 3).items()}
    expected |= {"gnd.txt": FILES["gnd.txt"], "odd_siamac.mat": b"MATLAB"}
    assert files == expected


def test_parts_of_a_rar_archive_are_fetched_and_unpacked_by_hand(site, known, folder):
    home = folder / "rar"
    for requested in (["odd.part1.rar", "odd.part2.rar"], []):
        site.requested.clear()
        with pytest.raises(OSError, match="rar is not complete") as caught:
            fetch_dataset("rar", folder, datasets=known)
        first = home / "odd.part1.rar"
        assert f"(unrar x {first} {home / 'jpg'}/)" in str(caught.value)
        assert site.requested == requested
    (home / "jpg").mkdir()
    for path in home.glob("*.rar"):
        path.unlink()
    assert fetch_dataset("rar", folder, datasets=known) == home


def test_offline_opens_no_connection_and_asks_for_manual_downloads(
    site, known, folder, monkeypatch
):
    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("DIFFJAX_OFFLINE", "1")
    file, *_ = known["toy"].files
    path = folder / "toy" / "1.tgz"
    message = f"download {file.remote.url} by hand and put it at {path}"
    with pytest.raises(OSError, match=re.escape(message)):
        fetch_dataset("toy", folder, datasets=known)
    for name in ("1.tgz", "2.zip", "3.tar.gz", "gnd.txt"):
        (folder / "toy" / name).write_bytes(FILES[name])
    fetch_dataset("toy", folder, datasets=known)
    assert contents(folder / "toy") == COMPLETE


def test_a_damaged_or_hostile_archive_is_refused_with_its_address(site, known, folder):
    hostile = packed({"paris/ok.jpg": b"1", "../../../escaped.txt": b"escaped"})
    for content in (FILES["1.tgz"][:-9], b"no archive", hostile):
        site.files["1.tgz"] = content
        url = urllib.parse.urljoin(site.url, "1.tgz")
        datasets = {"toy": DataSet((DataFile(RemoteFile(url), "here", "jpg"),), "")}
        with pytest.raises(OSError, match=f"It came from {url}: remove it") as caught:
            fetch_dataset("toy", folder, datasets=datasets)
        assert str(folder / "toy" / "1.tgz") in str(caught.value)
        assert "\n" not in str(caught.value)
        # The archive is kept for inspection; nothing of it is unpacked.
        assert contents(folder.parent) == {"data/toy/1.tgz": content}
        (folder / "toy" / "1.tgz").unlink()


def test_a_wrong_checksum_unpacks_nothing(site, known, folder):
    site.files["1.tgz"] = packed({"paris/0.jpg": b"another"})
    size = len(site.files["1.tgz"])
    url = urllib.parse.urljoin(site.url, "1.tgz")
    file = DataFile(RemoteFile(url, size, "0" * 64), "here", "jpg")
    with pytest.raises(OSError, match="wrong sha256"):
        fetch_dataset("toy", folder, datasets={"toy": DataSet((file,), "")})
    assert contents(folder) == {}


def test_a_full_disk_is_an_error_in_a_line_and_resumed_from(
    site, known, folder, monkeypatch
):
    def full(source, target, *_, **__):
        target.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "copyfileobj", full)
        with pytest.raises(OSError, match="No space") as e:
            fetch_dataset("toy", folder, datasets=known)
    home = folder / "toy"
    assert str(e.value) == f"[Errno 28] No space left on device: '{home / '.jpg.part'}'"
    assert contents(home) == {"1.tgz": FILES["1.tgz"]}
    site.requested.clear()
    fetch_dataset("toy", folder, datasets=known)
    assert "1.tgz" not in site.requested
    assert contents(home) == COMPLETE


def test_concurrent_calls_fetch_a_data_set_once(site, known, folder):
    calls = [
        threading.Thread(
            target=fetch_dataset, args=("toy", folder), kwargs={"datasets": known}
        )
        for _ in range(3)
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert sorted(site.requested) == ["1.tgz", "2.zip", "3.tar.gz", "gnd.txt"]
    assert contents(folder / "toy") == COMPLETE


def test_an_unknown_name_is_refused_with_the_known_ones(known, folder):
    for call in (fetch_dataset, picture_folder):
        with pytest.raises(ValueError, match="of toy, rtoy, hand, rar, got 'oxford'"):
            call("oxford", folder, datasets=known)
    with pytest.raises(ValueError, match=r"oxford5k, paris6k, .* got 'oxford'"):
        fetch_dataset("oxford", folder)
    assert not folder.exists()


def test_the_catalogue_is_consistent():
    expected = {"oxford5k", "paris6k", "roxford5k", "rparis6k", "revisitop1m"}
    expected |= {"flickr100k", "instre", "oxford105k-siamac", "paris106k-resnet"}
    assert expected <= set(DATASETS)
    for name, dataset in DATASETS.items():
        assert dataset.note.endswith((".", ")."))
        assert (
            dataset.shares_pictures_of is None or dataset.shares_pictures_of in DATASETS
        )
        names = [file.name for file in dataset.files]
        assert len(set(names)) == len(names), name
        for file in dataset.files:
            parts = urllib.parse.urlsplit(file.remote.url)
            assert parts.scheme in {"http", "https", "ftp"}
            assert parts.netloc
            assert file.source.startswith("https://")
            # Digests are complete.
            assert file.remote.sha256 is None or len(file.remote.sha256) == 64
    assert len(DATASETS["revisitop1m"].files) == 101
    assert len(DATASETS["flickr100k"].files) == 40
    assert DATASETS["flickr100k"].files[8].name == "oxc1_100k.part09.rar"
    graphs = [n for n, d in DATASETS.items() if "kgraph" in d.files[-1].name]
    assert sorted(graphs) == sorted(
        f"{name}-{model}"
        for name in ("oxford105k", "paris106k")
        for model in ("siamac", "resnet")
    )


def test_the_digest_of_instre_is_that_of_the_file(shared_data):
    (file,) = [f for f in DATASETS["instre"].files if f.name == "gnd_instre.mat"]
    content = (shared_data / "ground_truth" / file.name).read_bytes()
    assert file.remote.size == len(content)
    assert file.remote.sha256 == hashlib.sha256(content).hexdigest()


def test_released_descriptors_are_downloaded_by_hand(folder, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", None)
    with pytest.raises(OSError, match="oxford105k-siamac is not complete") as caught:
        fetch_dataset("oxford105k-siamac", folder)
    home = folder / "oxford105k-siamac"
    corpus = "ftp://ftp.irisa.fr/local/texmex/corpus/diffusion"
    for path in (
        "data/oxford105k_siamac.mat",
        "gnd/gnd_oxford105k.mat",
        "data/oxford105k_knn_kgraph_siamac.mat",
    ):
        name = path.rpartition("/")[2]
        assert f"download {corpus}/{path} and put it at {home / name}" in str(
            caught.value
        )
    for file in DATASETS["oxford105k-siamac"].files:
        (home / file.name).write_bytes(b"MATLAB")
    assert fetch_dataset("oxford105k-siamac", folder) == home
