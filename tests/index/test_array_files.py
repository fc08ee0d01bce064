import errno
import sys

import numpy as np
import pytest

from diffjax.index._array_files import (
    RowsFile,
    count_partial_rows,
    lock_folder,
    map_array,
    partial_path,
    release_pages,
    write_array,
)

unix = pytest.mark.skipif(sys.platform == "win32", reason="asks for a lock of Unix")


def test_rows_are_there_whole_or_aside(tmp_path):
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    path = tmp_path / "rows.npy"
    with RowsFile(path, np.float32, 2) as file:
        file.append(rows[:4])
        assert not path.exists()
        file.append(rows[4:])
    np.testing.assert_array_equal(np.load(path), rows)
    assert map_array(path).ctypes.data % 64 == 0
    with pytest.raises(KeyError), RowsFile(tmp_path / "no.npy", np.int32):
        raise KeyError
    assert not (tmp_path / "no.npy").exists()


def test_pages_are_given_back_and_read_again(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(100_000))
    for mode in ("r", "c"):
        array = np.load(tmp_path / "a.npy", mmap_mode=mode)
        if mode == "c":
            array[7] = -1  # Only in memory, and not to be lost.
        release_pages(array[5:])
        assert array[7] == (7 if mode == "r" else -1)
        np.testing.assert_array_equal(array[8:], np.arange(8, 100_000))
    release_pages(np.arange(3))


def test_rows_go_on_after_those_that_count(tmp_path):
    rows = np.arange(12, dtype=np.int32).reshape(6, 2)
    path = tmp_path / "rows.npy"
    stopped = RowsFile(path, np.int32, 2)
    stopped.append(rows[:4])
    stopped.append(rows[:2] + 100)  # What did not reach the disk, or half of it.
    stopped.__exit__(KeyError, None, None)
    with RowsFile(path, np.int32, 2, rows=4) as file:
        file.append(rows[4:])
    np.testing.assert_array_equal(np.load(path), rows)


def test_an_array_without_rows_can_be_mapped(tmp_path):
    write_array(tmp_path / "none.npy", np.zeros((0, 3), np.float32))
    assert map_array(tmp_path / "none.npy").shape == (0, 3)


@unix
def test_a_folder_is_let_go_after_an_error_too(tmp_path):
    with pytest.raises(KeyError), lock_folder(tmp_path, "lock"):
        raise KeyError
    with lock_folder(tmp_path, "lock"):
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    assert not list(tmp_path.iterdir())


@unix
def test_a_lock_whose_file_was_removed_blocks_no_process(tmp_path, monkeypatch):
    import fcntl

    taken = []
    real = fcntl.flock

    def late(file, how):
        if not taken:  # The build before ends after this one has opened the file.
            (tmp_path / "lock").unlink()
        taken.append(file)
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with lock_folder(tmp_path, "lock"):
        assert len(taken) == 2
        with (
            pytest.raises(ValueError, match="another build"),
            lock_folder(tmp_path, "lock"),
        ):
            pass


@unix
def test_where_a_disk_has_no_locks_builds_go_on(tmp_path, monkeypatch):
    import fcntl

    def none(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with lock_folder(tmp_path, "lock"), lock_folder(tmp_path, "lock"):
        pass


def test_rows_that_were_left_aside_are_counted_without_the_header(tmp_path):
    path = tmp_path / "rows.npy"
    assert count_partial_rows(path) == 0
    stopped = RowsFile(path, np.int32, 3)
    stopped.append(np.zeros((5, 3), np.int32))
    stopped.__exit__(KeyError, None, None)
    assert count_partial_rows(path) == 5
    with partial_path(path).open("rb+") as file:
        file.truncate(128 + 5 * 12 - 1)
    assert count_partial_rows(path) == 4
    partial_path(path).write_bytes(b"no header")
    assert count_partial_rows(path) == 0
