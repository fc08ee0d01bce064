import hashlib
import os
import stat
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from diffjax import _io as _files
from diffjax._io import file_digest, write_atomically, write_safetensors

ARRAYS = {
    "ids": np.arange(5, dtype=np.int32),
    "vectors": np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3),
    "nothing": np.zeros((0, 3)),
    "one": np.array(2.5),
}

# Writes into its first argument under a limit of 2,000 bytes for any one file, which
# the system reports like a full disk, and prints what was raised.
LIMITED = """
import pathlib, resource, sys
import numpy as np
from diffjax._io import write_safetensors, write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
folder = pathlib.Path(sys.argv[1])
try:
    {call}
except OSError as error:
    print("OSError:", error)
"""


@pytest.fixture
def limited(tmp_path):
    """Runs one line of Python that is not allowed to write 2,000 bytes."""

    def run(call):
        done = subprocess.run(
            [sys.executable, "-c", LIMITED.format(call=call), str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    return run


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_holds_what_was_written(tmp_path):
    write_atomically(tmp_path / "a.txt", b"one")
    assert (tmp_path / "a.txt").read_bytes() == b"one"
    write_atomically(str(tmp_path / "a.txt"), b"")
    assert (tmp_path / "a.txt").read_bytes() == b""
    assert names(tmp_path) == ["a.txt"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, limited):
    write_atomically(tmp_path / "a.txt", b"old")
    told = limited("write_atomically(folder / 'a.txt', b'x' * 5000)")
    assert "File too large" in told
    assert (tmp_path / "a.txt").read_bytes() == b"old"
    assert names(tmp_path) == ["a.txt"]
    assert limited("write_atomically(folder / 'a.txt', b'x' * 500)") == ""
    assert (tmp_path / "a.txt").stat().st_size == 500


def test_arrays_that_can_not_be_written_leave_nothing(tmp_path, limited):
    told = limited("write_safetensors(folder, 'big', {'a': np.zeros(5000)})")
    assert told.startswith(f"OSError: {tmp_path} can't be written")
    assert "File too large" in told
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_atomically(folder / "a.txt", b"new"),
        lambda folder: write_safetensors(folder, "a", ARRAYS),
    ],
    ids=["bytes", "arrays"],
)
def test_a_write_that_is_broken_off_leaves_nothing(tmp_path, monkeypatch, write):
    def interrupt(path):
        assert path.stat().st_size > 0  # All is written, but not in place.
        raise KeyboardInterrupt

    write_atomically(tmp_path / "a.txt", b"old")
    monkeypatch.setattr(_files, "_flush_to_disk", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path)
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"old"


def test_a_folder_that_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        write_atomically(tmp_path / "nowhere" / "a.txt", b"one")
    with pytest.raises(OSError, match="nowhere"):
        write_safetensors(tmp_path / "nowhere", "a", ARRAYS)


def test_arrays_come_back_as_they_were(tmp_path):
    stored = write_safetensors(tmp_path, "part", ARRAYS)
    got = safetensors.numpy.load_file(tmp_path / stored.name)
    assert got.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(got[name], array)


def test_arrays_that_are_views_come_back_as_they_were(tmp_path):
    views = {
        "turned": np.arange(6.0).reshape(2, 3).T,
        "thinned": np.arange(10)[::3],
        "back": np.arange(4)[::-1],
    }
    stored = write_safetensors(tmp_path, "part", views)
    got = safetensors.numpy.load_file(tmp_path / stored.name)
    for name, array in views.items():
        np.testing.assert_array_equal(got[name], array)


def test_the_name_is_the_hash_of_what_the_file_holds(tmp_path):
    stored = write_safetensors(tmp_path, "part", ARRAYS)
    data = (tmp_path / stored.name).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    assert stored == (f"part-{digest[:16]}.safetensors", digest, len(data))
    assert file_digest(tmp_path / stored.name) == digest


def test_the_same_arrays_give_the_same_file_in_whatever_order(tmp_path):
    stored = write_safetensors(tmp_path, "part", ARRAYS)
    again = write_safetensors(tmp_path, "part", dict(reversed(ARRAYS.items())))
    assert again == stored
    assert names(tmp_path) == [stored.name]


def test_other_arrays_give_another_file_beside_it(tmp_path):
    stored = write_safetensors(tmp_path, "part", ARRAYS)
    other = write_safetensors(tmp_path, "part", {**ARRAYS, "ids": ARRAYS["ids"] + 1})
    assert names(tmp_path) == sorted([stored.name, other.name])


def test_new_files_have_the_rights_that_any_new_file_gets(tmp_path, umask):
    write_atomically(tmp_path / "a.txt", b"one")
    stored = write_safetensors(tmp_path, "part", ARRAYS)
    for name in ("a.txt", stored.name):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask


def test_the_digest_is_that_of_the_bytes(tmp_path):
    (tmp_path / "empty").touch()
    assert file_digest(tmp_path / "empty") == hashlib.sha256(b"").hexdigest()
