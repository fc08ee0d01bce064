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
    objects=3, scenes_per_object=3, empty_scenes=4, queries_per_object=2, patches=6
)
FILES = 3 * 3 + 4 + 3 * 2 + 1


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    return compose_scenes(folder, config=SMALL)


def test_a_collection_holds_what_was_asked_for(composed):
    assert len(contents(composed.folder)) == FILES
    shown = [scene.object for scene in composed.database]
    assert {thing: shown.count(thing) for thing in set(shown)} == {
        0: 3,
        1: 3,
        2: 3,
        -1: 4,
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
            place
            for place, scene in enumerate(composed.database)
            if scene.object == query.object
        ]
        assert positives.tolist() == expected


def test_names_do_not_sort_scenes_by_what_they_show(composed):
    # Ties are broken by lower index: sorted classes would leak into the ranking.
    shown = [scene.object for scene in composed.database]
    assert shown != sorted(shown)
    assert shown != [*sorted(shown)[4:], -1, -1, -1, -1]


def test_no_two_pictures_of_a_collection_share_their_clutter(composed):
    # Clutter that comes back in another picture is found as if it were an object.
    small = []
    for path in sorted(composed.folder.glob("*/*.jpg")):
        with Image.open(path) as picture:
            grey = picture.convert("L").resize((40, 40))
        small.append(np.asarray(grey, np.float64).ravel())
    alike = np.corrcoef(small) - np.eye(FILES - 1)
    assert np.abs(alike).max() < 0.8


def test_the_same_settings_give_the_same_bytes(composed, tmp_path):
    compose_scenes(tmp_path, config=SMALL)
    assert contents(tmp_path) == contents(composed.folder)


def test_pictures_do_not_depend_on_the_order_of_composing(
    composed, tmp_path, monkeypatch
):
    plan = scenes_module._plan_pictures

    def backwards(folder, config):
        tasks = plan(folder, config)
        return tasks[12::-1] + tasks[13:]

    monkeypatch.setattr(scenes_module, "_plan_pictures", backwards)
    compose_scenes(tmp_path, config=SMALL)
    expected, got = contents(composed.folder), contents(tmp_path)
    # The list of scenes comes in the order of composing; the pictures are the same.
    listed = pathlib.Path("scenes.json")
    assert expected.pop(listed) != got.pop(listed)
    assert got == expected


def test_another_seed_gives_other_pictures():
    key = (SMALL.seed, 0, 1, 2)
    thing = cut_objects(2)[1]
    one = compose_picture(key, thing, config=SMALL)
    other = compose_picture((1, *key[1:]), thing, config=SMALL)
    assert one.picture.tobytes() != other.picture.tobytes()


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("turn", [0.0, 25.0, 90.0])
def test_the_box_is_where_the_object_changes_the_picture(number, turn):
    config = dataclasses.replace(SMALL, max_rotation=turn, cover_probability=0.0)
    thing = cut_objects(number + 1)[number]
    for copy in range(5):
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


def test_the_box_of_a_covered_object_holds_what_can_still_be_seen():
    config = dataclasses.replace(SMALL, cover_probability=1.0)
    bare = dataclasses.replace(config, cover_probability=0.0)
    thing = cut_objects(3)[2]
    negative = thing._replace(picture=ImageOps.invert(thing.picture))
    covered = 0
    for copy in range(12):
        key = (0, 0, 2, copy)
        a, b = (compose_picture(key, t, config=config) for t in (thing, negative))
        whole = compose_picture(key, thing, config=bare)
        # The two differ in the object's own colours alone, so where it can be seen.
        changed = (np.asarray(a.picture) != np.asarray(b.picture)).any(axis=2)
        ys, xs = np.nonzero(changed)
        assert a.box is not None
        assert whole.box is not None
        x0, y0, x1, y1 = a.box
        assert x0 <= xs.min() <= xs.max() < x1
        assert y0 <= ys.min() <= ys.max() < y1
        wx0, wy0, wx1, wy1 = whole.box
        assert changed[wy0:wy1, wx0:wx1].mean() > 0.4 * 0.6, "hardly anything is left"
        covered += (np.asarray(a.picture) != np.asarray(whole.picture)).any()
    assert covered == 12


def test_a_turned_object_brings_no_black_corners():
    white = cut_objects(1)[0]
    white = white._replace(
        picture=Image.new("RGB", white.picture.size, "white"),
    )
    config = dataclasses.replace(
        SMALL, max_rotation=45.0, relight=0.0, cover_probability=0.0
    )
    for copy in range(8):
        key = (0, 0, 0, copy)
        shown = compose_picture(key, white, config=config).picture
        absent = compose_picture(key, None, config=config).picture
        # A white object can only lighten what it is laid over.
        assert (np.asarray(shown).astype(int) >= np.asarray(absent).astype(int)).all()


def test_the_object_is_as_large_as_asked_for():
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


