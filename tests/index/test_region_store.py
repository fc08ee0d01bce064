import numpy as np
import pytest

from diffjax.index import _region_store
from diffjax.index._region_store import PictureRegions, RegionStore


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(_region_store, "_PICTURES_PER_SHARD", 3)


def regions(number):
    """Three vectors more than the number, and none like those of another."""
    vectors = np.arange(number * 100, number * 100 + 2 * (number + 3), dtype=np.float32)
    return PictureRegions(vectors[:, None], np.stack([vectors] * 4, axis=1) + 0.5)


def assert_read(extracted, numbers):
    each = extracted.read([str(number) for number in numbers])
    for got, number in zip(each, numbers, strict=True):
        np.testing.assert_array_equal(got.vectors, regions(number).vectors)
        np.testing.assert_array_equal(got.boxes, regions(number).boxes)


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def fill(folder, numbers):
    extracted = RegionStore(folder)
    for number in numbers:
        extracted.add(str(number), regions(number))
    return extracted


def test_vectors_come_back_in_the_order_asked_for(tmp_path):
    extracted = fill(tmp_path / "new", range(7))
    assert_read(extracted, [5, 0, 6, 6, 2])
    assert_read(extracted, [])


def test_waiting_vectors_are_readable_and_written_by_shards(tmp_path):
    extracted = fill(tmp_path, range(5))
    assert all(str(i) in extracted for i in range(5))
    assert "5" not in extracted
    assert len(names(tmp_path)) == 1
    extracted.flush()
    extracted.flush()
    assert len(names(tmp_path)) == 2


def test_the_folder_is_created_by_the_first_write(tmp_path):
    RegionStore(tmp_path / "new").flush()
    assert not (tmp_path / "new").exists()


def test_another_program_goes_on_from_what_was_written(tmp_path):
    fill(tmp_path, range(5))  # 3 and 4 are lost with it.
    again = RegionStore(tmp_path)
    assert [str(i) in again for i in range(5)] == [True, True, True, False, False]
    assert_read(again, [1])


@pytest.mark.parametrize("length", [0, 5, 60])
def test_a_shard_that_was_cut_short_is_computed_again(tmp_path, length):
    extracted = fill(tmp_path, range(6))
    shard = tmp_path / names(tmp_path)[0]
    shard.write_bytes(shard.read_bytes()[:length])
    again = RegionStore(tmp_path)
    missing = [i for i in range(6) if str(i) not in again]
    assert len(missing) == 3
    for number in missing:
        again.add(str(number), regions(number))
    assert len(names(tmp_path)) == 2
    assert shard.stat().st_size > length
    assert_read(again, [0, 3, 5])
    del extracted


def test_partial_files_of_a_killed_program_are_removed(tmp_path):
    fill(tmp_path, range(3))
    shards = names(tmp_path)
    for name in ("regions.1234.part", ".tmpX1y2Z3"):
        (tmp_path / name).write_bytes(b"half")
    again = RegionStore(tmp_path)
    assert names(tmp_path) != shards  # It was only looked at.
    for number in range(3, 6):
        again.add(str(number), regions(number))
    assert len(names(tmp_path)) == 2
    assert set(shards) < set(names(tmp_path))
