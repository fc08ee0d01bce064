import re
import socket

import pytest
from website import CONTENT, SHA256, SIZE, serving

from diffjax import downloads
from diffjax.downloads import RemoteFile
from diffjax.weights import _zoo
from diffjax.weights._zoo import KNOWN_WEIGHTS, KnownWeights, fetch_weights

NAMES = [weights.name for weights in KNOWN_WEIGHTS]


@pytest.fixture
def site():
    with serving() as site:
        yield site


@pytest.fixture
def folder(site, monkeypatch, tmp_path):
    """Folder of the cached weights; the zoo has two entries of the running site."""
    monkeypatch.setenv("DIFFJAX_CACHE", str(tmp_path))
    monkeypatch.delenv("DIFFJAX_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(downloads, "_RETRY_DELAYS", ())
    known = (
        KnownWeights(
            "stated", "vgg16", RemoteFile(site.url, SIZE, SHA256[:8]), "A test."
        ),
        KnownWeights("unstated", "vgg16", RemoteFile(site.url), "A test."),
    )
    monkeypatch.setattr(_zoo, "KNOWN_WEIGHTS", known)
    return tmp_path / "weights"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_names_and_files_are_all_different():
    assert len(set(NAMES)) == len(NAMES)
    files = [weights.remote.url.rpartition("/")[2] for weights in KNOWN_WEIGHTS]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("weights", KNOWN_WEIGHTS, ids=NAMES)
def test_the_fields_of_an_entry_are_consistent(weights):
    name, architecture, remote, note = weights
    assert name.startswith(f"{architecture}-")
    assert architecture in {"vgg16", "resnet50", "resnet101"}
    file = remote.url.rpartition("/")[2]
    assert architecture.removesuffix("16") in file
    if file.endswith(".pth"):  # Names say how the digest begins.
        digits = re.search(r"-([0-9a-f]{7,8})\.pth$", file)
        assert digits is not None
        assert remote.sha256 is not None
        assert remote.sha256.startswith(digits[1])
        assert len(remote.sha256) in {7, 64}
    else:
        assert remote.sha256 is None
    assert re.search(r"\b(19|20)\d\d\b.*https://arxiv\.org/abs/\d{4}\.\d{4,5}", note)


@pytest.mark.parametrize("name", ["stated", "unstated"])
def test_weights_are_downloaded_once_into_the_cache(site, folder, name):
    steps = []
    path = fetch_weights(name, progress=lambda *step: steps.append(step))
    assert path == folder / "weights.pth"
    assert path.read_bytes() == CONTENT
    assert steps[-1] == ("downloading weights.pth (MB)", 1, 1)
    assert fetch_weights(name, offline=True) == path
    assert len(site.requests) == 1


def test_an_unpublished_digest_is_recorded(folder):
    path = fetch_weights("unstated")
    assert names(folder) == ["weights.pth", "weights.pth.sha256"]
    record = folder / "weights.pth.sha256"
    assert record.read_text() == f"{SHA256}  weights.pth\n"  # `sha256sum --check`
    record.unlink()
    assert fetch_weights("unstated", offline=True) == path  # Also if it was put there.
    assert names(folder) == ["weights.pth", "weights.pth.sha256"]


def test_a_published_digest_needs_no_record(folder):
    fetch_weights("stated")
    assert names(folder) == ["weights.pth"]


def test_a_file_that_differs_from_its_recorded_digest_is_refused(site, folder):
    path = fetch_weights("unstated")
    damaged = CONTENT[:-1] + b"?"
    path.write_bytes(damaged)
    with pytest.raises(OSError, match=f"expected sha256 {SHA256}, got") as said:
        fetch_weights("unstated")
    record = folder / "weights.pth.sha256"
    assert f"remove it and {record} to download it anew" in str(said.value)
    path.unlink()
    record.unlink()
    assert fetch_weights("unstated").read_bytes() == CONTENT
    assert len(site.requests) == 2


def test_a_damaged_file_with_a_published_digest_is_downloaded_again(site, folder):
    path = fetch_weights("stated")
    path.write_bytes(CONTENT[:-1] + b"?")
    assert fetch_weights("stated").read_bytes() == CONTENT
    assert len(site.requests) == 2


def test_offline_the_error_names_the_url_and_the_path(site, folder, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setenv("DIFFJAX_OFFLINE", "1")
    put = f"download {site.url} by hand and put it at {folder / 'weights.pth'}"
    with pytest.raises(OSError, match=re.escape(put)):
        fetch_weights("stated")


def test_the_error_of_an_unknown_name_lists_the_known_ones():
    listed = re.escape(f"{', '.join(NAMES)}, got 'vgg19'.")
    with pytest.raises(ValueError, match=f"name must be one of {listed}"):
        fetch_weights("vgg19")