def test_a_finished_collection_is_read_back_and_not_composed_again(
    composed, monkeypatch
):
    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr(scenes_module, "compose_picture", refuse)
    assert compose_scenes(composed.folder, config=SMALL) == composed


def test_an_interrupted_composition_is_completed_to_the_same_bytes(composed, tmp_path):
    def stop(done, _):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compose_scenes(tmp_path, config=SMALL, progress=stop)
    assert not (tmp_path / "scenes.json").exists()
    # What a power cut may leave: half a picture under its temporary name.
    (tmp_path / "database" / "scene_00000.jpg").unlink(missing_ok=True)
    (tmp_path / "database" / "scene_00000.jpg.part").write_bytes(b"half")
    compose_scenes(tmp_path, config=SMALL)
    assert contents(tmp_path) == contents(composed.folder)


def test_a_lost_picture_is_composed_again(composed, tmp_path):
    compose_scenes(tmp_path, config=SMALL)
    (tmp_path / "queries" / "query_00001.jpg").unlink()
    compose_scenes(tmp_path, config=SMALL)
    assert contents(tmp_path) == contents(composed.folder)


def test_the_checksum_is_of_the_pixels_that_are_read_from_the_files(composed):
    pixels = hashlib.sha256()
    for folder in "database", "queries":
        for path in sorted((composed.folder / folder).iterdir()):
            picture = read_picture(path)
            height, width, _ = picture.shape
            pixels.update(f"{width} x {height}\n".encode() + picture.tobytes())
    assert composed.pixels_sha256 == pixels.hexdigest()


def test_every_scene_knows_the_area_of_its_box(composed):
    for folder in "database", "queries":
        for scene in getattr(composed, folder):
            if scene.box is None:
                assert scene.area is None
                continue
            with Image.open(composed.folder / folder / scene.name) as picture:
                width, height = picture.size
            x0, y0, x1, y1 = scene.box
            assert scene.area == (x1 - x0) * (y1 - y0) / (width * height)
    listed = [scene.area or np.nan for scene in composed.database]
    np.testing.assert_array_equal(composed.areas, listed)


def test_a_list_of_a_former_version_is_made_anew_and_its_pictures_are_the_same(
    composed, tmp_path
):
    shutil.copytree(composed.folder, tmp_path, dirs_exist_ok=True)
    listed = tmp_path / "scenes.json"
    truth = json.loads(listed.read_text("utf-8"))
    former = {
        "format": truth["format"],
        "config": {k: v for k, v in truth["config"].items() if k != "object_area"},
        "objects": truth["objects"],
        "database": [dict(list(s.items())[:3]) for s in truth["database"]],
        "queries": [dict(list(s.items())[:3]) for s in truth["queries"]],
    }
    listed.write_text(json.dumps(former), encoding="utf-8")
    with pytest.raises(ValueError, match="other settings; name another folder"):
        compose_scenes(tmp_path, config=dataclasses.replace(SMALL, seed=1))
    made = compose_scenes(tmp_path, config=SMALL)
    assert made == composed._replace(folder=tmp_path)
    assert contents(tmp_path) == contents(composed.folder)


def test_a_list_is_not_believed_once_its_pictures_begin_to_be_composed_again(
    composed, tmp_path
):
    def stop(*_):
        raise KeyboardInterrupt

    shutil.copytree(composed.folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "database" / "scene_00000.jpg").unlink()
    with pytest.raises(KeyboardInterrupt):
        compose_scenes(tmp_path, config=SMALL, progress=stop)
    assert not (tmp_path / "scenes.json").exists()


def test_progress_counts_every_picture_once(tmp_path):
    seen = []
    compose_scenes(tmp_path, config=SMALL, progress=lambda *at: seen.append(at))
    assert seen == [(done, FILES - 1) for done in range(1, FILES)]


def test_refuses_a_folder_with_scenes_of_other_settings(composed):
    before = contents(composed.folder)
    with pytest.raises(ValueError, match="other settings; name another folder"):
        compose_scenes(composed.folder, config=dataclasses.replace(SMALL, seed=1))
    assert contents(composed.folder) == before


def test_refuses_a_folder_with_pictures_of_somebody_else(tmp_path):
    (tmp_path / "database").mkdir()
    (tmp_path / "database" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"holiday\.jpg; name another folder"):
        compose_scenes(tmp_path, config=SMALL)
    assert len(contents(tmp_path)) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}'])
def test_says_when_the_list_of_scenes_is_damaged(tmp_path, text):
    (tmp_path / "scenes.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"scenes\.json is damaged .* name another"):
        compose_scenes(tmp_path, config=SMALL)


def test_the_list_of_scenes_is_plain_json(composed):
    truth = json.loads((composed.folder / "scenes.json").read_text("utf-8"))
    assert truth["config"]["object_side"] == list(SMALL.object_side)
    assert len(truth["database"]) == 13


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
def test_rejects_bad_settings(bad):
    ((name, _),) = bad.items()
    with pytest.raises(ValueError, match=rf"{name} must be .* got "):
        ScenesConfig(**bad)
