import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy
from photographs import DESCRIPTOR, SMALL
from PIL import Image

from diffjax.index import (
    Index,
    IndexConfig,
    extract_folder,
    index_folder,
    read_folder_regions,
)
from diffjax.weights import efficientnet_lite0_path, read_checkpoint

SMALL_FOLDER = {"config": SMALL, "descriptor": DESCRIPTOR}


@pytest.fixture(scope="module")
def extracted(photographs, photograph_index, tmp_path_factory):
    """The regions of the photographs on disk; a test that changes them copies them."""
    path = tmp_path_factory.mktemp("regions") / "photographs.regions"
    # Those that the index was made of are not described again.
    shutil.copytree(photograph_index / "extracted", path / "extracted")
    extract_folder(photographs, path, config=DESCRIPTOR)
    return path


@pytest.fixture
def copied(extracted, tmp_path):
    return shutil.copytree(extracted, tmp_path / "copy")


def test_regions_come_back_as_they_were_described(photographs, extracted):
    got = read_folder_regions(extracted)
    assert got.descriptor == DESCRIPTOR
    assert got.folder == str(photographs)
    assert len(got.names) == len(got.counts) == 12
    assert got.skipped == {}
    vectors, image_ids, boxes = got.load()
    assert vectors.shape == (sum(got.counts), 1280)
    assert image_ids.tolist() == np.repeat(np.arange(12), got.counts).tolist()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    # The first region of each picture is all of it.
    first = np.cumsum((0, *got.counts[:-1]))
    np.testing.assert_array_equal(boxes[first], [[0, 0, 160, 160]] * 12)
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    for regions, count in zip(got.pictures(), got.counts, strict=True):
        assert len(regions.vectors) == len(regions.boxes) == count


def test_an_index_of_the_same_place_describes_nothing_again(
    photographs, copied, photograph_index
):
    told = []
    made = index_folder(
        photographs, copied, **SMALL_FOLDER, progress=lambda *step: told.append(step[0])
    )
    assert "describing pictures" not in told
    np.testing.assert_array_equal(made.vectors, Index.open(photograph_index).vectors)
    assert read_folder_regions(copied).names == made.pictures.names  # pyright: ignore[reportOptionalMemberAccess]  # Of pictures.


def test_only_a_new_picture_is_described(photographs, copied, tmp_path):
    # Its name is no text, and copies of a picture are the same picture.
    folder = pathlib.Path(shutil.copytree(photographs, tmp_path / "pictures"))
    new, copy = os.fsdecode(b"\xff.png"), "line\nbreak.png"
    with Image.open(folder / "chelsea" / "0.png") as picture:
        picture.transpose(Image.Transpose.ROTATE_180).save(folder / new)
    shutil.copy(folder / "coffee" / "1.png", folder / copy)
    told = []
    regions = extract_folder(
        folder, copied, config=DESCRIPTOR, progress=lambda *step: told.append(step)
    )
    steps = [step for step in told if step[0] == "describing pictures"]
    assert steps == [("describing pictures", 0, 1), ("describing pictures", 1, 1)]
    assert {new, copy} < set(regions.names)
    keys = dict(zip(regions.names, regions.keys, strict=True))
    assert keys[copy] == keys["coffee/1.png"] != keys[new]
    assert read_folder_regions(copied) == regions


def test_pictures_are_described_once(photographs, copied):
    told = []
    extract_folder(
        photographs,
        copied,
        config=DESCRIPTOR,
        progress=lambda *step: told.append(step[0]),
    )
    assert set(told) == {"reading"}


@pytest.mark.full
def test_an_index_made_of_them_answers_as_that_of_the_folder(
    extracted, photographs, photograph_index
):
    vectors, image_ids, boxes = read_folder_regions(extracted).load()
    index = Index.build(vectors, image_ids, config=SMALL, boxes=boxes)
    own = Index.open(photograph_index)
    regions = own.describe([photographs / "coffee" / "0.png"])
    got, expected = index.search(*regions, top=5), own.search(*regions, top=5)
    np.testing.assert_array_equal(got.images, expected.images)
    np.testing.assert_allclose(got.scores, expected.scores, rtol=1e-3)
    assert own.boxes is not None
    np.testing.assert_array_equal(boxes, own.boxes)


def test_unreadable_pictures_are_listed(photographs, tmp_path):
    folder = shutil.copytree(photographs, tmp_path / "some")
    (folder / "bad.png").write_bytes(b"nonsense")
    got = extract_folder(folder, tmp_path / "out", config=DESCRIPTOR)
    assert list(got.skipped) == ["bad.png"]
    assert "bad.png" not in got.names
    with pytest.raises(ValueError, match=r"got 1 that can't, first bad\.png"):
        extract_folder(folder, tmp_path / "out", config=DESCRIPTOR, strict=True)


