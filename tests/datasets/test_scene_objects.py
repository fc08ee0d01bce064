import itertools

import numpy as np
import pytest

from diffjax.datasets._scene_pictures import OBJECTS, _read_photograph, cut_objects


@pytest.fixture(scope="module")
def things():
    return cut_objects(len(OBJECTS))


def test_every_object_has_the_size_of_its_box_and_some_contrast(things):
    assert [thing.name for thing in things] == [thing.name for thing in OBJECTS]
    for spec, thing in zip(OBJECTS, things, strict=True):
        x0, y0, x1, y1 = spec.box
        assert thing.picture.mode == "RGB"
        assert thing.picture.size == thing.mask.size == (x1 - x0, y1 - y0)
        assert np.asarray(thing.picture.convert("L")).std() > 10, thing.name


def test_boxes_lie_inside_their_photographs():
    # Pillow would silently fill the outside with black.
    sizes = {
        name: _read_photograph(name).size for name in {o.photograph for o in OBJECTS}
    }
    for spec in OBJECTS:
        x0, y0, x1, y1 = spec.box
        width, height = sizes[spec.photograph]
        assert 0 <= x0 < x1 <= width, spec.name
        assert 0 <= y0 < y1 <= height, spec.name


def test_no_two_objects_overlap_in_a_photograph():
    def apart(a, b):
        return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]

    for a, b in itertools.combinations(OBJECTS, 2):
        assert a.photograph != b.photograph or apart(a.box, b.box), (a.name, b.name)


def test_no_two_objects_look_alike(things):
    thumbnails = [
        np.asarray(thing.picture.convert("L").resize((24, 24)), np.float64).ravel()
        for thing in things
    ]
    correlations = np.corrcoef(thumbnails) - np.eye(len(thumbnails))
    assert correlations.max() < 0.85


def test_fewer_objects_are_the_first_ones(things):
    (first,) = cut_objects(1)
    assert first.picture.tobytes() == things[0].picture.tobytes()


def test_the_mask_of_a_round_object_is_the_ellipse_of_its_box(things):
    for spec, thing in zip(OBJECTS, things, strict=True):
        share = np.mean(np.asarray(thing.mask) == 255)
        # The ellipse inscribed in a box covers pi / 4 of it.
        assert share == pytest.approx(np.pi / 4 if spec.round else 1, abs=0.01)


@pytest.mark.parametrize("count", [0, -1, len(OBJECTS) + 1])
def test_more_objects_than_there_are_are_refused(count):
    with pytest.raises(ValueError, match=rf"objects .* got {count}"):
        cut_objects(count)


def test_missing_photographs_are_an_error_with_a_remedy(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match=r"pip install 'diffjax\[demo\]'"):
        cut_objects(1)
