import threading
import time

import numpy as np
import pytest
from PIL import Image

from diffjax.data import canvas_for, fit_picture
from diffjax.features import (
    Described,
    RegionBatch,
    Unreadable,
    describe_pictures,
)

SIDE = 64
SHAPES = [(60, 60), (40, 64), (64, 40), (64, 90), (30, 120)]


@pytest.fixture
def pictures():
    """Twenty-three pictures of five proportions, each of one colour of its own."""
    return [
        np.full((*SHAPES[i % 5], 3), (10 * i, 255 - 10 * i, 7), np.uint8)
        for i in range(23)
    ]


class Recorder:
    """A `describe` that gives the mean colour, once per 32 px of height."""

    def __init__(self):
        self.calls = []

    def __call__(self, images, sizes):
        self.calls.append((images.shape, sizes.tolist()))
        counts = sizes[:, 0] // 32
        vectors = np.full((len(images), counts.max() + 1, 3), np.nan, np.float32)
        for i, (height, width) in enumerate(sizes):
            assert not images[i, height:].any()
            assert not images[i, :, width:].any()
            vectors[i, : counts[i]] = images[i, :height, :width].mean((0, 1))
        return RegionBatch(vectors, counts)


def readers():
    return [t for t in threading.enumerate() if t.name.startswith("diffjax-read")]


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("side", [64, 128])
def test_every_picture_gets_its_own_vectors(pictures, batch_size, workers, side):
    recorder = Recorder()
    results = list(
        describe_pictures(
            pictures, recorder, side=side, batch_size=batch_size, workers=workers
        )
    )
    assert sorted(r.position for r in results) == list(range(23))
    for result in results:
        picture = pictures[result.position]
        assert isinstance(result, Described)
        assert len(result.vectors) == fit_picture(picture, side=side).shape[0] // 32
        colour = np.broadcast_to(picture[0, 0], result.vectors.shape)
        np.testing.assert_array_equal(result.vectors, colour)


def test_few_shapes_reach_the_network_and_no_batch_is_short(pictures):
    recorder = Recorder()
    list(describe_pictures(pictures, recorder, side=128, batch_size=4))
    assert {shape[0] for shape, _ in recorder.calls} == {4}
    canvases = {
        canvas_for(fit_picture(p, side=128).shape[:2], side=128) for p in pictures
    }
    assert {shape[1:3] for shape, _ in recorder.calls} == canvases


def test_the_batches_do_not_depend_on_the_threads(pictures):
    one, many = Recorder(), Recorder()
    first = list(describe_pictures(pictures, one, side=SIDE, workers=1))
    second = list(describe_pictures(pictures, many, side=SIDE, workers=4))
    assert one.calls == many.calls
    assert [r.position for r in first] == [r.position for r in second]


def test_unreadable_pictures_are_results_and_lose_nothing(tmp_path, pictures):
    paths = [tmp_path / f"{i}.png" for i in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    paths[3].write_bytes(b"")
    paths[11].write_bytes(b"nonsense")
    paths[22].unlink()
    results = {r.position: r for r in describe_pictures(paths, Recorder(), side=SIDE)}
    assert sorted(results) == list(range(23))
    bad = {n: r.reason for n, r in results.items() if isinstance(r, Unreadable)}
    assert sorted(bad) == [3, 11, 22]
    assert bad[3] == "the file is empty (0 bytes)"
    assert bad[22] == "No such file or directory"


def test_nothing_but_unreadable_pictures_never_asks_the_network(tmp_path):
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
        [picture, picture], Recorder(), boxes=[(30, 20, 90, 60), None], side=SIDE
    )
    means = {r.position: r.vectors[0, 0] for r in results if isinstance(r, Described)}
    assert means[0] == 200
    np.testing.assert_allclose(means[1], 200 * 0.24, atol=1)  # 40 x 60 of 100 x 100.


def test_a_bad_box_is_an_error_not_a_result(pictures):
    boxes = [None] * 22 + [(0, 0, 999, 5)]
    with pytest.raises(ValueError, match="box must be"):
        list(describe_pictures(pictures, Recorder(), boxes=boxes, side=SIDE))
    assert readers() == []


class Watched(list):
    """Sources that remember how far the threads have read them."""

    furthest = -1

    def __getitem__(self, index):
        if threading.current_thread() in readers():  # Not who checks the arguments.
            self.furthest = max(self.furthest, index)
        return super().__getitem__(index)


def test_a_batch_is_read_ahead_and_no_more():
    sources = Watched([np.zeros((64, 64, 3), np.uint8)] * 500)
    furthest = []

    def describe(images, _):
        # By now 4 (i + 1) are taken, and 4 ahead and one per thread may be under way.
        allowed = 4 * (len(furthest) + 1) + 4 + 2
        patience = time.monotonic() + 30
        while sources.furthest < allowed - 1 and time.monotonic() < patience:
            time.sleep(0.001)
        furthest.append(sources.furthest)
        return RegionBatch(
            np.zeros((len(images), 1, 2), np.float32), np.ones(len(images), int)
        )

    stream = describe_pictures(sources, describe, side=SIDE, batch_size=4, workers=2)
    for _ in range(20):
        next(stream)
    stream.close()
    assert furthest == [9, 13, 17, 21, 25, 29]


def test_a_batch_is_started_before_the_one_before_is_given_out(pictures):
    recorder = Recorder()
    stream = describe_pictures(pictures[::5], recorder, side=SIDE, batch_size=1)
    started = [len(recorder.calls) for _ in stream]
    assert started == [2, 3, 4, 5, 5]


def test_closing_stops_the_threads(pictures):
    stream = describe_pictures(pictures * 20, Recorder(), side=SIDE, batch_size=2)
    next(stream)
    assert readers()
    stream.close()
    assert readers() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_network_stops_the_threads(pictures, error):
    def describe(images, sizes):
        raise error(str(images.shape) + str(sizes))

    # The traceback in `caught` still holds the stream: closing must not wait for it.
    with pytest.raises(error) as caught:
        list(describe_pictures(pictures * 20, describe, side=SIDE, batch_size=2))
    assert caught.traceback
    assert readers() == []


@pytest.mark.parametrize(("batch_size", "workers"), [(0, 2), (8, 0), (-1, 2)])
def test_numbers_below_one_are_refused(pictures, batch_size, workers):
    stream = describe_pictures(
        pictures, Recorder(), batch_size=batch_size, workers=workers
    )
    with pytest.raises(ValueError, match=f"got {batch_size} and {workers}"):
        next(stream)


def test_every_source_needs_its_box(pictures):
    with pytest.raises(ValueError, match=r"boxes must have one entry .* got 1 for 23"):
        next(describe_pictures(pictures, Recorder(), boxes=[None]))
