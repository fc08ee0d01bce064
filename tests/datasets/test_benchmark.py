import numpy as np
import PIL.Image
import pytest

from diffjax.datasets import Scene, SceneCollection, classes_benchmark, scenes_benchmark
from diffjax.datasets._benchmark import folder_benchmark


@pytest.fixture
def folders(tmp_path):
    """Writes a database and a query folder of tiny pictures with these names."""

    def make(database, queries):
        for folder, names in (("database", database), ("queries", queries)):
            for name in names:
                path = tmp_path / folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                PIL.Image.new("RGB", (16, 16)).save(path)
        return tmp_path / "database", tmp_path / "queries"

    return make


def test_positives_are_the_pictures_of_the_same_folder_name(folders):
    database, queries = folders(
        ["cups/b.png", "cups/a.jpg", "jugs/c.png", "lids/d.png"],
        ["jugs/q.png", "cups/q.png", "cups/r.png"],
    )
    got = classes_benchmark("crockery", database, queries)
    assert got.name == "crockery"
    assert got.folder == database
    names = "cups/a.jpg", "cups/b.png", "jugs/c.png", "lids/d.png"
    assert got.database == tuple(database / name for name in names)
    asked = "cups/q.png", "cups/r.png", "jugs/q.png"
    assert got.queries == tuple(queries / name for name in asked)
    assert got.objects == ("cups", "cups", "jugs")
    assert [p.tolist() for p in got.positives] == [[0, 1], [0, 1], [2]]
    assert [j.size for j in got.junk] == [0, 0, 0]
    assert got.boxes == (None, None, None)


def test_classes_in_nested_folders_have_their_full_path(folders):
    # Two classes share the last part of their names.
    database, queries = folders(
        ["dairy/milk/1.png", "soy/milk/1.png", "soy/milk/2.png"], ["soy/milk/q.png"]
    )
    got = classes_benchmark("milk", database, queries)
    assert got.objects == ("soy/milk",)
    assert got.positives[0].tolist() == [1, 2]


def test_fields_of_queries_have_one_entry_per_query(folders):
    database, queries = folders(["a/1.png", "b/1.png"], ["a/q.png", "b/q.png"])
    got = classes_benchmark("two", database, queries)
    fields = got.queries, got.boxes, got.positives, got.junk, got.objects
    assert {len(field) for field in fields} == {2}


def test_a_query_of_an_unknown_class_is_refused(folders):
    database, queries = folders(["a/1.png"], ["a/q.png", "b/q.png"])
    with pytest.raises(ValueError, match="queries must show known classes, got 'b'"):
        classes_benchmark("one", database, queries)


def test_a_missing_or_empty_folder_is_refused(folders, tmp_path):
    database, _ = folders(["a/1.png"], [])
    with pytest.raises(ValueError, match="folder must be an existing folder"):
        classes_benchmark("one", database, tmp_path / "nowhere")
    (tmp_path / "queries").mkdir()
    with pytest.raises(ValueError, match="folder must hold pictures"):
        classes_benchmark("one", database, tmp_path / "queries")


def test_pictures_of_one_folder_query_the_others_of_their_class(folders):
    names = "soy/milk/1.png", "soy/milk/2.png", "dairy/milk/1.png", "soy/milk/3.png"
    folder, _ = folders(names, [])
    got = folder_benchmark("milk", folder)
    assert got.name == "milk"
    assert got.folder == folder
    assert got.database == tuple(folder / name for name in sorted(names))
    assert got.queries == got.database
    assert got.objects == ("dairy/milk", "soy/milk", "soy/milk", "soy/milk")
    # The only picture of its class is kept as a query without positives.
    assert [p.tolist() for p in got.positives] == [[], [2, 3], [1, 3], [1, 2]]
    assert [j.tolist() for j in got.junk] == [[0], [1], [2], [3]]
    assert got.boxes == (None,) * 4


def test_pictures_without_a_class_are_refused(folders):
    folder, _ = folders(["a/1.png", "loose.png", "more.png"], [])
    with pytest.raises(ValueError, match=r"got 2 outside of any, first 'loose\.png'"):
        folder_benchmark("one", folder)


def test_queries_of_scenes_are_boxes_and_positives_show_the_same_object(tmp_path):
    box = 1, 2, 30, 40
    scenes = SceneCollection(
        folder=tmp_path,
        objects=("cup", "jug"),
        database=(
            Scene("0.jpg", object=1, box=box),
            Scene("1.jpg", object=-1, box=None),
            Scene("2.jpg", object=0, box=box),
            Scene("3.jpg", object=1, box=box),
        ),
        queries=(
            Scene("p.jpg", object=0, box=(0, 0, 5, 6)),
            Scene("q.jpg", object=1, box=box),
        ),
    )
    got = scenes_benchmark(scenes)
    assert got.folder == tmp_path / "database"
    assert got.database[2] == tmp_path / "database" / "2.jpg"
    assert got.queries == (tmp_path / "queries/p.jpg", tmp_path / "queries/q.jpg")
    assert got.boxes == ((0, 0, 5, 6), box)
    assert [p.tolist() for p in got.positives] == [[2], [0, 3]]
    assert [j.size for j in got.junk] == [0, 0]
    assert got.objects == ("cup", "jug")


def test_the_grocery_packages_have_their_published_numbers(shared_data):
    folder = shared_data / "grocery_packages"
    got = classes_benchmark("grocery", folder / "train", folder / "test")
    assert (len(got.database), len(got.queries)) == (864, 781)
    assert len(set(got.objects)) == 31
    # Every database picture is the answer to its class and to no other.
    by_class = dict(zip(got.objects, got.positives, strict=True))
    assert sorted(np.concatenate(list(by_class.values()))) == list(range(864))
    for label, positives in by_class.items():
        assert {got.database[i].parent for i in positives} == {folder / "train" / label}
