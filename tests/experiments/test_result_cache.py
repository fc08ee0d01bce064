import errno
import pathlib

import numpy as np
import pytest

from experiments._result_cache import (
    arrays_digest,
    load_or_compute_arrays,
    sources_digest,
)


class Counted:
    """Function that computes an array and counts its calls."""

    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1
        return {"values": np.arange(6.0).reshape(2, 3).T}


def test_a_result_is_computed_once_and_loaded_the_next_time(tmp_path):
    compute = Counted()
    first = load_or_compute_arrays(tmp_path, {"k": 5}, compute)
    again = load_or_compute_arrays(tmp_path, {"k": 5}, compute)
    assert compute.times == 1
    np.testing.assert_array_equal(first["values"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(again["values"], first["values"])


def test_a_changed_setting_is_computed_and_leaves_other_results(tmp_path):
    compute = Counted()
    load_or_compute_arrays(tmp_path, {"k": 5, "method": "a"}, compute)
    load_or_compute_arrays(tmp_path, {"k": 6, "method": "a"}, compute)
    assert compute.times == 2
    load_or_compute_arrays(tmp_path, {"method": "a", "k": 5}, compute)
    assert compute.times == 2


def test_results_of_other_sources_are_not_loaded(tmp_path):
    compute = Counted()
    load_or_compute_arrays(tmp_path, {"k": 5}, compute)
    load_or_compute_arrays(tmp_path, {"k": 5}, compute, sources="others")
    assert compute.times == 2
    assert len(sources_digest()) == 64


def test_an_interrupted_write_is_not_taken_for_a_result(tmp_path):
    compute = Counted()
    load_or_compute_arrays(tmp_path, {"k": 5}, compute)
    (path,) = tmp_path.iterdir()
    path.rename(path.with_suffix(".part"))
    load_or_compute_arrays(tmp_path, {"k": 5}, compute)
    assert compute.times == 2
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_a_full_disk_names_the_file_and_leaves_no_partial_file(tmp_path, monkeypatch):
    def fill(path, data):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "write_bytes", fill)
        with pytest.raises(OSError, match=r"No space left on device: '.*safetensors'"):
            load_or_compute_arrays(tmp_path, {"k": 5}, Counted())
    assert list(tmp_path.iterdir()) == []


def test_a_result_depends_on_the_module_that_computes_it(tmp_path):
    compute = Counted()
    load_or_compute_arrays(tmp_path, {"k": 5}, compute)
    load_or_compute_arrays(tmp_path, {"k": 5}, compute, by=load_or_compute_arrays)
    assert compute.times == 2


def test_a_digest_tells_values_names_types_and_shapes_apart():
    base = np.arange(6, dtype=np.float32)
    others = [
        {"a": base},
        {"b": base},
        {"a": base + 1},
        {"a": base.astype(np.float64)},
        {"a": base.reshape(2, 3)},
        {"a": base.reshape(2, 3).T},
    ]
    assert len({arrays_digest(one) for one in others}) == len(others)
    assert arrays_digest({"a": base[::2]}) == arrays_digest({"a": base[::2].copy()})
