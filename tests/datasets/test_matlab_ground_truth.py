"""Ground truths in MATLAB files: of released descriptors, and of INSTRE."""

import jaxtyping
import numpy as np
import pytest
from matlab_files import StructArray, write_5, write_73

from diffjax.datasets import read_released_truth
from diffjax.datasets._matlab_ground_truth import read_instre
from diffjax.evaluation import average_precision

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
def test_answers_are_positions_from_0_in_the_order_of_the_descriptors(tmp_path, writer):
    got = read_released_truth(write(tmp_path, writer))
    assert (got.name, got.database) == ("tiny5k", tuple(NAMES))
    assert got.queries == ("oxford_000002", "gate_000001")
    assert [p.tolist() for p in got.positives] == [[0, 1, 2], [3]]
    assert [j.tolist() for j in got.junk] == [[4], []]
    # Boxes are unchanged; without one the query is the whole picture.
    assert got.boxes == ((10.5, 20, 60, 80.5), None)
    # A query without a landmark in its name has the most frequent one of its answers.
    assert got.objects == ("hall", "gate")


def test_queries_may_be_names_instead_of_numbers(tmp_path):
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


def test_a_file_without_queries_is_refused_with_its_content(tmp_path):
    path = tmp_path / "gnd_other.mat"
    write_5(path, {"imlist": NAMES})
    with pytest.raises(ValueError, match=r"must hold imlist, gnd .* got \['imlist'\]"):
        read_released_truth(path)


BOX = np.array([[326.0, 219.0, 670.0, 493.0]])
INSTRE_LAYOUT = {
    "imlist": ["S1/cup/1.jpg", "S1/jug/1.jpg", "M/01/1.jpg", "M/01/2.jpg"],
    "qimlist": ["S1/cup/9.jpg", "M/01/9.jpg"],
    "gnd": [
        {"ok": np.array([[4.0, 1.0]]), "bbx": np.array([[1.0, 1.0, 106.0, 78.0]])},
        {"ok": np.zeros((0, 0)), "bbx": BOX},
    ],
}


def changed(key, value, query=None):
    """The layout with one entry changed, of a query's record if one is named."""
    records = [dict(record) for record in INSTRE_LAYOUT["gnd"]]
    layout = INSTRE_LAYOUT | {"gnd": records}
    (layout if query is None else records[query])[key] = value
    return layout


@pytest.fixture
def write_instre(tmp_path):
    """Writes a layout as MATLAB would."""

    def write_instre(layout, writer=write_5):
        path = tmp_path / "gnd_tiny.mat"
        if isinstance(layout.get("gnd"), list):
            layout = layout | {"gnd": StructArray(layout["gnd"])}
        writer(path, layout)
        return path

    return write_instre


@pytest.mark.parametrize("writer", [write_5, write_73])
def test_answers_and_pixels_start_at_0_and_nothing_is_junk(write_instre, writer):
    got = read_instre(write_instre(INSTRE_LAYOUT, writer))
    assert got.name == "tiny"
    assert got.database == tuple(INSTRE_LAYOUT["imlist"])
    assert got.queries == ("S1/cup/9.jpg", "M/01/9.jpg")
    # Pixels 1 to 106 of MATLAB, both included, are 0 to 106 without the last.
    assert got.boxes == ((0, 0, 106, 78), (325, 218, 670, 493))
    assert [p.tolist() for p in got.positives] == [[0, 3], []]
    assert [j.tolist() for j in got.junk] == [[], []]
    assert got.objects == ("S1/cup", "M/01")


def test_a_single_query_is_no_array_of_structs(write_instre):
    layout = INSTRE_LAYOUT | {"qimlist": ["q.jpg"], "gnd": INSTRE_LAYOUT["gnd"][:1]}
    assert read_instre(write_instre(layout), name="one").positives[0].tolist() == [0, 3]


@pytest.mark.parametrize(
    ("layout", "complaint"),
    [
        (
            {"knn_": BOX, "s_": BOX},
            r"must hold imlist, qimlist and gnd .*, got \['knn_', 's_'\]",
        ),
        (changed("imlist", BOX), "imlist must be a cell of names, got ndarray"),
        (changed("qimlist", ["q", BOX]), "qimlist must be a cell .* with ndarray"),
        (changed("qimlist", ["q"]), "a struct for each of 1 queries, got 2"),
        (INSTRE_LAYOUT | {"gnd": BOX}, "a struct for each of 2 queries, got ndarray"),
        (
            INSTRE_LAYOUT | {"gnd": [{"easy": BOX, "bbx": BOX}] * 2},
            r"query 0 \(S1/cup/9.jpg\): must have numbers ok and bbx, got \['bbx', 'ea",
        ),
        (changed("ok", "abc", query=1), "query 1 .*: must have numbers ok and bbx"),
        (changed("ok", np.array([[5.0]]), query=1), r"ok: .* from 1 to 4, got 5\.0\."),
        (changed("ok", np.array([[0.0]]), query=1), r"ok: .* from 1 to 4, got 0\.0\."),
        (changed("ok", np.array([[1.5]]), query=1), r"ok: .* from 1 to 4, got 1\.5\."),
        (changed("bbx", BOX[:, :3], query=1), r"query 1 \(M/01/9.jpg\): a box must be"),
        (changed("bbx", BOX * [[0, 1, 1, 1]], query=1), "a box must have 0 <= x0"),
        (changed("imlist", ["a"] * 4), "must name every picture once, got 1"),
    ],
)
def test_a_file_of_another_layout_is_refused(write_instre, layout, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_instre(write_instre(layout))


@pytest.fixture(scope="module")
def published(shared_data):
    """The file as it was published."""
    # Checking the calls for each of its 31,000 values took half a minute.
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        return read_instre(shared_data / "ground_truth" / "gnd_instre.mat")
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_the_published_file_has_its_known_totals(published):
    assert published.name == "instre"
    assert len(published.database) == 27293
    assert len(published.queries) == 1250
    assert sum(map(len, published.positives)) == 241250
    assert not any(map(len, published.junk))
    assert not set(published.queries) & set(published.database)
    assert set(np.unique(published.objects, return_counts=True)[1]) == {5}
    corners = np.array(published.boxes)
    np.testing.assert_array_equal(corners.min(0), [0, 0, 106, 78])
    np.testing.assert_array_equal(corners.max(0), [827, 575, 999, 995])


def test_positives_of_the_published_file_are_in_other_folders_too(published):
    folder = published.objects[0]
    names = [published.database[i] for i in published.positives[0]]
    assert {name.rpartition("/")[0] for name in names} == {folder, "INSTRE-M/01"}


def test_the_best_ranking_of_the_published_file_is_perfect(published):
    answers = np.arange(len(published.database))
    for query in range(0, 1250, 125):
        positives = published.positives[query]
        assert len(positives) > 0
        best = np.concatenate([positives, np.setdiff1d(answers, positives)])
        assert average_precision(best, positives, published.junk[query]) == 1.0
