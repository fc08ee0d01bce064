import pathlib

import numpy as np
import PIL.Image
import pytest

from diffjax.datasets._ground_truth import (
    GroundTruth,
    attach_pictures,
    read_box,
    read_picture_list,
    read_positions,
)
from diffjax.images import find_pictures

EMPTY = np.zeros(0, np.int64)


def truth_of(database, queries=("q",), **changes):
    """Ground truth whose queries have no answers, with some fields changed."""
    count = len(queries)
    fields = {
        "name": "tiny",
        "database": tuple(database),
        "queries": tuple(queries),
        "boxes": (None,) * count,
        "positives": (EMPTY,) * count,
        "junk": (EMPTY,) * count,
        "objects": ("thing",) * count,
    }
    return GroundTruth(**(fields | changes))


@pytest.fixture
def fill(tmp_path):
    """Writes tiny pictures of these names into a folder."""

    def write(*names, folder="pictures"):
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.new("RGB", (16, 16)).save(path, "PNG")
        return tmp_path / folder

    return write


def test_names_without_suffix_match_pictures_in_any_depth(fill):
    folder = fill("z_1.jpg", "deep/er/a_2.PNG", "deep/q_3.jpeg", "other.png")
    truth = truth_of(
        ["z_1", "a_2"],
        ["q_3", "z_1"],
        boxes=((1, 2, 30.5, 40), None),
        positives=(np.array([1]), np.array([0])),
        junk=(np.array([0]), EMPTY),
        objects=("cup", "jug"),
    )
    got = attach_pictures(truth, folder)
    assert got.folder == folder
    # In the order of the ground truth, which its answers refer to.
    assert got.database == (folder / "z_1.jpg", folder / "deep/er/a_2.PNG")
    assert got.queries == (folder / "deep/q_3.jpeg", folder / "z_1.jpg")
    assert got[4:] == truth[3:]
    assert got.name == "tiny"


def test_folders_in_names_distinguish_pictures(fill):
    folder = fill("all/S1/cup/001.jpg", "all/S1/jug/001.jpg", "all/M/jug/001.jpg")
    names = ["S1/jug/001.jpg", "S1/cup/001.jpg", "M/jug/001.jpg"]
    got = attach_pictures(truth_of(names, names[:1]), folder)
    assert got.database == tuple(folder / "all" / name for name in names)


def test_the_end_of_a_longer_name_does_not_match(fill):
    folder = fill("new_all_souls_1.jpg", "q.jpg")
    with pytest.raises(ValueError, match=r"for 1 of 2: all_souls_1\."):
        attach_pictures(truth_of(["all_souls_1"]), folder)


def test_of_two_pictures_of_a_name_the_one_in_fewer_folders_matches(fill):
    folder = fill("old/a.jpg", "a.jpg", "q.jpg")
    assert attach_pictures(truth_of(["a"]), folder).database == (folder / "a.jpg",)


@pytest.mark.parametrize("pair", [("x/a.jpg", "y/a.jpg"), ("a.jpg", "a.png")])
def test_an_ambiguous_name_is_refused(fill, pair):
    folder = fill(*pair, "q.jpg")
    with pytest.raises(ValueError, match=r"several for 1 of 2: 'a' could be .* and "):
        attach_pictures(truth_of(["a"]), folder)


def test_missing_pictures_are_counted_and_all_named(fill):
    folder = fill("a00.jpg")
    names = [f"a{i:02}" for i in range(13)]
    with pytest.raises(ValueError, match="folder must hold all pictures") as error:
        attach_pictures(
            truth_of(names, ["q", "a00"]), folder, distractors=["nowhere.jpg"]
        )
    shown = ", ".join([*names[1:], "q", "nowhere.jpg"])
    # 12 of the database, a query and a distractor.
    assert f"for 14 of 15: {shown}." in str(error.value)
    assert "\n" not in str(error.value)


def test_distractors_follow_the_database_and_the_name_may_change(fill):
    folder = fill("b.jpg", "q.jpg")
    distractors = find_pictures(fill("2.jpg", "sub/1.jpg", folder="flickr"))
    truth = truth_of(["b"], positives=(np.array([0]),))
    got = attach_pictures(truth, folder, distractors=distractors, name="tiny+2")
    assert got.name == "tiny+2"
    assert got.database == (folder / "b.jpg", *distractors)
    assert got.positives[0].tolist() == [0]


def test_a_distractor_that_is_in_the_ground_truth_is_refused(fill):
    folder = fill("b.jpg", "q.jpg")
    truth = truth_of(["b"])
    same_path = folder / ".." / folder.name / "b.jpg"
    with pytest.raises(ValueError, match="database must name every picture once, got"):
        attach_pictures(truth, folder, distractors=[same_path])
    with pytest.raises(ValueError, match=r"no query picture, got 1: .*q\.jpg\."):
        attach_pictures(truth, folder, distractors=[folder / "q.jpg"])


