import errno
import fcntl
import hashlib
import os
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import safetensors.numpy

from diffjax import _io
from diffjax._io import (
    file_digest,
    folder_lock,
    remove_partial_files,
    write_atomically,
    write_safetensors,
)

ARRAYS = {
    "ids": np.arange(5, dtype=np.int32),
    "vectors": np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3),
    "nothing": np.zeros((0, 3)),
    "one": np.array(2.5),
}

# Writes files of 5,000 bytes into its first argument under a limit of 2,000 bytes for
# any one file, which the system reports like a full disk; prints the errors.
LIMITED = """
import pathlib, resource, sys
import numpy as np
from diffjax._io import write_safetensors, write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
folder = pathlib.Path(sys.argv[1])
for write in (
    lambda: write_atomically(folder / "a.txt", b"x" * 5000),
    lambda: write_safetensors(folder, "big", {"a": np.zeros(5000)}),
):
    try:
        write()
    except OSError as error:
        print("OSError:", error)
write_atomically(folder / "b.txt", b"x" * 500)
"""


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


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    write_atomically(tmp_path / "a.txt", b"old")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    of_bytes, of_arrays = done.stdout.splitlines()
    assert "File too large" in of_bytes
    assert of_arrays.startswith(f"OSError: {tmp_path} can't be written")
    assert "File too large" in of_arrays
    assert (tmp_path / "a.txt").read_bytes() == b"old"
    assert (tmp_path / "b.txt").stat().st_size == 500
    assert names(tmp_path) == ["a.txt", "b.txt"]


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_atomically(folder / "a.txt", b"new"),
        lambda folder: write_safetensors(folder, "a", ARRAYS),
    ],
    ids=["bytes", "arrays"],
)
def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, write):
    def interrupt(path):
        assert path.stat().st_size > 0  # All is written, but not renamed.
        raise KeyboardInterrupt

    write_atomically(tmp_path / "a.txt", b"old")
    monkeypatch.setattr(_io, "_flush_to_disk", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path)
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"old"


def test_a_missing_folder_is_an_os_error(tmp_path):
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
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "strided": np.arange(10)[::3],
        "reversed": np.arange(4)[::-1],
    }
    stored = write_safetensors(tmp_path, "part", views)
    got = safetensors.numpy.load_file(tmp_path / stored.name)
    for name, array in views.items():
        np.testing.assert_array_equal(got[name], array)


def test_the_name_is_the_hash_of_the_content(tmp_path):
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


def test_new_files_have_the_permissions_of_any_new_file(tmp_path, umask):
    write_atomically(tmp_path / "a.txt", b"one")
    stored = write_safetensors(tmp_path, "part", ARRAYS)
    for name in ("a.txt", stored.name):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask


def test_the_digest_is_that_of_the_bytes(tmp_path):
    (tmp_path / "empty").touch()
    assert file_digest(tmp_path / "empty") == hashlib.sha256(b"").hexdigest()


def test_partial_files_of_killed_processes_are_removed(tmp_path):
    for name in ("part-1.99.part", ".tmpaB3x_z", "other.99.part", "part.npy"):
        (tmp_path / name).touch()
    remove_partial_files(tmp_path, "part")
    assert names(tmp_path) == ["other.99.part", "part.npy"]


def test_a_locked_folder_is_refused_and_released_after_an_error_too(tmp_path):
    with folder_lock(tmp_path, "lock"):
        assert names(tmp_path) == ["lock"]
        with (
            pytest.raises(ValueError, match=r"another process is writing to .*: wait"),
            folder_lock(tmp_path, "lock"),
        ):
            pass
        assert names(tmp_path) == ["lock"]  # It is still that of the holder.
        with folder_lock(tmp_path, "other"):
            pass
    assert names(tmp_path) == []
    with pytest.raises(KeyError), folder_lock(tmp_path, "lock"):
        raise KeyError
    with folder_lock(tmp_path, "lock"):
        pass


# Locks the folder that it is told and waits to be killed.
HOLDER = """
import pathlib, sys, time
from diffjax._io import folder_lock
with folder_lock(pathlib.Path(sys.argv[1]), "lock"):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_another_process_holds_until_it_is_killed(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"locked\n"
    with (
        pytest.raises(ValueError, match="another process"),
        folder_lock(tmp_path, "lock"),
    ):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert names(tmp_path) == ["lock"]  # Left behind, and of no effect.
    with folder_lock(tmp_path, "lock"):
        pass
    assert names(tmp_path) == []


def test_a_process_may_wait_for_the_lock(tmp_path):
    order = []

    def wait():
        with folder_lock(tmp_path, "lock", wait=True):
            order.append("second")

    with folder_lock(tmp_path, "lock"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.1)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
    assert names(tmp_path) == []


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_taken_again(
    tmp_path, monkeypatch
):
    real, opened = fcntl.flock, []

    def late(file, operation):
        if not opened:  # The holder before releases after this one has opened the file.
            (tmp_path / "lock").unlink()
        opened.append(file)
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with folder_lock(tmp_path, "lock", wait=True):
        assert len(opened) == 2
        with (
            pytest.raises(ValueError, match="another process"),
            folder_lock(tmp_path, "lock"),
        ):
            pass


@pytest.mark.parametrize("code", ["ENOLCK", "ENOSYS", "ENOTSUP"])
def test_a_file_system_without_locks_blocks_no_process(tmp_path, monkeypatch, code):
    def fail(file, operation):
        raise OSError(getattr(errno, code), "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with folder_lock(tmp_path, "lock"), folder_lock(tmp_path, "lock", wait=True):
        pass


def test_a_read_only_folder_is_not_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda _, mode: mode != os.W_OK)
    with folder_lock(tmp_path, "lock"), folder_lock(tmp_path, "lock"):
        assert names(tmp_path) == []


def test_other_faults_of_a_lock_are_errors(tmp_path):
    (tmp_path / "lock").mkdir()
    with pytest.raises(OSError, match="lock"), folder_lock(tmp_path, "lock"):
        pass
