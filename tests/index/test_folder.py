import dataclasses
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import jax
import numpy as np
import pytest
from photographs import DESCRIPTOR, SIDE, SMALL, SMALL_FLAGS
from PIL import Image

from diffjax.index import Index, IndexConfig, _region_store, index_folder
from diffjax.weights import efficientnet_lite0_path

# Shards of two pictures, so that a build can be killed between them.
SMALL_SHARDS = "import diffjax.index._region_store as e; e._PICTURES_PER_SHARD = 2"
FEW = "ignore:.* is more than"
SMALL_FOLDER = {"config": SMALL, "descriptor": DESCRIPTOR}


def files_of(path):
    """Every file of an index with its hash; what was extracted is no part of it."""
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in path.iterdir()
        if p.is_file()
    }


def test_every_picture_finds_itself_first(photographs, photograph_index):
    index = Index.open(photograph_index)
    assert index.pictures is not None
    assert index.num_images == 12
    pictures = [photographs / name for name in index.pictures.names]
    got = index.search(*index.describe(pictures), top=3)
    np.testing.assert_array_equal(got.images[:, 0], np.arange(12))


def test_a_box_asks_for_what_it_shows(photographs, photograph_index):
    # The box is a crop of picture 5, pasted into a corner of grey.
    index = Index.open(photograph_index)
    assert index.pictures is not None
    with Image.open(photographs / index.pictures.names[5]) as picture:
        canvas = Image.new("RGB", (400, 300), "grey")
        canvas.paste(picture.convert("RGB"), (200, 100))
    got = index.search_picture(canvas, box=(200, 100, 360, 260), top=1)
    assert got.images[0, 0] == 5


def test_the_same_folder_is_not_built_again(photographs, photograph_index, tmp_path):
    path = tmp_path / "index"
    shutil.copytree(photograph_index, path)
    told = []
    again = index_folder(
        photographs, path, **SMALL_FOLDER, progress=lambda *step: told.append(step[0])
    )
    assert set(told) == {"reading"}
    np.testing.assert_array_equal(again.vectors, Index.open(photograph_index).vectors)


