import multiprocessing
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image
from recorder import Recorder

from diffjax.images import (
    DescribedPicture,
    UnreadablePicture,
    _loader,
    choose_canvas,
    describe_pictures,
    resize_picture,
)

SIDE = 64
SHAPES = [(60, 60), (40, 64), (64, 40), (64, 90), (30, 120)]


@pytest.fixture
def pictures():
    """Twenty-three pictures of five proportions and different colours."""
    return [
        np.full((*SHAPES[i % 5], 3), (10 * i, 255 - 10 * i, 7), np.uint8)
        for i in range(23)
    ]


def readers():
    return [t for t in threading.enumerate() if t.name.startswith("diffjax-read")]


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("side", [64, 128])
def test_every_picture_gets_the_vectors_of_its_colour(
    pictures, batch_size, workers, side
):
    recorder = Recorder()
    results = list(
        describe_pictures(
            pictures,
            recorder,
            sides=(side,),
            batch_size=batch_size,
            workers=workers,
        )
    )
    assert sorted(r.position for r in results) == list(range(23))
    for result in results:
        picture = pictures[result.position]
        assert isinstance(result, DescribedPicture)
        assert len(result.vectors) == resize_picture(picture, side=side).shape[0] // 32
        colour = np.broadcast_to(picture[0, 0], result.vectors.shape)
        np.testing.assert_array_equal(result.vectors, colour)


def test_few_shapes_reach_the_network_and_no_batch_is_short(pictures):
    recorder = Recorder()
    list(describe_pictures(pictures, recorder, sides=(128,), batch_size=4))
    assert {shape[0] for shape, _ in recorder.calls} == {4}
    canvases = {
        choose_canvas(resize_picture(p, side=128).shape[:2], side=128) for p in pictures
    }
    assert {shape[1:3] for shape, _ in recorder.calls} == canvases


def test_the_batches_do_not_depend_on_the_threads(pictures):
    one, many = Recorder(), Recorder()
    first = list(describe_pictures(pictures, one, sides=(SIDE,), workers=1))
    second = list(describe_pictures(pictures, many, sides=(SIDE,), workers=4))
    assert one.calls == many.calls
    assert [r.position for r in first] == [r.position for r in second]


