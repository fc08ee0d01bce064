import numpy as np
import pytest

from diffjax.datasets._oxford_paris import read_oxford, read_revisited_names
from diffjax.evaluation import average_precision

NAMES = ("hall_1", "hall_2", "hall_3", "tower_1", "tower_2", "town_1")


@pytest.fixture
def folder(tmp_path):
    """Text files of two queries on six pictures."""
    files = {
        # As in all_souls_1_good.txt, a name is there twice, and once more below.
        "old_hall_1_query.txt": "oxc1_hall_1 136.5 34.1 648.5 955.7\n",
        "old_hall_1_good.txt": "hall_1\nhall_1\ntown_1\n",
        "old_hall_1_ok.txt": "hall_2\nhall_1",
        "old_hall_1_junk.txt": "hall_3\n",
        # As in Paris6k: no prefix, whole numbers with decimals, nothing good.
        "tower_2_query.txt": "tower_2 130.000000 17.000000 843.000000 732.000000",
        "tower_2_good.txt": "",
        "tower_2_ok.txt": "tower_2\r\n\r\ntower_1\r\n",
        "tower_2_junk.txt": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode())
    return tmp_path


def test_positives_are_good_and_ok_pictures_with_the_query(folder):
    got = read_oxford(folder, NAMES, name="tiny")
    assert got.name == "tiny"
    assert got.database == NAMES
    assert got.queries == ("hall_1", "tower_2")
    assert got.boxes == ((136.5, 34.1, 648.5, 955.7), (130, 17, 843, 732))
    assert [p.tolist() for p in got.positives] == [[0, 1, 5], [3, 4]]
    assert [j.tolist() for j in got.junk] == [[2], []]
    assert got.objects == ("old_hall", "tower")
    assert {p.dtype for p in got.positives + got.junk} == {np.dtype(np.int64)}


def test_answers_are_positions_in_the_database(folder):
    forward, backward = read_oxford(folder, NAMES), read_oxford(folder, NAMES[::-1])
    for one, other in zip(forward.positives, backward.positives, strict=True):
        assert sorted(5 - other) == one.tolist()


def test_the_default_name_is_that_of_the_folder(folder):
    assert read_oxford(folder, NAMES).name == folder.name


def test_a_prefix_that_is_part_of_a_name_is_kept(folder):
    (folder / "tower_2_query.txt").write_text("oxc1_x 0 0 10 10")
    assert read_oxford(folder, [*NAMES, "oxc1_x"]).queries[1] == "oxc1_x"


def test_missing_files_are_named(folder):
    (folder / "tower_2_good.txt").unlink()
    (folder / "old_hall_1_query.txt").unlink()
    complaint = r"got 2 of 8 missing in .*: old_hall_1_query.txt, tower_2_good.txt\."
    with pytest.raises(ValueError, match=complaint):
        read_oxford(folder, NAMES)


def test_a_missing_folder_or_one_without_queries_is_refused(tmp_path):
    with pytest.raises(ValueError, match="folder must be an existing folder"):
        read_oxford(tmp_path / "nowhere", NAMES)
    with pytest.raises(ValueError, match=r"must hold \*_query.txt files, got none"):
        read_oxford(tmp_path, NAMES)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", r"tower_2_query.txt must be one line NAME x0 y0 x1 y1, got ''\."),
        ("tower_2 1 2 30", "must be one line NAME x0 y0 x1 y1, got 'tower_2 1 2 30'"),
        ("tower_2 1 2 30 40\ntower_2 1 2 30 40", "must be one line"),
        ("tower_2 1 2 30 x", r"tower_2_query.txt: a box must be four numbers"),
        ("tower_2 30 2 1 40", r"tower_2_query.txt: a box must have 0 <= x0 < x1"),
        ("tower_2 1 2 3 4", "a box must have 8 px or more"),
    ],
)
def test_a_query_line_of_another_form_is_refused(folder, line, complaint):
    (folder / "tower_2_query.txt").write_text(line)
    with pytest.raises(ValueError, match=complaint):
        read_oxford(folder, NAMES)


def test_names_missing_in_the_database_are_counted_and_all_named(folder):
    unknown = [f"unknown_{i:02}" for i in range(12)]
    (folder / "tower_2_junk.txt").write_text("\n".join(unknown + unknown))
    with pytest.raises(ValueError, match="database must hold all pictures") as error:
        read_oxford(folder, [name for name in NAMES if name != "hall_1"])
    listed = ", ".join(["hall_1", *unknown])
    assert f"got 5 without 13 of them: {listed}." in str(error.value)


def test_a_duplicate_database_name_is_refused(folder):
    with pytest.raises(ValueError, match=r"every picture once, .* 1 .*: hall_2\."):
        read_oxford(folder, [*NAMES, "hall_2"])


def test_a_picture_that_is_right_and_junk_is_refused(folder):
    (folder / "old_hall_1_junk.txt").write_text("hall_2")
    complaint = r"query 0 \(hall_1\): .* right and junk, got 'hall_2' in both"
    with pytest.raises(ValueError, match=complaint):
        read_oxford(folder, NAMES)


@pytest.fixture(scope="module", params=["oxford5k", "paris6k"])
def published(request, shared_data):
    """One of the two published ground truths."""
    folder = shared_data / "ground_truth"
    names = read_revisited_names(folder / f"gnd_r{request.param}.pkl")
    return read_oxford(folder / request.param, names)


def test_the_published_files_have_their_known_totals(published):
    pictures, right, junk = {
        # One of 1361 good names is there twice.
        "oxford5k": (5063, 1360 + 1480, 1495),
        "paris6k": (6392, 8955, 8245),
    }[published.name]
    assert len(published.database) == pictures
    assert len(published.queries) == 55
    assert sum(map(len, published.positives)) == right
    assert sum(map(len, published.junk)) == junk
    landmarks, counts = np.unique(published.objects, return_counts=True)
    assert len(landmarks) == 11
    assert set(counts) == {5}
    for query, positives in zip(published.queries, published.positives, strict=True):
        assert published.database.index(query) in positives


def test_the_best_ranking_of_the_published_files_is_perfect(published):
    for positives, junk in list(zip(published.positives, published.junk, strict=True))[
        ::9
    ]:
        answers = np.arange(len(published.database))
        rest = np.setdiff1d(answers, positives)
        best = np.concatenate([junk[:3], positives, np.setdiff1d(rest, junk[:3])])
        assert average_precision(best, positives, junk) == 1.0
