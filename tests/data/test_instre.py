import jaxtyping
import numpy as np
import pytest
from matlab_files import StructArray, write_5, write_73

from diffjax.data._instre import read_instre
from diffjax.evaluation import average_precision

BOX = np.array([[326.0, 219.0, 670.0, 493.0]])
LAYOUT = {
    "imlist": ["S1/cup/1.jpg", "S1/jug/1.jpg", "M/01/1.jpg", "M/01/2.jpg"],
    "qimlist": ["S1/cup/9.jpg", "M/01/9.jpg"],
    "gnd": [
        {"ok": np.array([[4.0, 1.0]]), "bbx": np.array([[1.0, 1.0, 106.0, 78.0]])},
        {"ok": np.zeros((0, 0)), "bbx": BOX},
    ],
}


def changed(key, value, query=None):
    """The layout with one entry changed, of a query's record if one is named."""
    records = [dict(record) for record in LAYOUT["gnd"]]
    layout = LAYOUT | {"gnd": records}
    (layout if query is None else records[query])[key] = value
    return layout


@pytest.fixture
def write(tmp_path):
    """Writes a layout as MATLAB would."""

    def write(layout, writer=write_5):
        path = tmp_path / "gnd_tiny.mat"
        if isinstance(layout.get("gnd"), list):
            layout = layout | {"gnd": StructArray(layout["gnd"])}
        writer(path, layout)
        return path

    return write


@pytest.mark.parametrize("writer", [write_5, write_73])
def test_numbers_and_pixels_count_from_0_and_nothing_is_junk(write, writer):
    got = read_instre(write(LAYOUT, writer))
    assert got.name == "tiny"
    assert got.database == tuple(LAYOUT["imlist"])
    assert got.queries == ("S1/cup/9.jpg", "M/01/9.jpg")
    # Pixels 1 to 106 of MATLAB, both included, are 0 to 106 without the last.
    assert got.boxes == ((0, 0, 106, 78), (325, 218, 670, 493))
    assert [p.tolist() for p in got.positives] == [[0, 3], []]
    assert [j.tolist() for j in got.junk] == [[], []]
    assert got.objects == ("S1/cup", "M/01")


def test_a_single_query_is_no_array_of_structs(write):
    layout = LAYOUT | {"qimlist": ["q.jpg"], "gnd": LAYOUT["gnd"][:1]}
    assert read_instre(write(layout), name="one").positives[0].tolist() == [0, 3]


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
        (LAYOUT | {"gnd": BOX}, "a struct for each of 2 queries, got ndarray"),
        (
            LAYOUT | {"gnd": [{"easy": BOX, "bbx": BOX}] * 2},
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
def test_a_file_of_another_layout_is_refused(write, layout, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_instre(write(layout))


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


def test_right_answers_of_the_published_file_lie_in_other_folders_too(published):
    own = published.objects[0]
    names = [published.database[i] for i in published.positives[0]]
    assert {name.rpartition("/")[0] for name in names} == {own, "INSTRE-M/01"}


def test_the_best_ranking_of_the_published_file_is_perfect(published):
    answers = np.arange(len(published.database))
    for query in range(0, 1250, 25):
        positives = published.positives[query]
        assert len(positives) > 0
        best = np.concatenate([positives, np.setdiff1d(answers, positives)])
        assert average_precision(best, positives, published.junk[query]) == 1.0
