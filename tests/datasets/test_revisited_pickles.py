import os
import pickle

import numpy as np
import pytest

from diffjax.datasets._oxford_paris import (
    read_oxford,
    read_revisited,
    read_revisited_names,
)
from diffjax.evaluation import average_precision

LAYOUT = {
    "imlist": ["hall_3", "tower_1", "oxford_1", "hall_2", "oxford_2"],
    "qimlist": ["hall_1", "oxford_9"],
    "gnd": [
        {"bbx": [136.5, 34.1, 648.5, 955], "easy": [0], "hard": [3], "junk": [1, 4]},
        {"bbx": [0, 0, 90, 80], "easy": [], "hard": [4, 2, 1], "junk": [0]},
    ],
}


@pytest.fixture
def write(tmp_path):
    """Writes a value as a pickle like that of the benchmark."""

    def write(value, protocol=2):
        path = tmp_path / "gnd_rtiny.pkl"
        path.write_bytes(
            value if isinstance(value, bytes) else pickle.dumps(value, protocol)
        )
        return path

    return write


def changed(key, value, query=None):
    """The layout with one entry changed, of a query's record if one is named."""
    records = [dict(record) for record in LAYOUT["gnd"]]
    layout = LAYOUT | {"gnd": records}
    (layout if query is None else records[query])[key] = value
    return layout


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_the_protocols_differ_in_positives_and_junk(write, protocol):
    got = read_revisited(write(LAYOUT, protocol))
    assert [p.tolist() for p in got.easy.positives] == [[0], []]
    assert [j.tolist() for j in got.easy.junk] == [[1, 3, 4], [0, 1, 2, 4]]
    assert [p.tolist() for p in got.medium.positives] == [[0, 3], [1, 2, 4]]
    assert [j.tolist() for j in got.medium.junk] == [[1, 4], [0]]
    assert [p.tolist() for p in got.hard.positives] == [[3], [1, 2, 4]]
    assert [j.tolist() for j in got.hard.junk] == [[0, 1, 4], [0]]
    for kind, truth in got._asdict().items():
        assert truth.name == f"rtiny-{kind}"
        assert truth.database == tuple(LAYOUT["imlist"])
        assert truth.queries == ("hall_1", "oxford_9")
        assert truth.boxes == ((136.5, 34.1, 648.5, 955), (0, 0, 90, 80))
        # Names of the city do not count; of the others, most are of the tower.
        assert truth.objects == ("hall", "tower")


def test_names_of_the_city_count_if_there_is_no_other(write):
    layout = changed("hard", [4, 2], query=1)
    assert read_revisited(write(layout)).easy.objects[1] == "oxford"


def test_the_original_database_holds_the_query_pictures_too(write):
    names = read_revisited_names(write(LAYOUT))
    assert names == tuple(sorted(LAYOUT["imlist"] + LAYOUT["qimlist"]))


def test_a_pickle_that_names_a_class_runs_nothing(write, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    complaint = r"rtiny\.pkl: no readable pickle: it asks for \w+\.mkdir, which no "
    with pytest.raises(ValueError, match=complaint):
        read_revisited(write(changed("easy", Hostile(), query=0)))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"\w"),
        (b"no pickle at all", r"\w"),
        (pickle.dumps(LAYOUT)[:-40], r"\w"),
        (b"\x80\x04\x8d" + (1 << 40).to_bytes(8, "little") + b"x.", "expected 1099511"),
        (
            b"\x80\x02]r\xff\xff\xff\x7f.",
            "it numbers an object 2147483647, of at most 2",
        ),
        (b"\x80\x02\x82\x01.", "it asks for an object by its number"),
    ],
    ids=["empty", "text", "cut", "long text", "high number", "registry"],
)
def test_a_damaged_pickle_is_refused(write, content, reason):
    with pytest.raises(ValueError, match=rf"rtiny\.pkl: no readable pickle: {reason}"):
        read_revisited(write(content))


