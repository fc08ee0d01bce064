import dataclasses
import hashlib
import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps

from diffjax.datasets import ScenesConfig, compose_scenes
from diffjax.datasets import _scenes as scenes_module
from diffjax.datasets._scene_pictures import compose_picture, cut_objects
from diffjax.images import read_picture

SMALL = ScenesConfig(
    objects=3, scenes_per_object=2, empty_scenes=3, queries_per_object=2, patches=4
)
FILES = 3 * 2 + 3 + 3 * 2 + 1
# For tests that compose a collection again.
TINY = ScenesConfig(
    objects=2, scenes_per_object=1, empty_scenes=1, queries_per_object=1, patches=2
)
TINY_FILES = 2 * 1 + 1 + 2 * 1 + 1


def contents(folder):
    """Every file below a folder."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    return compose_scenes(folder, config=SMALL)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return compose_scenes(tmp_path_factory.mktemp("tiny"), config=TINY)


def test_a_collection_has_the_configured_pictures(composed):
    assert len(contents(composed.folder)) == FILES
    shown = [scene.object for scene in composed.database]
    assert {thing: shown.count(thing) for thing in set(shown)} == {
        0: 2,
        1: 2,
        2: 2,
        -1: 3,
    }
    assert [query.object for query in composed.queries] == [0, 0, 1, 1, 2, 2]
    assert composed.objects == ("flag", "cat's eye", "cup of coffee")
    for scenes, folder in (
        (composed.database, "database"),
        (composed.queries, "queries"),
    ):
        names = [scene.name for scene in scenes]
        assert names == sorted(names)
        for scene in scenes:
            assert (scene.box is None) == (scene.object < 0)
            with Image.open(composed.folder / folder / scene.name) as picture:
                assert 300 <= min(picture.size) <= max(picture.size) <= 400
                if scene.box:
                    x0, y0, x1, y1 = scene.box
                    assert 0 <= x0 < x1 <= picture.width
                    assert 0 <= y0 < y1 <= picture.height


def test_positives_are_the_database_pictures_that_show_the_query(composed):
    for query, positives in zip(composed.queries, composed.positives, strict=True):
        expected = [
            position
            for position, scene in enumerate(composed.database)
            if scene.object == query.object
        ]
        assert positives.tolist() == expected


def test_names_do_not_sort_scenes_by_object(composed):
    # Ties are broken by lower index: sorted classes would leak into the ranking.
    shown = [scene.object for scene in composed.database]
    assert shown != sorted(shown)
    assert shown != [*sorted(shown)[3:], -1, -1, -1]


def test_no_two_pictures_of_a_collection_share_their_clutter(composed):
    # Clutter that recurs in another picture is retrieved as if it were an object.
    thumbnails = []
    for path in sorted(composed.folder.glob("*/*.jpg")):
        with Image.open(path) as picture:
            grey = picture.convert("L").resize((40, 40))
        thumbnails.append(np.asarray(grey, np.float64).ravel())
    correlations = np.corrcoef(thumbnails) - np.eye(FILES - 1)
    assert np.abs(correlations).max() < 0.8


def test_the_same_settings_give_the_same_bytes(tiny, tmp_path):
    calls = []
    compose_scenes(tmp_path, config=TINY, progress=lambda *call: calls.append(call))
    assert contents(tmp_path) == contents(tiny.folder)
    assert calls == [(done, TINY_FILES - 1) for done in range(1, TINY_FILES)]


def test_pictures_do_not_depend_on_the_order_of_composing(tiny, tmp_path, monkeypatch):
    plan = scenes_module._plan_pictures

    def plan_backwards(folder, config):
        tasks = plan(folder, config)
        return tasks[2::-1] + tasks[3:]

    monkeypatch.setattr(scenes_module, "_plan_pictures", plan_backwards)
    compose_scenes(tmp_path, config=TINY)
    expected, actual = contents(tiny.folder), contents(tmp_path)
    # The list of scenes is in the order of composing; the pictures are the same.
    list_file = pathlib.Path("scenes.json")
    assert expected.pop(list_file) != actual.pop(list_file)
    assert actual == expected


def test_another_seed_gives_other_pictures():
    key = (SMALL.seed, 0, 1, 2)
    thing = cut_objects(2)[1]
    one = compose_picture(key, thing, config=SMALL)
    other = compose_picture((1, *key[1:]), thing, config=SMALL)
    assert one.picture.tobytes() != other.picture.tobytes()


@pytest.mark.parametrize(
    ("number", "turn"),
    [
        *[(0, 0.0), (1, 25.0), (2, 90.0)],
        *(
            pytest.param(number, turn, marks=pytest.mark.full)
            for number, turn in [(0, 25.0), (0, 90.0), (1, 0.0), (1, 90.0)]
        ),
    ],
)
def test_the_box_is_where_the_object_changes_the_picture(number, turn):
    config = dataclasses.replace(SMALL, max_rotation=turn, cover_probability=0.0)
    thing = cut_objects(number + 1)[number]
    for copy in range(3):
        key = (0, 0, number, copy)
        shown = compose_picture(key, thing, config=config)
        absent = compose_picture(key, None, config=config)
        assert absent.box is None
        changed = np.asarray(shown.picture) != np.asarray(absent.picture)
        ys, xs = np.nonzero(changed.any(axis=2))
        assert shown.box is not None
        x0, y0, x1, y1 = shown.box
        assert x0 <= xs.min()
        assert y0 <= ys.min()
        assert xs.max() < x1
        assert ys.max() < y1
        # Nor is the box much too large: the soft outline is a pixel or two.
        slack = np.subtract(shown.box, [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert np.abs(slack).max() <= 4


def test_the_box_of_a_covered_object_holds_its_visible_part():
    config = dataclasses.replace(SMALL, cover_probability=1.0)
    bare = dataclasses.replace(config, cover_probability=0.0)
    thing = cut_objects(3)[2]
    negative = thing._replace(picture=ImageOps.invert(thing.picture))
    for copy in range(5):
        key = (0, 0, 2, copy)
        a, b = (compose_picture(key, t, config=config) for t in (thing, negative))
        uncovered = compose_picture(key, thing, config=bare)
        # The two differ only in the object's colours, so only where it is visible.
        changed = (np.asarray(a.picture) != np.asarray(b.picture)).any(axis=2)
        ys, xs = np.nonzero(changed)
        assert a.box is not None
        assert uncovered.box is not None
        x0, y0, x1, y1 = a.box
        assert x0 <= xs.min() <= xs.max() < x1
        assert y0 <= ys.min() <= ys.max() < y1
        wx0, wy0, wx1, wy1 = uncovered.box
        assert changed[wy0:wy1, wx0:wx1].mean() > 0.4 * 0.6, (
            "hardly anything is visible"
        )
        assert (np.asarray(a.picture) != np.asarray(uncovered.picture)).any()


def test_a_rotated_object_has_no_black_corners():
    white = cut_objects(1)[0]
    white = white._replace(
        picture=Image.new("RGB", white.picture.size, "white"),
    )
    config = dataclasses.replace(
        SMALL, max_rotation=45.0, relight=0.0, cover_probability=0.0
    )
    for copy in range(3):
        key = (0, 0, 0, copy)
        shown = compose_picture(key, white, config=config).picture
        absent = compose_picture(key, None, config=config).picture
        # A white object can only lighten the clutter below it.
        assert (np.asarray(shown).astype(int) >= np.asarray(absent).astype(int)).all()


def test_the_object_has_the_configured_side():
    thing = cut_objects(1)[0]
    for side in 0.2, 0.7:
        config = dataclasses.replace(
            SMALL, object_side=(side, side), max_rotation=0.0, cover_probability=0.0
        )
        shown = compose_picture((0, 0, 0, 0), thing, config=config)
        assert shown.box is not None
        x0, y0, x1, y1 = shown.box
        expected = side * min(shown.picture.size)
        # The soft outline adds two pixels on each of the two sides.
        assert abs(max(x1 - x0, y1 - y0) - expected - 4) <= 1


def test_a_finished_collection_is_read_back_and_not_composed_again(tiny, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr(scenes_module, "compose_picture", refuse)
    assert compose_scenes(tiny.folder, config=TINY) == tiny


def test_an_interrupted_composition_is_completed_to_the_same_bytes(tiny, tmp_path):
    def stop(done, _):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compose_scenes(tmp_path, config=TINY, progress=stop)
    assert len(contents(tmp_path)) == 3
    (tmp_path / "database" / "scene_00002.jpg.99.part").write_bytes(b"half")
    compose_scenes(tmp_path, config=TINY)
    assert contents(tmp_path) == contents(tiny.folder)


def test_a_lost_picture_is_composed_again(tiny, tmp_path):
    shutil.copytree(tiny.folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "queries" / "query_00001.jpg").unlink()
    compose_scenes(tmp_path, config=TINY)
    assert contents(tmp_path) == contents(tiny.folder)


def test_the_checksum_is_of_the_pixels_that_are_read_from_the_files(composed):
    pixels = hashlib.sha256()
    for folder in "database", "queries":
        for path in sorted((composed.folder / folder).iterdir()):
            picture = read_picture(path)
            height, width, _ = picture.shape
            pixels.update(f"{width} x {height}\n".encode() + picture.tobytes())
    assert composed.pixels_sha256 == pixels.hexdigest()


def test_scenes_have_the_area_of_their_box(composed):
    for folder in "database", "queries":
        for scene in getattr(composed, folder):
            if scene.box is None:
                assert scene.area is None
                continue
            with Image.open(composed.folder / folder / scene.name) as picture:
                width, height = picture.size
            x0, y0, x1, y1 = scene.box
            assert scene.area == (x1 - x0) * (y1 - y0) / (width * height)
    areas = [scene.area or np.nan for scene in composed.database]
    np.testing.assert_array_equal(composed.areas, areas)


def test_a_list_of_a_former_version_is_renewed_with_the_same_pictures(tiny, tmp_path):
    shutil.copytree(tiny.folder, tmp_path, dirs_exist_ok=True)
    list_file = tmp_path / "scenes.json"
    truth = json.loads(list_file.read_text("utf-8"))
    former = {
        "format": truth["format"],
        "config": {k: v for k, v in truth["config"].items() if k != "object_area"},
        "objects": truth["objects"],
        "database": [dict(list(s.items())[:3]) for s in truth["database"]],
        "queries": [dict(list(s.items())[:3]) for s in truth["queries"]],
    }
    list_file.write_text(json.dumps(former), encoding="utf-8")
    with pytest.raises(ValueError, match="other settings; name another folder"):
        compose_scenes(tmp_path, config=dataclasses.replace(TINY, seed=1))
    renewed = compose_scenes(tmp_path, config=TINY)
    assert renewed == tiny._replace(folder=tmp_path)
    assert contents(tmp_path) == contents(tiny.folder)


def test_the_list_is_removed_before_pictures_are_composed_again(tiny, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    shutil.copytree(tiny.folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "database" / "scene_00000.jpg").unlink()
    with pytest.raises(KeyboardInterrupt):
        compose_scenes(tmp_path, config=TINY, progress=stop)
    assert not (tmp_path / "scenes.json").exists()


def test_a_folder_with_scenes_of_other_settings_is_refused(composed):
    before = contents(composed.folder)
    with pytest.raises(ValueError, match="other settings; name another folder"):
        compose_scenes(composed.folder, config=dataclasses.replace(SMALL, seed=1))
    assert contents(composed.folder) == before


def test_a_folder_with_other_pictures_is_refused(tmp_path):
    (tmp_path / "database").mkdir()
    (tmp_path / "database" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"holiday\.jpg; name another folder"):
        compose_scenes(tmp_path, config=SMALL)
    assert len(contents(tmp_path)) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}'])
def test_a_damaged_list_of_scenes_is_refused(tmp_path, text):
    (tmp_path / "scenes.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"scenes\.json is damaged .* name another"):
        compose_scenes(tmp_path, config=SMALL)


def test_the_list_of_scenes_is_plain_json(composed):
    truth = json.loads((composed.folder / "scenes.json").read_text("utf-8"))
    assert truth["config"]["object_side"] == list(SMALL.object_side)
    assert len(truth["database"]) == 9


@pytest.mark.parametrize(
    "bad",
    [
        {"objects": 0},
        {"objects": 41},
        {"scenes_per_object": 0},
        {"empty_scenes": -1},
        {"queries_per_object": 0},
        {"seed": -1},
        {"object_side": (0.0, 0.5)},
        {"object_side": (0.5, 0.4)},
        {"object_side": (0.2, 0.8)},
        {"object_area": (0.004, 0.5)},
        {"object_area": (0.5, 0.4)},
        {"object_area": (0.5, 1.1)},
        {"max_rotation": -1.0},
        {"max_rotation": float("nan")},
        {"relight": 1.0},
        {"cover_probability": 1.1},
        {"patches": -1},
        {"quality": 0},
    ],
)
def test_settings_out_of_range_are_refused(bad):
    ((name, _),) = bad.items()
    with pytest.raises(ValueError, match=rf"{name} must be .* got "):
        ScenesConfig(**bad)