def test_an_index_whose_bytes_were_changed_is_built_again(
    photographs, photograph_index, tmp_path
):
    path = tmp_path / "index"
    shutil.copytree(photograph_index, path)
    (vectors,) = path.glob("vectors-*")
    data = bytearray(vectors.read_bytes())
    data[len(data) // 2] ^= 1
    vectors.write_bytes(data)
    index_folder(photographs, path, **SMALL_FOLDER)
    assert files_of(path) == files_of(photograph_index)


@pytest.mark.full
def test_another_size_of_pictures_describes_them_anew(
    photographs, photograph_index, tmp_path
):
    path = tmp_path / "index"
    shutil.copytree(photograph_index, path)
    descriptor = dataclasses.replace(DESCRIPTOR, side=64)
    told = []
    for _ in range(2):  # The vectors of both sizes are kept.
        made = index_folder(
            photographs,
            path,
            config=SMALL,
            descriptor=descriptor,
            progress=lambda *step: told.append(step),
        )
        assert made.pictures is not None
        assert made.pictures.descriptor.side == 64
        index_folder(
            photographs, path, **SMALL_FOLDER, progress=lambda *step: told.append(step)
        )
        assert files_of(path) == files_of(photograph_index)
    assert told.count(("describing pictures", 12, 12)) == 1


def test_pictures_described_with_other_weights_are_described_anew(
    photographs, photograph_index, tmp_path
):
    path, weights = tmp_path / "index", tmp_path / "own.pth"
    shutil.copytree(photograph_index, path)
    # The same tensors in another file: what it is called by is its bytes.
    weights.write_bytes(efficientnet_lite0_path().read_bytes() + b"more")
    picture = photographs / "coffee" / "0.png"
    with pytest.raises(ValueError, match=r"made with weights 5793\w+ of effic.*, not "):
        Index.open(path).search_picture(picture, weights=weights)
    told = []
    made = index_folder(
        photographs,
        path,
        config=SMALL,
        descriptor=dataclasses.replace(DESCRIPTOR, weights=str(weights)),
        progress=lambda *step: told.append(step),
    )
    assert ("describing pictures", 12, 12) in told
    assert made.pictures is not None
    got = made.search_picture(picture, top=1)
    assert made.pictures.names[int(got.images[0, 0])] == "coffee/0.png"
    moved = weights.rename(tmp_path / "moved.pth")
    with pytest.raises(OSError, match=r"own\.pth"):
        Index.open(path).describe([picture])
    again = Index.open(path).search_picture(picture, top=1, weights=moved)
    np.testing.assert_array_equal(again.images, got.images)


def test_other_settings_build_again_without_describing(
    photographs, photograph_index, tmp_path
):
    path = tmp_path / "index"
    shutil.copytree(photograph_index, path)
    config = SMALL.replace(gamma=2.0)
    told = []
    made = index_folder(
        photographs,
        path,
        config=config,
        descriptor=DESCRIPTOR,
        progress=lambda *step: told.append(step[0]),
    )
    assert set(told) == {"reading", "building the graph"}
    before = Index.open(photograph_index).store.arrays["graph_weights"]
    assert (made.store.arrays["graph_weights"] != before).any()
    assert Index.open(path).config == config


NEW, DUPLICATE, OTHER = os.fsdecode(b"\xff.png"), "line\nbreak.png", "é.png"


@pytest.fixture(scope="module")
def grown(photographs, photograph_index, tmp_path_factory):
    """Folder, index and progress after pictures came with names that are no text."""
    root = tmp_path_factory.mktemp("grown")
    folder, path = root / "pictures", root / "index"
    shutil.copytree(photographs, folder)
    shutil.copytree(photograph_index, path)
    with Image.open(folder / "chelsea" / "0.png") as picture:
        picture.transpose(Image.Transpose.ROTATE_180).save(folder / NEW)
    shutil.copy(folder / "coffee" / "1.png", folder / DUPLICATE)
    shutil.copy(folder / "rocket" / "0.png", folder / OTHER)
    told = []
    index_folder(folder, path, **SMALL_FOLDER, progress=lambda *step: told.append(step))
    return folder, Index.open(path), told


@pytest.mark.full
def test_a_new_picture_is_the_only_one_described(grown):
    _, index, told = grown
    steps = [step for step in told if step[0] == "describing pictures"]
    assert steps == [("describing pictures", 0, 1), ("describing pictures", 1, 1)]
    assert index.num_images == 15


@pytest.mark.full
def test_duplicates_are_both_found_with_equal_scores(grown):
    folder, index, _ = grown
    result = index.search_picture(folder / DUPLICATE, top=2)
    names = {index.pictures.names[int(i)] for i in result.images[0]}
    assert names == {"coffee/1.png", DUPLICATE}
    np.testing.assert_allclose(result.scores[0, 0], result.scores[0, 1], rtol=1e-4)


@pytest.mark.full
def test_names_that_are_no_text_are_kept(grown):
    folder, index, _ = grown
    assert {NEW, DUPLICATE, OTHER} < set(index.pictures.names)
    result = index.search_picture(folder / NEW, top=2)
    assert index.pictures.names[int(result.images[0, 0])] == NEW


@pytest.mark.full
@pytest.mark.filterwarnings(FEW)
def test_one_single_picture_is_a_collection(photographs, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    shutil.copy(photographs / "rocket" / "0.png", folder)
    index = index_folder(folder, tmp_path / "index", **SMALL_FOLDER)
    got = index.search_picture(folder / "0.png")
    assert got.images.tolist() == [[0]]
    assert np.isfinite(got.scores).all()


@pytest.mark.filterwarnings(FEW)
def test_a_picture_means_the_same_in_every_container(photographs, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    with Image.open(photographs / "astronaut" / "2.png") as picture:
        rgb = picture.convert("RGB")
    rgb.save(folder / "a.png")
    rgb.convert("CMYK").save(folder / "cmyk.tif")
    turned = rgb.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # Shown turned by 90 degrees to the right.
    turned.save(folder / "exif.png", exif=exif)
    rgb.save(
        folder / "moving.png",
        save_all=True,
        append_images=[Image.new("RGB", rgb.size)],
    )
    grey = np.asarray(rgb.convert("L"))
    Image.fromarray(grey).save(folder / "grey8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "grey16.png")
    index = index_folder(
        folder,
        tmp_path / "index",
        config=IndexConfig.of(k=4, query_k=4),
        descriptor=DESCRIPTOR,
    )
    assert index.pictures is not None
    of = dict(zip(index.pictures.names, range(index.num_images), strict=True))
    vectors = np.asarray(index.vectors).reshape(len(of), -1, index.vectors.shape[1])

    def likeness(a, b):
        return (vectors[of[a]] * vectors[of[b]]).sum(1).min()

    for other in "cmyk.tif", "exif.png", "moving.png":
        assert likeness("a.png", other) > 0.999
    assert likeness("grey8.png", "grey16.png") > 0.999
    assert likeness("a.png", "grey8.png") < 0.999  # The measure can tell.


@pytest.fixture
def odd_folder(photographs, tmp_path):
    """Twelve pictures and five files that only look like some."""
    folder = tmp_path / "odd"
    shutil.copytree(photographs, folder)
    (folder / "empty.png").write_bytes(b"")
    (folder / "noise.jpg").write_bytes(bytes(range(256)) * 8)
    whole = (folder / "chelsea" / "0.png").read_bytes()
    (folder / "short.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (1, 1)).save(folder / "point.png")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    return folder


ODD = {"empty.png", "noise.jpg", "short.png", "point.png", "gone.jpg"}


def test_files_that_are_no_pictures_are_listed_and_skipped(
    odd_folder, photograph_index
):
    path = odd_folder.parent / "index"
    shutil.copytree(photograph_index, path)
    index = index_folder(odd_folder, path, **SMALL_FOLDER)
    assert index.pictures is not None
    assert set(index.pictures.skipped) == ODD
    assert all(
        reason and "\n" not in reason for reason in index.pictures.skipped.values()
    )
    assert index.num_images == 12


def test_strict_refuses_and_leaves_the_old_index(odd_folder, photograph_index):
    path = odd_folder.parent / "index"
    shutil.copytree(photograph_index, path)
    before = files_of(path)
    for _ in range(2):  # Also where the lenient build would be taken as it is.
        with pytest.raises(ValueError, match=r"got 5 that can't, first empty\.png"):
            index_folder(odd_folder, path, **SMALL_FOLDER, strict=True)
        assert files_of(path) == before


def test_a_place_that_can_not_be_written_is_an_error_of_the_system(
    photographs, tmp_path
):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        index_folder(photographs, tmp_path / "file" / "index", **SMALL_FOLDER)
    with pytest.raises(ValueError, match=r"must be empty .*: name another place"):
        index_folder(photographs, tmp_path, **SMALL_FOLDER)


def test_a_folder_of_no_picture_at_all_is_refused(tmp_path):
    folder = tmp_path / "nothing"
    folder.mkdir()
    with pytest.raises(ValueError, match="nothing"):
        index_folder(folder, tmp_path / "index")
    (folder / "empty.png").write_bytes(b"")
    with pytest.raises(ValueError, match="must hold a picture that can be read"):
        index_folder(folder, tmp_path / "index")
    assert not (tmp_path / "index" / "index.json").exists()


def wait_for_shards(process, extracted, *, count):
    """Waits until a build has written so many shards, or has ended."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if len(list(extracted.glob("*/regions-*"))) >= count:
            return
        time.sleep(0.01)


_BUILD = """
    import sys
    sys.path.insert(0, {tests!r})
    from photographs import DESCRIPTOR, SMALL
    from diffjax.index import _region_store, index_folder

    # Shards of two pictures, so that a build can be killed between them.
    _region_store._PICTURES_PER_SHARD = 2
    index_folder({folder!r}, {path!r}, config=SMALL, descriptor=DESCRIPTOR)
"""


@pytest.mark.full
@pytest.mark.parametrize("count", [0, 4])
def test_a_killed_build_goes_on_to_the_same_bytes(
    photographs, photograph_index, tmp_path, monkeypatch, count
):
    path = tmp_path / "index"
    code = textwrap.dedent(_BUILD).format(
        tests=str(pathlib.Path(__file__).parents[1]),
        folder=str(photographs),
        path=str(path),
    )
    programs = {
        "JAX_COMPILATION_CACHE_DIR": str(
            jax.config.values["jax_compilation_cache_dir"]
        ),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code], env=os.environ | programs
    )
    if count:
        wait_for_shards(process, path / "extracted", count=count)
    else:
        time.sleep(1.0)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (path / "index.json").exists()
    done = len(list(path.glob("extracted/*/regions-*")))
    assert done >= count
    monkeypatch.setattr(_region_store, "_PICTURES_PER_SHARD", 2)
    told = []
    index_folder(
        photographs, path, **SMALL_FOLDER, progress=lambda *step: told.append(step)
    )
    assert ("describing pictures", 0, 12 - 2 * done) in told
    assert files_of(path) == files_of(photograph_index)
    assert not list(path.rglob("*.part"))


@pytest.mark.full
def test_ctrl_c_prints_one_line_and_keeps_finished_pictures(
    program, photographs, tmp_path
):
    path = tmp_path / "index"
    command = ("index", photographs, "--out", path, *SMALL_FLAGS)
    process = program.start(*command, first=SMALL_SHARDS)
    wait_for_shards(process, path / "extracted", count=1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err == "error: stopped; run the same command to go on where it was.\n"
    assert list(path.glob("extracted/*/regions-*"))
    assert not (path / "index.json").exists()


def test_an_interrupted_build_keeps_the_pictures_it_has_described(
    photographs, tmp_path
):
    # Fewer than a shard holds.
    def stop_after_five(task, done, _):
        if (task, done) == ("describing pictures", 5):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_folder(
            photographs, tmp_path / "index", **SMALL_FOLDER, progress=stop_after_five
        )
    told = []
    index_folder(
        photographs,
        tmp_path / "index",
        **SMALL_FOLDER,
        progress=lambda *step: told.append(step),
    )
    assert ("describing pictures", 0, 7) in told


def test_partial_files_of_killed_builds_are_removed(
    photographs, photograph_index, tmp_path
):
    path = tmp_path / "index"
    shutil.copytree(photograph_index, path)
    (path / "index.json").unlink()
    (inside,) = (path / "extracted").iterdir()
    left = (
        inside / "regions.123.part",
        path / "vectors-0123456789abcdef.npy.part",
        path / "index.json.123.part",
    )
    for file in left:
        file.write_bytes(b"half")
    index_folder(photographs, path, **SMALL_FOLDER)
    assert files_of(path) == files_of(photograph_index)
    assert not any(file.exists() for file in left)


@pytest.mark.full
def test_a_full_disk_prints_one_line_and_keeps_the_old_index(
    program, photographs, photograph_index, tmp_path
):
    path = tmp_path / "index"
    shutil.copytree(photograph_index, path)
    shutil.rmtree(path / "extracted")
    before = files_of(path)
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    ended = program.run(
        "index", photographs, "--out", path, *SMALL_FLAGS, "--gamma", "2", first=full
    )
    assert ended.code == 1
    lines = [line for line in ended.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "make room and run the same command" in lines[0]
    assert "Traceback" not in ended.err
    assert files_of(path) == before


def test_the_size_of_the_pictures_is_a_setting(photograph_index):
    index = Index.open(photograph_index)
    assert index.pictures is not None
    assert index.pictures.descriptor.side == SIDE