@pytest.mark.parametrize(
    ("layout", "complaint"),
    [
        ([1], "must hold a dict of lists imlist, qimlist and gnd, got list"),
        ({"a": 1}, r"lists imlist, qimlist and gnd, got \['a'\]"),
        (changed("imlist", "abc"), "got str as imlist"),
        (changed("imlist", ["a", 1]), "imlist must hold str, got int"),
        (changed("gnd", [[1], {}]), "gnd must hold dict, got list"),
        (changed("qimlist", ["q"]), "one record for each of 1 queries, got 2"),
        (changed("imlist", ["a"] * 5), "must name every picture once, got 1"),
        (LAYOUT | {"gnd": [], "qimlist": []}, "must have queries, got none"),
        (
            changed("gnd", [{"bbx": [0, 0, 9, 9], "ok": [1]}] * 2),
            r"query 0 \(hall_1\): must have lists .*, got no easy among \['bbx', 'ok'",
        ),
        (changed("bbx", [0, 0, 9], query=1), r"query 1 \(oxford_9\): a box must be"),
        (changed("bbx", [9, 0, 0, 9], query=1), "a box must have 0 <= x0 < x1"),
        (changed("hard", [5], query=1), r"\(oxford_9\), hard: .* from 0 to 4, got 5\."),
        (changed("junk", [-1], query=1), r"junk: .* from 0 to 4, got -1\."),
        (
            changed("junk", [1.0], query=1),
            r"junk: must be numbers of pictures, got 1\.0",
        ),
        (changed("junk", [True], query=1), "must be numbers of pictures, got True"),
        (changed("junk", [2], query=1), r"right and junk, got 'oxford_1' in both"),
    ],
)
def test_a_pickle_of_another_layout_is_refused(write, layout, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_revisited(write(layout))


def test_a_query_picture_in_the_database_has_its_name_twice(write):
    with pytest.raises(ValueError, match=r"every picture once, got 1 .*: hall_2\."):
        read_revisited_names(write(changed("qimlist", ["hall_2", "q"])))


@pytest.fixture(scope="module", params=["oxford5k", "paris6k"])
def published_pickles(request, shared_data):
    """One of the two published benchmarks, original and revisited."""
    folder = shared_data / "ground_truth"
    path = folder / f"gnd_r{request.param}.pkl"
    original = read_oxford(folder / request.param, read_revisited_names(path))
    return original, read_revisited(path)


def test_the_published_pickles_have_their_known_totals(published_pickles):
    _, got = published_pickles
    pictures, easy, hard, junk, without = {
        "roxford5k-easy": (4993, 3029, 2497, 1356, 2),
        "rparis6k-easy": (6322, 6874, 10350, 7153, 0),
    }[got.easy.name]
    counts = {
        kind: (sum(map(len, truth.positives)), sum(map(len, truth.junk)))
        for kind, truth in got._asdict().items()
    }
    assert counts == {
        "easy": (easy, hard + junk),
        "medium": (easy + hard, junk),
        "hard": (hard, easy + junk),
    }
    assert len(got.easy.database) == pictures
    assert len(got.easy.queries) == 70
    assert sum(not len(p) for p in got.easy.positives) == without
    assert not set(got.easy.queries) & set(got.easy.database)


def test_the_first_queries_are_the_original_ones_with_their_landmarks(
    published_pickles,
):
    original, got = published_pickles
    assert got.medium.queries[:55] == original.queries
    assert got.medium.boxes[:55] == original.boxes
    landmarks = [name.removeprefix("paris_") for name in got.medium.objects]
    assert landmarks[:55] == list(original.objects)
    # Three queries more for each of five landmarks.
    assert set(np.unique(landmarks[55:], return_counts=True)[1]) == {3}
    assert set(landmarks[55:]) <= set(original.objects)


def test_the_best_ranking_of_the_published_pickles_is_perfect(published_pickles):
    for truth in published_pickles[1]:
        answers = np.arange(len(truth.database))
        for positives, junk in list(zip(truth.positives, truth.junk, strict=True))[
            ::14
        ]:
            rest = np.setdiff1d(answers, np.concatenate([positives, junk]))
            best = np.concatenate([junk, positives, rest])
            expected = 1.0 if len(positives) else np.nan
            np.testing.assert_equal(average_precision(best, positives, junk), expected)
