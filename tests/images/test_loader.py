import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from diffjax.images import PictureError, read_resized, resize_picture


def test_a_picture_is_resized_to_every_side_with_its_shown_box():
    pixels = np.random.default_rng(0).integers(255, size=(100, 140, 3), dtype=np.uint8)
    fitted = read_resized(pixels, box=(10.5, 20, 130, 90), sides=(128, 64))
    assert fitted.shown_box == (10, 20, 130, 90)
    for scaled, side in zip(fitted.pixels, (128, 64), strict=True):
        expected = resize_picture(pixels[20:90, 10:130], side=side)
        np.testing.assert_array_equal(scaled, expected)


def test_the_shown_box_of_a_photograph_decoded_small_is_in_full_size_pixels(
    tmp_path,
):
    path = tmp_path / "large.jpg"
    Image.new("RGB", (1601, 1203)).save(path)
    assert read_resized(path, sides=(64,)).shown_box == (0, 0, 1601, 1203)


def test_a_file_other_than_a_picture_is_a_picture_error(tmp_path):
    path = tmp_path / "no.jpg"
    path.write_bytes(b"no")
    with pytest.raises(PictureError):
        read_resized(path)


def test_a_process_that_reads_pictures_does_not_import_jax():
    code = "import sys, diffjax.images._loader; print('jax' in sys.modules)"
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
    )
    assert done.stdout.strip() == "False"
