import numpy as np
import pytest
from matlab_files import StructArray, write_5, write_73

from diffjax.data import read_released_truth

NAMES = ["hall_000001", "oxford_000002", "hall_000003", "gate_000001", "gate_000002"]
NONE = np.zeros((0, 0))
LAYOUT = {
    "imlist": NAMES,
    "qidx": np.array([[2.0, 4.0]]),
    "gnd": [
        {
            "ok": np.array([[3.0, 1.0, 2.0]]),
            "junk": np.array([[5.0]]),
            "bbx": np.array([[10.5, 20.0, 60.0, 80.5]]),
        },
        {"ok": np.array([[4.0]]), "junk": NONE, "bbx": NONE},
    ],
}


def write(tmp_path, writer=write_5, **changes):
    path = tmp_path / "gnd_tiny5k.mat"
    layout = LAYOUT | changes
    writer(path, layout | {"gnd": StructArray(layout["gnd"])})
    return path


@pytest.mark.parametrize("writer", [write_5, write_73])
def test_numbers_count_from_0_in_the_order_of_the_descriptors(tmp_path, writer):
    got = read_released_truth(write(tmp_path, writer))
    assert (got.name, got.database) == ("tiny5k", tuple(NAMES))
    assert got.queries == ("oxford_000002", "gate_000001")
    assert [p.tolist() for p in got.positives] == [[0, 1, 2], [3]]
    assert [j.tolist() for j in got.junk] == [[4], []]
    # Boxes stay as they are; without one the whole picture is asked for.
    assert got.boxes == ((10.5, 20, 60, 80.5), None)
    # A picture of no landmark's name shows what most of its answers are named by.
    assert got.objects == ("hall", "gate")


def test_queries_may_be_named_instead_of_numbered(tmp_path):
    records = [{"ok": r["ok"], "junk": r["junk"]} for r in LAYOUT["gnd"]]
    path = tmp_path / "gnd_named.mat"
    named = {"imlist": NAMES, "qimlist": ["q1", "q2"], "gnd": StructArray(records)}
    write_5(path, named)
    got = read_released_truth(path, name="mine")
    assert (got.name, got.queries, got.boxes) == ("mine", ("q1", "q2"), (None, None))


def test_numbered_queries_keep_the_order_of_their_records(tmp_path):
    records = [LAYOUT["gnd"][1], LAYOUT["gnd"][0], LAYOUT["gnd"][0]]
    path = write(tmp_path, qidx=np.array([[4.0, 2.0, 2.0]]), gnd=records)
    got = read_released_truth(path)
    assert got.queries == ("gate_000001", "oxford_000002", "oxford_000002")
    assert [p.tolist() for p in got.positives] == [[3], [0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qidx": np.array([[2.0, 9.0]])}, "qidx"),
        ({"qidx": np.array([[2.0]])}, "a struct for each of 1 queries, got 2"),
        ({"imlist": [*NAMES[:4], NAMES[0]]}, "name every picture once"),
        (
            {"gnd": [{"ok": np.array([[9.0]]), "junk": NONE}] * 2},
            r"query 0 \(oxford_000002\), ok",
        ),
        (
            {"gnd": [{"ok": np.array([[1.0]]), "junk": np.array([[1.0]])}] * 2},
            "hall_000001",
        ),
        ({"gnd": [{"ok": NONE}] * 2}, "must have numbers ok and junk, got"),
    ],
    ids=["beyond", "fewer", "twice", "no picture", "both", "no junk"],
)
def test_other_layouts_are_refused_in_one_line(tmp_path, changes, message):
    path = write(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        read_released_truth(path)
    assert "\n" not in str(caught.value)


def test_a_file_without_queries_says_what_it_holds(tmp_path):
    path = tmp_path / "gnd_other.mat"
    write_5(path, {"imlist": NAMES})
    with pytest.raises(ValueError, match=r"must hold imlist, gnd .* got \['imlist'\]"):
        read_released_truth(path)