def test_unreadable_pictures_are_results_and_lose_nothing(tmp_path, pictures):
    paths = [tmp_path / f"{i}.png" for i in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    paths[3].write_bytes(b"")
    paths[11].write_bytes(b"nonsense")
    paths[22].unlink()
    results = {
        r.position: r for r in describe_pictures(paths, Recorder(), sides=(SIDE,))
    }
    assert sorted(results) == list(range(23))
    bad = {n: r.reason for n, r in results.items() if isinstance(r, UnreadablePicture)}
    assert sorted(bad) == [3, 11, 22]
    assert bad[3] == "the file is empty (0 bytes)"
    assert bad[22] == "No such file or directory"


def test_unreadable_pictures_alone_never_call_the_network(tmp_path):
    recorder = Recorder()
    results = list(describe_pictures([tmp_path / "a.png"] * 30, recorder))
    assert len(results) == 30
    assert recorder.calls == []


def test_no_pictures_give_no_results():
    assert list(describe_pictures([], Recorder())) == []


def test_boxes_choose_the_part_that_is_described():
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[20:60, 30:90] = 200
    results = describe_pictures(
        [picture, picture], Recorder(), boxes=[(30, 20, 90, 60), None], sides=(SIDE,)
    )
    means = {
        r.position: r.vectors[0, 0] for r in results if isinstance(r, DescribedPicture)
    }
    assert means[0] == 200
    np.testing.assert_allclose(means[1], 200 * 0.24, atol=1)  # 40 x 60 of 100 x 100.


def test_a_bad_box_is_an_error_not_a_result(pictures):
    boxes = [None] * 22 + [(0, 0, 999, 5)]
    with pytest.raises(ValueError, match="box must be"):
        list(describe_pictures(pictures, Recorder(), boxes=boxes, sides=(SIDE,)))
    assert readers() == []


def test_closing_stops_the_threads(pictures):
    stream = describe_pictures(pictures * 20, Recorder(), sides=(SIDE,), batch_size=2)
    next(stream)
    assert readers()
    stream.close()
    assert readers() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_network_stops_the_threads(pictures, error):
    def describe(scales, regions):
        raise error(str(len(scales)) + str(regions))

    # The traceback in `caught` still holds the stream: closing must not wait for it.
    with pytest.raises(error) as caught:
        list(describe_pictures(pictures * 20, describe, sides=(SIDE,), batch_size=2))
    assert caught.traceback
    assert readers() == []


@pytest.mark.parametrize("numbers", [(0, 1, 2), (8, 0, 2), (8, 1, 0), (-1, 1, 2)])
def test_numbers_below_one_are_refused(pictures, numbers):
    batch_size, parallel_batches, workers = numbers
    stream = describe_pictures(
        pictures,
        Recorder(),
        batch_size=batch_size,
        parallel_batches=parallel_batches,
        workers=workers,
    )
    with pytest.raises(
        ValueError, match=f"got {batch_size}, {parallel_batches} and {workers}"
    ):
        next(stream)


def test_boxes_and_regions_need_one_entry_per_source(pictures):
    with pytest.raises(ValueError, match=r"boxes must have one entry .* got 1 for 23"):
        next(describe_pictures(pictures, Recorder(), boxes=[None]))
    with pytest.raises(ValueError, match=r"regions must have one entry .* got 1 for"):
        next(describe_pictures(pictures, Recorder(), regions=[None]))


def test_regions_cover_boxes_of_the_upright_picture(pictures):
    # The recorder's regions are the right half of whatever it is shown.
    boxes = [(10, 20, 50, 60), *[None] * (len(pictures) - 1)]
    for result in describe_pictures(pictures, Recorder(), boxes=boxes, sides=(SIDE,)):
        assert isinstance(result, DescribedPicture)
        height, width, _ = pictures[result.position].shape
        expected = [width / 2, 0, width, height]
        if result.position == 0:
            expected = [30, 20, 50, 60]
        np.testing.assert_allclose(result.boxes, [expected] * len(result.vectors))


def test_boxes_of_a_shrunken_and_rotated_photograph_are_in_its_pixels(tmp_path):
    # 1600 x 1200 px, stored lying, shown standing, decoded at a quarter of its size.
    image = Image.new("RGB", (1600, 1200), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    (result,) = describe_pictures(
        [tmp_path / "turned.jpg"], Recorder(), sides=(128,), batch_size=1
    )
    assert isinstance(result, DescribedPicture)
    np.testing.assert_allclose(result.boxes[0], [600, 0, 1200, 1600])


def test_given_regions_reach_the_network_as_fractions_of_the_described_part():
    picture = np.zeros((100, 200, 3), np.uint8)
    seen = []

    def describe(scales, regions):
        seen.extend(regions)
        return Recorder()(scales, regions)

    list(
        describe_pictures(
            [picture, picture, picture],
            describe,
            boxes=[None, (100, 50, 200, 100), None],
            regions=[
                np.array([[0, 0, 50, 25], [100, 50, 200, 100]], np.float32),
                np.array([[100, 50, 150, 100]], np.float32),
                None,
            ],
            sides=(SIDE,),
            batch_size=1,
        )
    )
    np.testing.assert_allclose(seen[0], [[0, 0, 0.25, 0.25], [0.5, 0.5, 1, 1]])
    np.testing.assert_allclose(seen[1], [[0, 0, 0.5, 1]])
    assert seen[2] is None


@pytest.mark.parametrize(
    "boxes", [[[0, 0, 61, 60]], [[5, 5, 5, 9]], [[0, 0, np.nan, 9]], np.zeros((0, 4))]
)
def test_regions_outside_the_picture_are_refused(pictures, boxes):
    regions = [np.array(boxes, np.float32)] + [None] * 22
    stream = describe_pictures(pictures, Recorder(), regions=regions, sides=(SIDE,))
    with pytest.raises(ValueError, match=r"regions must be one or more boxes .*60,60"):
        next(stream)


def test_every_scale_shows_the_same_pictures(pictures):
    seen = []

    def describe(scales, regions):
        seen.append([(images.shape, sizes.tolist()) for images, sizes in scales])
        means = [
            images[0, : sizes[0, 0], : sizes[0, 1]].mean((0, 1))
            for images, sizes in scales
        ]
        np.testing.assert_allclose(means[0], means[1])
        return Recorder()(scales, regions)

    list(describe_pictures(pictures, describe, sides=(128, 64), batch_size=1))
    for first, second in seen:
        assert max(first[1][0]) == 128
        assert max(second[1][0]) == 64


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Seventy small files, two of them no pictures."""
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / f"{i:02}.png" for i in range(70)]
    for i, path in enumerate(paths):
        shape = SHAPES[i % 5]
        Image.fromarray(np.full((*shape, 3), 3 * i, np.uint8)).save(path)
    paths[7].write_bytes(b"nonsense")
    paths[69].unlink()
    return paths


def test_processes_read_many_files_like_threads(files, monkeypatch):
    # Processes read 50 of the 70 files.
    monkeypatch.setattr(_loader, "MIN_FILES_FOR_PROCESSES", 20)
    many = list(describe_pictures(files, Recorder(), sides=(SIDE,)))
    assert multiprocessing.active_children() == []
    vectors = {r.position: r.vectors for r in many if isinstance(r, DescribedPicture)}
    assert sorted(vectors) == [i for i in range(70) if i not in (7, 69)]
    for position, rows in vectors.items():
        np.testing.assert_array_equal(rows, np.full_like(rows, 3 * position))
    reasons = {r.position: r.reason for r in many if isinstance(r, UnreadablePicture)}
    assert reasons[69] == "No such file or directory"
    assert set(reasons) == {7, 69}


def test_closing_stops_the_processes(files, monkeypatch):
    monkeypatch.setattr(_loader, "MIN_FILES_FOR_PROCESSES", 1)
    stream = describe_pictures(
        files * 3, Recorder(), sides=(SIDE,), batch_size=2, workers=1
    )
    next(stream)
    stream.close()
    assert readers() == []
    assert multiprocessing.active_children() == []


def test_a_script_needs_no_guard_around_it(files, tmp_path):
    # New processes of the standard library would run the script once more.
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import pathlib
import numpy as np
from diffjax.images import RegionBatch, describe_pictures

def describe(scales, regions):
    count = len(regions)
    return RegionBatch(
        np.zeros((count, 1, 2), np.float32),
        np.zeros((count, 1, 4), np.float32),
        np.ones(count, int),
    )

paths = sorted(pathlib.Path({str(files[0].parent)!r}).glob("*.png"))
print("started", len(list(describe_pictures(paths, describe, sides=(64,), workers=1))))
"""
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["started", "69"]
    assert done.stderr == ""


@pytest.mark.full
def test_a_picture_of_100_megapixels_is_described(tmp_path):
    path = tmp_path / "large.jpg"
    Image.new("RGB", (12000, 8400), (10, 200, 30)).save(path, quality=50)
    (result,) = describe_pictures([path], Recorder(), sides=(SIDE,), batch_size=1)
    assert isinstance(result, DescribedPicture)
    np.testing.assert_allclose(result.vectors[0], [10, 200, 30], atol=3)
    np.testing.assert_allclose(result.boxes[0], [6000, 0, 12000, 8400])


PICTURE_SIDE = 64


class Watched(list):
    """Sources that record how many of them were taken."""

    furthest = -1

    def __iter__(self):
        for self.furthest, source in enumerate(super().__iter__()):
            yield source


@pytest.mark.parametrize("parallel_batches", [1, 2])
def test_a_few_batches_are_read_ahead_and_no_more(parallel_batches):
    sources = Watched([np.zeros((64, 64, 3), np.uint8)] * 500)
    stream = describe_pictures(
        sources,
        Recorder(),
        sides=(PICTURE_SIDE,),
        batch_size=4,
        parallel_batches=parallel_batches,
        workers=2,
    )
    ahead = [
        sources.furthest - count for count, _ in zip(range(40), stream, strict=False)
    ]
    stream.close()
    # The batches that are computed and one that waits, 4 pictures ahead, and one for
    # each of two reading threads.
    assert max(ahead) <= 4 * (parallel_batches + 1) + 4 + 2


@pytest.mark.parametrize("parallel_batches", [1, 2, 3])
def test_as_many_batches_run_side_by_side_as_asked(parallel_batches):
    recorder = Recorder()
    together = threading.Barrier(parallel_batches, timeout=60)

    def describe(scales, regions):
        together.wait()  # In vain, if fewer ran.
        return recorder(scales, regions)

    # A number of batches that all the threads divide.
    few = [np.zeros((60, 60, 3), np.uint8)] * 6
    results = list(
        describe_pictures(
            few,
            describe,
            sides=(PICTURE_SIDE,),
            batch_size=1,
            parallel_batches=parallel_batches,
        )
    )
    assert [r.position for r in results] == list(range(6))


def test_no_more_batches_run_than_asked():
    pictures = [np.zeros((60, 60, 3), np.uint8)] * 23
    running, most = [], []

    def describe(scales, regions):
        running.append(None)
        most.append(len(running))
        got = Recorder()(scales, regions)
        time.sleep(0.01)  # Long enough that others would be seen.
        running.pop()
        return got

    stream = describe_pictures(pictures, describe, sides=(PICTURE_SIDE,), batch_size=1)
    assert len(list(stream)) == 23
    assert max(most) == 1


def test_the_next_batch_is_gathered_while_one_is_computed():
    sources = Watched([np.zeros((64, 64, 3), np.uint8)] * 12)

    def describe(scales, regions):
        # In vain, if the stream waited for this batch of two before it went on.
        end = time.monotonic() + 60
        while sources.furthest < 6:
            assert time.monotonic() < end
            time.sleep(0.001)
        return Recorder()(scales, regions)

    stream = describe_pictures(
        sources, describe, sides=(PICTURE_SIDE,), batch_size=2, workers=1
    )
    assert len(list(stream)) == 12
