import importlib
import sys

import numpy as np
import pytest
from PIL import Image
from skimage import data

from diffjax.images import PictureError
from diffjax.images._sift import sift_descriptors

pytest.importorskip("cv2", reason="needs OpenCV, of the extra sift")


@pytest.fixture(scope="module")
def coffee():
    return Image.fromarray(data.coffee()).resize((300, 200))


@pytest.fixture(scope="module")
def cat():
    return Image.fromarray(data.chelsea()).resize((300, 200))


def matches(left, right):
    """Descriptors of one picture that are nearest to one of the other and clearly so.

    Lowe's rule: the second nearest is farther by a quarter.
    """
    nearest = np.sort(2 - 2 * left @ right.T, axis=1)[:, :2]
    return int((nearest[:, 0] < 0.64 * nearest[:, 1]).sum())


@pytest.mark.parametrize("root", [True, False])
def test_a_rotated_photograph_matches_itself_and_not_another(coffee, cat, root):
    rotated = coffee.rotate(30, resample=Image.Resampling.BICUBIC)
    original, same, other = (
        sift_descriptors(picture, max_features=200, root=root)
        for picture in (coffee, rotated, cat)
    )
    assert matches(same, original) > 50
    assert matches(same, original) > 5 * matches(same, other)


def test_root_sift_is_the_square_root_of_l1_normalised_descriptors(coffee):
    plain = sift_descriptors(coffee, max_features=50, root=False)
    root = sift_descriptors(coffee, max_features=50)
    assert plain.shape == root.shape == (50, 128)
    assert plain.dtype == root.dtype == np.float32
    shares = plain / plain.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(root, np.sqrt(shares), rtol=1e-5, atol=1e-7)
    for descriptors in (plain, root):
        np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, rtol=1e-5)


def test_the_first_features_are_those_of_highest_contrast(coffee):
    many = sift_descriptors(coffee, max_features=60)
    few = sift_descriptors(coffee, max_features=20)
    np.testing.assert_array_equal(few, many[:20])


def test_a_box_describes_the_cropped_picture(coffee, tmp_path):
    box = (40, 30, 240, 170)
    coffee.save(tmp_path / "coffee.png")
    expected = sift_descriptors(coffee.crop(box), max_features=40)
    for source in (coffee, np.asarray(coffee), tmp_path / "coffee.png"):
        got = sift_descriptors(source, box=box, max_features=40)
        np.testing.assert_array_equal(got, expected)


def test_a_uniform_picture_has_no_features():
    got = sift_descriptors(np.full((64, 64, 3), 90, np.uint8))
    assert got.shape == (0, 128)
    assert got.dtype == np.float32


def test_a_bad_number_of_features_a_bad_box_and_a_missing_picture_are_refused(
    coffee, tmp_path
):
    with pytest.raises(ValueError, match="max_features must be at least 1, got 0"):
        sift_descriptors(coffee, max_features=0)
    with pytest.raises(ValueError, match="box must be"):
        sift_descriptors(coffee, box=(0, 0, 301, 200))
    with pytest.raises(PictureError, match="nowhere"):
        sift_descriptors(tmp_path / "nowhere.jpg")


def test_names_the_extra_where_opencv_is_missing(coffee, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'diffjax\[sift\]'"):
        sift_descriptors(coffee)


def test_the_library_is_imported_without_opencv(monkeypatch):
    module = sys.modules["diffjax.images._sift"]
    monkeypatch.setitem(sys.modules, "cv2", None)
    importlib.reload(module)