def test_two_names_for_one_picture_are_refused(fill):
    folder = fill("b.jpg", "q.jpg")
    with pytest.raises(ValueError, match="must name every picture once, got 1"):
        attach_pictures(truth_of(["b", "b.jpg"]), folder)


def test_a_missing_or_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="folder must be an existing folder"):
        attach_pictures(truth_of(["a"]), tmp_path / "nowhere")
    with pytest.raises(ValueError, match="folder must hold pictures"):
        attach_pictures(truth_of(["a"]), tmp_path)


def test_a_list_of_distractors_is_read_line_by_line(tmp_path):
    path = tmp_path / "revisitop1m.txt"
    path.write_bytes(b"0/a b.jpg\r\n0/c.jpg\r\n\r\n1/a b.jpg")
    names = read_picture_list(path)
    assert names == ("0/a b.jpg", "0/c.jpg", "1/a b.jpg")


def test_pictures_of_a_list_are_distractors_with_their_folder_in_front(fill, tmp_path):
    folder, million = fill("b.jpg", "q.jpg"), fill("1/a.jpg", "0/a.jpg", folder="jpg")
    path = tmp_path / "list.txt"
    path.write_text("1/a.jpg\n0/a.jpg\n")
    distractors = [million / name for name in read_picture_list(path)]
    got = attach_pictures(truth_of(["b"]), folder, distractors=distractors)
    assert got.database[1:] == (million / "1/a.jpg", million / "0/a.jpg")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"\n \n", r"list\.txt must name a picture in each line, got no line"),
        (b"a.jpg\n/etc/b.jpg\n", r"paths within a folder, got '/etc/b\.jpg'"),
        (b"a/../../b.jpg\n", r"paths within a folder, got 'a/\.\./\.\./b\.jpg'"),
        (b"a.jpg\nb.jpg\na.jpg\n", r"every picture once, got 1 more often: a\.jpg\."),
        (b"\xff.jpg\n", r"list\.txt must be a text in UTF-8, got "),
    ],
)
def test_a_bad_list_of_distractors_is_refused(tmp_path, text, complaint):
    path = tmp_path / "list.txt"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=complaint):
        read_picture_list(path)


def test_integral_corners_of_a_box_are_ints():
    got = read_box(["130.000000", 17.0, "843.5", 732], source="here")
    assert got == (130, 17, 843.5, 732)
    assert [type(corner) for corner in got] == [int, int, float, int]


@pytest.mark.parametrize(
    ("corners", "complaint"),
    [
        ([1, 2, 3], r"here: a box must be four numbers x0,y0,x1,y1, got '1,2,3'"),
        ([1, 2, 30, 40, 5], "four numbers"),
        ([1, 2, None, 40], "four numbers"),
        ([1, 2, 10**400, 40], "four numbers"),
        ([-1, 2, 30, 40], r"0 <= x0 < x1 and 0 <= y0 < y1, got -1,2,30,40"),
        ([1, 40, 30, 40], "0 <= x0 < x1"),
        ([1, 2, float("nan"), 40], "0 <= x0 < x1"),
        ([1, 2, float("inf"), 40], "0 <= x0 < x1"),
        ([0.1, 0.1, 0.9, 0.9], r"8 px or more on each side, .* not fractions"),
    ],
)
def test_an_invalid_box_is_refused(corners, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_box(corners, source="here")


def test_positions_are_ascending_and_unique():
    got = read_positions(np.array([[3.0, 1.0, 3.0]]), size=3, source="here", first=1)
    assert got.tolist() == [0, 2]
    assert got.dtype == np.int64
    assert read_positions([], size=0, source="here").dtype == np.int64


@pytest.mark.parametrize("number", [-1, 3, 0.5, np.nan, np.inf])
def test_numbers_beyond_the_pictures_are_refused(number):
    with pytest.raises(ValueError, match=r"here: .* from 0 to 2, got ") as error:
        read_positions([1, number], size=3, source="here")
    assert str(error.value).endswith(f"got {np.asarray([1, number])[1]}.")


@pytest.mark.parametrize("numbers", [["1"], [True], [None], [1j]])
def test_other_values_than_numbers_are_refused(numbers):
    with pytest.raises(ValueError, match="here: must be numbers of pictures, got"):
        read_positions(numbers, size=3, source="here")


def test_paths_may_be_strings(fill):
    folder = fill("b.jpg", "q.jpg", "c.jpg")
    distractor = str(folder / "c.jpg")
    got = attach_pictures(truth_of(["b"]), str(folder), distractors=[distractor])
    assert got.database == (folder / "b.jpg", pathlib.Path(distractor))