@pytest.mark.filterwarnings("ignore:.* is more than")
def test_given_regions_replace_the_grid(photographs, tmp_path):
    folder = tmp_path / "two"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(photographs / "coffee" / "0.png", folder / name)
    own = {"b.png": np.array([[0.0, 0, 80, 160], [80, 40, 160, 120]])}
    got = extract_folder(folder, tmp_path / "out", config=DESCRIPTOR, regions=own)
    assert got.counts[1] == 2
    assert got.counts[0] > 2
    *_, last = got.pictures()
    np.testing.assert_allclose(last.boxes, own["b.png"], rtol=1e-6)
    # The same bytes with other boxes are described anew.
    moved = {"b.png": own["b.png"][:1]}
    again = extract_folder(folder, tmp_path / "out", config=DESCRIPTOR, regions=moved)
    assert again.counts == (got.counts[0], 1)
    config = IndexConfig.of(k=2, query_k=2, pooling="sum")
    settings = {"config": config, "descriptor": DESCRIPTOR}
    index = index_folder(folder, tmp_path / "index", **settings, regions=moved)
    assert index.boxes is not None
    assert np.bincount(index.image_ids)[1] == 1


def test_regions_of_pictures_that_are_not_there_are_refused(photographs, tmp_path):
    own = {"no.png": np.array([[0, 0, 8, 8]], np.float32)}
    with pytest.raises(ValueError, match=r"got 1 others, first 'no\.png'"):
        extract_folder(photographs, tmp_path / "out", config=DESCRIPTOR, regions=own)
    assert not (tmp_path / "out").exists()


def test_weights_that_were_changed_in_place_are_read_again(photographs, tmp_path):
    few, weights = tmp_path / "few", tmp_path / "own.safetensors"
    few.mkdir()
    shutil.copy(photographs / "coffee" / "0.png", few)
    config = dataclasses.replace(DESCRIPTOR, weights=str(weights))
    tensors = read_checkpoint(efficientnet_lite0_path()).tensors
    got = []
    for gain in (1.0, 2.0):
        tensors["_bn1.weight"] = tensors["_bn1.weight"] * np.float32(gain)
        safetensors.numpy.save_file(tensors, weights)
        got.append(extract_folder(few, tmp_path / "out", config=config))
    first, second = (one.load().vectors for one in got)
    assert got[0].weights != got[1].weights
    assert not np.allclose(first, second, atol=1e-3)


def test_a_reader_keeps_the_files_of_a_writer(copied):
    (folder,) = copied.glob("extracted/*")
    parts = [folder / "regions.123.part", folder / ".tmp1a2B3c"]
    for part in parts:
        part.write_bytes(b"half")
    list(read_folder_regions(copied).pictures())
    assert all(part.exists() for part in parts)


def test_lost_vectors_are_extracted_again(photographs, copied):
    shutil.rmtree(copied / "extracted")
    with pytest.raises(ValueError, match="extract again"):
        read_folder_regions(copied)
    extract_folder(photographs, copied, config=DESCRIPTOR)
    assert len(read_folder_regions(copied).names) == 12


def test_other_settings_lie_beside_each_other(photographs, copied, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(photographs / "coffee" / "0.png", few)
    before = sum(1 for _ in copied.glob("extracted/*/*"))
    extract_folder(few, copied, config=dataclasses.replace(DESCRIPTOR, grid=1))
    assert sum(1 for _ in copied.glob("extracted/*/*")) == before + 1
    assert len(read_folder_regions(copied).names) == 1


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda p: (p / "regions.json").unlink(), "holds no regions .* extract them"),
        (lambda p: (p / "regions.json").write_text("{"), "is damaged or of another"),
        (
            lambda p: (p / "regions.json").write_text(
                json.dumps({"format": "x", "version": 1})
            ),
            "is damaged or of another version .*'x'",
        ),
        (
            lambda p: next(p.glob("extracted/*/regions-*")).unlink(),
            "lacks the regions of 12 of 12 pictures: extract again",
        ),
    ],
)
def test_damaged_files_are_an_error_with_the_remedy(copied, damage, complaint):
    damage(copied)
    with pytest.raises(ValueError, match=complaint) as caught:
        read_folder_regions(copied)
    assert "\n" not in str(caught.value)


def test_a_folder_that_holds_something_else_is_left_alone(photographs, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="must be empty or hold"):
        extract_folder(photographs, tmp_path, config=DESCRIPTOR)


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="folder must hold pictures"):
        extract_folder(tmp_path / "empty", tmp_path / "out")


def test_a_folder_of_nothing_but_bad_pictures_is_refused(tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    Image.new("RGB", (9, 9)).save(folder / "small.png")
    with pytest.raises(ValueError, match=r"got 1 that can't, first small\.png \(9 x 9"):
        extract_folder(folder, tmp_path / "out", config=DESCRIPTOR)
