import pathlib
import warnings

import numpy as np
import pytest
from PIL import Image

from diffjax.images import PictureError, find_pictures, read_picture, read_pixels

HEIGHT, WIDTH = 24, 36


@pytest.fixture
def pixels():
    """A picture [24, 36, 3] of which no turn or mirror image looks the same."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([rows * 10, columns * 7, rows * 0 + 40], -1).astype(np.uint8)


def save(path, pixels, **settings):
    Image.fromarray(pixels).save(path, **settings)
    return path


def as_pillow_sees(path, name):
    """An attribute of the opened picture, which is then closed."""
    with Image.open(path) as image:
        return getattr(image, name)


def grey(values):
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=-1)


def test_pictures_are_found_at_all_depths_in_the_order_of_their_relative_names(
    tmp_path, pixels
):
    names = ["b.png", "a/z.JPG", "a/c.Jpeg", "a-b.gif", "ä.webp"]
    for name in [*names, ".hidden.png", ".folder/x.png", "notes.txt", "a/README"]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere.png")
    got = [p.relative_to(tmp_path).as_posix() for p in find_pictures(tmp_path)]
    # "-" is before "/" and "/" before letters.
    order = ["a-b.gif", "a/c.Jpeg", "a/z.JPG", "b.png", "broken.png", "ä.webp"]
    assert got == order


def test_a_hidden_folder_is_searched_when_named(tmp_path):
    (tmp_path / ".album").mkdir()
    (tmp_path / ".album" / "x.png").touch()
    assert len(find_pictures(tmp_path / ".album")) == 1


def test_an_empty_or_missing_folder_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"^folder must hold pictures.*\.png.*$"):
        find_pictures(tmp_path)
    with pytest.raises(ValueError, match="folder must be an existing folder"):
        find_pictures(tmp_path / "missing")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "webp"])
def test_lossless_kinds_give_back_their_pixels(tmp_path, pixels, suffix):
    path = save(tmp_path / f"x.{suffix}", pixels, lossless=True)
    np.testing.assert_array_equal(read_picture(path), pixels)


def test_the_suffix_does_not_decide_the_format(tmp_path, pixels):
    path = save(tmp_path / "x.jpg", pixels, format="PNG")
    np.testing.assert_array_equal(read_picture(path), pixels)


TURNED = {  # How a camera stores an upright picture under each orientation.
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", TURNED)
def test_every_exif_orientation_comes_out_upright(
    tmp_path, pixels, orientation, suffix
):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(TURNED[orientation](pixels))
    path = save(tmp_path / f"x.{suffix}", stored, exif=exif)
    np.testing.assert_array_equal(read_picture(path), pixels)


def test_a_box_is_in_pixels_of_the_upright_picture(tmp_path, pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "x.png", np.rot90(pixels, 1), exif=exif)
    crop = read_picture(path, box=(20, 2, WIDTH, 20))
    np.testing.assert_array_equal(crop, pixels[2:20, 20:])


def test_a_damaged_exif_block_does_not_hide_the_picture(tmp_path, pixels):
    path = save(tmp_path / "x.png", pixels, exif=b"Exif\0\0no such thing")
    np.testing.assert_array_equal(read_picture(path), pixels)


def test_sixteen_bits_of_grey_are_scaled_by_their_range(tmp_path):
    # 255 * 257 = 65535, so value * 257 must come back as value.
    values = np.arange(16 * 32).reshape(16, 32) % 256
    path = save(tmp_path / "x.png", (values * 257).astype(np.uint16))
    assert as_pillow_sees(path, "mode").startswith("I;16")
    np.testing.assert_array_equal(read_picture(path), grey(values))


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0, 2.0**32 - 1])
def test_floating_grey_is_scaled_by_the_smallest_white_above_it(tmp_path, white):
    values = np.linspace(0, 255, 16 * 32).reshape(16, 32).round()
    path = save(tmp_path / "x.tif", (values / 255 * white).astype(np.float32))
    np.testing.assert_array_equal(read_picture(path), grey(values))


def test_thirty_two_bit_grey_that_fills_sixteen_is_taken_as_sixteen(tmp_path):
    values = np.arange(16 * 16).reshape(16, 16)
    path = save(tmp_path / "x.tif", (values * 257).astype(np.int32))
    assert as_pillow_sees(path, "mode") == "I"
    np.testing.assert_array_equal(read_picture(path), grey(values))


def test_nan_pixels_are_an_error(tmp_path):
    path = save(tmp_path / "x.tif", np.full((16, 16), np.nan, np.float32))
    with pytest.raises(PictureError, match="NaN"):
        read_picture(path)


def test_cmyk_is_converted_to_rgb(tmp_path):
    cyan = np.zeros((16, 16, 4), np.uint8)
    cyan[..., 0] = 255
    path = tmp_path / "x.jpg"
    Image.fromarray(cyan, mode="CMYK").save(path, quality=100)
    got = read_picture(path).astype(int)
    np.testing.assert_allclose(got, np.broadcast_to([0, 255, 255], got.shape), atol=6)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_and_palettes_get_three_channels(tmp_path, mode):
    values = np.where(np.arange(16 * 16).reshape(16, 16) % 3 == 0, 255, 0)
    path = tmp_path / "x.png"
    Image.fromarray(grey(values)).convert(mode).save(path)
    assert as_pillow_sees(path, "mode") == mode
    np.testing.assert_array_equal(read_picture(path), grey(values))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_become_white(tmp_path, mode):
    alpha = np.zeros((16, 16), np.uint8)
    alpha[4:] = 255
    black = np.dstack([grey(np.zeros((16, 16))), alpha])
    path = tmp_path / "x.png"
    if mode == "P":
        palette = Image.fromarray((alpha > 0).astype(np.uint8), mode="P")
        palette.putpalette([9, 9, 9, 0, 0, 0])
        palette.save(path, transparency=0)
    else:
        Image.fromarray(black).convert(mode).save(path)
    np.testing.assert_array_equal(read_picture(path), grey(255 - alpha))


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_gives_its_first_frame(tmp_path, suffix):
    red, blue = (Image.new("RGB", (20, 20), name) for name in ("red", "blue"))
    path = tmp_path / f"x.{suffix}"
    red.save(path, save_all=True, append_images=[blue], duration=100, lossless=True)
    assert as_pillow_sees(path, "n_frames") == 2
    np.testing.assert_array_equal(read_picture(path)[0, 0], [255, 0, 0])


@pytest.fixture
def photograph(tmp_path):
    """A smooth JPEG of 600 x 400 px."""
    rows, columns = np.mgrid[:400, :600]
    pixels = np.stack([rows / 400, columns / 600, rows * 0 + 0.3], -1) * 255
    return save(tmp_path / "photo.jpg", pixels.astype(np.uint8), quality=95)


def test_a_jpeg_is_decoded_at_half_its_size_but_not_below_shrink_to(photograph):
    full = read_picture(photograph)
    half = read_picture(photograph, shrink_to=300)
    assert half.shape == (200, 300, 3)
    np.testing.assert_allclose(half, full[::2, ::2].astype(float), atol=8)
    assert read_picture(photograph, shrink_to=301).shape == (400, 600, 3)
    assert read_picture(photograph, shrink_to=9000).shape == (400, 600, 3)


def test_a_box_is_cut_from_the_full_size_picture(photograph):
    box = (100, 50, 200, 90)
    crop = read_picture(photograph, box=box, shrink_to=100)
    np.testing.assert_array_equal(crop, read_picture(photograph)[50:90, 100:200])


def damage(kind, path, intact):
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_bytes(b"not a picture at all, though it says so")
    elif kind == "cut in the middle":
        path.write_bytes(intact[: len(intact) // 2])
    elif kind == "cut in the header":
        path.write_bytes(intact[:30])
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    "kind",
    ["empty", "text", "cut in the middle", "cut in the header", "folder", "missing"],
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tif"])
def test_the_error_of_a_damaged_picture_has_its_name_and_reason_in_one_line(
    tmp_path, kind, suffix
):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    intact = save(tmp_path / f"intact.{suffix}", noise).read_bytes()
    path = damage(kind, tmp_path / f"x.{suffix}", intact)
    with pytest.raises(PictureError, match=rf"^\S*x\.{suffix}: [^\n]+$") as caught:
        read_picture(path)
    assert caught.value.source == str(path)
    assert str(caught.value).endswith(caught.value.reason)


@pytest.mark.parametrize("size", [(1, 1), (15, 40), (40, 15)])
def test_a_picture_too_small_to_hold_an_object_is_refused(tmp_path, size):
    small = np.zeros((*size, 3), np.uint8)
    path = save(tmp_path / "x.png", small)
    for source in (path, small, Image.fromarray(small)):
        with pytest.raises(PictureError, match=f"{size[1]} x {size[0]} px"):
            read_pixels(source)


def test_huge_pictures_are_read_without_a_warning_or_refused(
    tmp_path, pixels, monkeypatch
):
    path = save(tmp_path / "x.png", pixels)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH - 1)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(path).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_picture(path), pixels)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 2 - 1)
    with pytest.raises(PictureError, match="more than the 862 pixels"):
        read_picture(path)


BAD_BOXES = [
    (0, 0, WIDTH + 1, HEIGHT),
    (-1, 0, 5, 5),
    (0, 0, 5, HEIGHT + 0.5),
    (5, 0, 5, 5),
    (9, 0, 5, 5),
    (0, 7, 5, 7),
    (float("nan"), 0, 5, 5),
    (0, 0, float("inf"), 5),
]


@pytest.mark.parametrize("box", BAD_BOXES, ids=str)
def test_a_box_outside_the_picture_is_refused(tmp_path, pixels, box):
    path = save(tmp_path / "x.png", pixels)
    with pytest.raises(ValueError, match=f"box must be .*{WIDTH} x {HEIGHT} px") as got:
        read_picture(path, box=box)
    assert not isinstance(got.value, PictureError)


def test_fractions_of_a_box_are_rounded_outwards(pixels):
    crop = read_pixels(pixels, box=(3.7, 2.2, 15.1, 14.3))
    np.testing.assert_array_equal(crop, pixels[2:15, 3:16])


@pytest.mark.parametrize("box", [(4, 5, 7, 8), (0.1, 0.2, 0.7, 0.9), (0, 0, 30, 7)])
def test_a_box_of_a_few_pixels_is_refused(pixels, box):
    with pytest.raises(ValueError, match=r"8 px or more .* \(in pixels, not fractions"):
        read_pixels(pixels, box=box)


def test_paths_pillow_images_and_arrays_give_the_same_picture(tmp_path, pixels):
    path = save(tmp_path / "x.png", pixels)
    box = (1, 2, 30, 20)
    with Image.open(path) as image:
        for source in (pathlib.Path(path), str(path), image, pixels):
            np.testing.assert_array_equal(read_pixels(source), pixels)
            crop = read_pixels(source, box=box)
            np.testing.assert_array_equal(crop, pixels[2:20, 1:30])


def test_a_damaged_pillow_image_is_a_picture_error(photograph, tmp_path):
    path = tmp_path / "cut.jpg"
    path.write_bytes(photograph.read_bytes()[:3000])
    with Image.open(path) as image, pytest.raises(PictureError, match=r"^picture: "):
        read_pixels(image)


@pytest.mark.parametrize(
    "array", [np.zeros((20, 20, 3)), np.zeros((20, 20), np.uint8)], ids=["f8", "2-d"]
)
def test_other_arrays_are_refused(array):
    with pytest.raises(ValueError, match=r"source must be .* uint8 pixels"):
        read_pixels(array)
