import dataclasses
import hashlib
import warnings

import numpy as np
import pytest
from PIL import Image

from diffjax.datasets import ScenesConfig, compose_scenes
from diffjax.datasets import _scene_pictures as pictures_module
from diffjax.datasets import _scenes as sets_module
from diffjax.datasets._scene_pictures import compose_picture, cut_objects
from diffjax.datasets._scenes import (
    PUBLISHED_VERSIONS,
    SCENE_SETS,
    SceneSet,
    installed_versions,
)

FEW = ScenesConfig(
    objects=2, scenes_per_object=2, empty_scenes=1, queries_per_object=1, patches=2
)
FLAG, CATS_EYE, SHUTTLE = 0, 1, 30


@pytest.fixture(scope="module")
def things():
    return cut_objects(31)


def bare(**settings):
    """Scenes without clutter, cover and relighting, which show the complete object."""
    return ScenesConfig(patches=0, cover_probability=0.0, relight=0.0, **settings)


def sides(composed):
    x0, y0, x1, y1 = composed.box
    return x1 - x0, y1 - y0


def relative_area(composed):
    return np.prod(sides(composed)) / np.prod(composed.picture.size)


def test_every_set_has_the_documented_numbers_of_pictures():
    assert set(SCENE_SETS) == {"scenes", "scenes-small", "scenes-large"}
    for name, scenes in SCENE_SETS.items():
        assert scenes.name == name
        config = scenes.config
        assert (config.objects, config.scenes_per_object) == (40, 12)
        assert (config.empty_scenes, config.queries_per_object) == (200, 2)
    assert SCENE_SETS["scenes"].config == ScenesConfig()


def test_no_two_sets_are_the_same():
    assert len({scenes.config for scenes in SCENE_SETS.values()}) == len(SCENE_SETS)
    assert len({scenes.pixels_sha256 for scenes in SCENE_SETS.values()}) == len(
        SCENE_SETS
    )


def test_pictures_are_the_published_ones(things):
    if installed_versions() != PUBLISHED_VERSIONS:
        pytest.skip(f"other packages than {PUBLISHED_VERSIONS} make other pixels")
    digests = {}
    for name, scenes in SCENE_SETS.items():
        pixels = hashlib.sha256()
        for number in FLAG, CATS_EYE, SHUTTLE:
            key = (scenes.config.seed, 0, number, 3)
            shown = compose_picture(key, things[number], config=scenes.config)
            pixels.update(shown.picture.tobytes())
        digests[name] = pixels.hexdigest()[:16]
    # Records were computed on these pictures.
    assert digests == {
        "scenes": "8bc8a5fb0859ef43",
        "scenes-small": "c4214a778e8f7a83",
        "scenes-large": "7ee21e5da7ba42f8",
    }


@pytest.fixture
def _plain(monkeypatch):
    """Grey pictures in place of clutter, which takes most of the time."""
    monkeypatch.setattr(
        pictures_module,
        "draw_clutter_picture",
        lambda _, size, **__: Image.new("RGB", size, (128,) * 3),
    )


AREAS, TURNS, NUMBERS = (0.01, 0.04, 0.2), (0.0, 25.0, 90.0), (FLAG, CATS_EYE, SHUTTLE)
# Each pair of values once (a Latin square), all triples in the full run.
GRID = [
    pytest.param(
        area, turn, number, marks=[pytest.mark.full] if (i + j + k) % 3 else []
    )
    for i, area in enumerate(AREAS)
    for j, turn in enumerate(TURNS)
    for k, number in enumerate(NUMBERS)
]


@pytest.mark.parametrize(("area", "turn", "number"), GRID)
def test_the_box_has_the_configured_area(things, number, turn, area):
    config = bare(max_rotation=turn, object_area=(area, area))
    for copy in range(3):
        shown = compose_picture((0, 0, number, copy), things[number], config=config)
        width, height = sides(shown)
        # Sides are whole pixels, and so are those that the object is resized to.
        asked = area * np.prod(shown.picture.size)
        assert (width - 2) * (height - 2) < asked < (width + 2) * (height + 2)


@pytest.mark.usefixtures("_plain")
def test_logarithms_of_areas_are_uniform(things):
    low, high = 0.02, 0.2
    config = bare(object_area=(low, high))
    areas = [
        relative_area(compose_picture((copy,), things[CATS_EYE], config=config))
        for copy in range(60)
    ]
    quantiles = np.sort(np.log(np.divide(areas, low)) / np.log(high / low))
    # Kolmogorov-Smirnov: 1.63 / sqrt(n) is exceeded once in a hundred times.
    assert np.abs(quantiles - np.linspace(0, 1, 60)).max() < 1.63 / np.sqrt(60)


@pytest.mark.usefixtures("_plain")
def test_an_object_too_long_for_its_area_is_as_large_as_fits(things):
    config = bare(max_rotation=0.0, object_area=(0.9, 0.9))
    for copy in range(4):
        shown = compose_picture((copy,), things[SHUTTLE], config=config)
        width, height = sides(shown)
        assert abs(height - shown.picture.height) <= 1
        # Nothing is cut off: its aspect ratio is unchanged.
        x, y = things[SHUTTLE].picture.size
        assert abs(width / x - height / y) * x <= 4


@pytest.fixture
def published(monkeypatch):
    """Publishes FEW under a name, with a checksum."""

    def publish(sha256):
        scenes = {"few": SceneSet("few", 7, FEW, sha256)}
        monkeypatch.setattr(sets_module, "SCENE_SETS", scenes)

    return publish


def test_other_pixels_than_the_published_ones_give_a_warning(published, tmp_path):
    published("0" * 64)
    expected = (
        r"holds few version 7 with other pixels .* sha256 [0-9a-f]{12}, not 0{12}\. "
        rf"They were composed with numpy {np.__version__}, pillow .* the published "
    )
    with pytest.warns(UserWarning, match=expected) as caught:
        composed = compose_scenes(tmp_path, config=FEW)
    assert len(caught) == 1
    # Reading them back warns as well.
    with pytest.warns(UserWarning, match=expected):
        assert compose_scenes(tmp_path, config=FEW) == composed


def test_published_pixels_and_other_settings_give_no_warning(published, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        composed = compose_scenes(tmp_path / "few", config=FEW)
        published(composed.pixels_sha256)
        compose_scenes(tmp_path / "few", config=FEW)
        published("0" * 64)
        other = dataclasses.replace(FEW, seed=1)
        compose_scenes(tmp_path / "other", config=other)
