"""Pictures to region vectors: threads decode while the network computes."""

import collections
import contextlib
import itertools
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from diffjax.data import (
    Box,
    PictureError,
    PictureSource,
    as_picture,
    canvas_for,
    fit_picture,
)


class RegionBatch(NamedTuple):
    """Region vectors of a batch of pictures.

    Attributes:
        vectors: One per region; the first `counts[i]` of picture i are real.
        counts: Number of regions of each picture.
    """

    vectors: Float[Array | np.ndarray, "b r c"]
    counts: Int[np.ndarray, " b"]


class Described(NamedTuple):
    """The region vectors of one picture.

    Attributes:
        position: Which of the sources it was.
        vectors: One per region.
    """

    position: int
    vectors: Float[np.ndarray, "r c"]


class Unreadable(NamedTuple):
    """A picture that could not be read.

    Attributes:
        position: Which of the sources it was.
        reason: What is wrong with it, in one line, without its name.
    """

    position: int
    reason: str


@runtime_checkable
class Describe(Protocol):
    """Computes region vectors of a batch of pictures of one canvas.

    A picture's vectors must depend on nothing but the picture: neither on the padding
    nor on the others of the batch. The call may return before the device is done.
    """

    def __call__(
        self, images: UInt8[np.ndarray, "b h w 3"], sizes: Int[np.ndarray, "b 2"], /
    ) -> RegionBatch:
        """Describes pictures.

        Args:
            images: Pictures at the top left of zeros.
            sizes: (height, width) of each picture without the zeros.

        Returns:
            The region vectors.
        """
        ...


class _Fitted(NamedTuple):
    """A picture ready for the network.

    Attributes:
        position: Which of the sources it was.
        pixels: Scaled to one of `fitted_sizes`.
    """

    position: int
    pixels: UInt8[np.ndarray, "h w 3"]


class _Batch(NamedTuple):
    """A batch on the device.

    Attributes:
        positions: Which of the sources they were, in order; fewer than the batch has
            where it was filled up.
        regions: What `describe` gave.
    """

    positions: list[int]
    regions: RegionBatch


def describe_pictures(
    sources: Sequence[PictureSource],
    describe: Describe,
    *,
    boxes: Sequence[Box | None] | None = None,
    side: int = 320,
    batch_size: int = 8,
    workers: int = 2,
) -> Generator[Described | Unreadable, None, None]:
    """Describes many pictures, in a stream of bounded memory.

    Threads read and scale pictures ahead; pictures of one canvas go to `describe` in
    batches of one size, the last ones filled up with copies, so at most five shapes
    are ever compiled. While the device computes a batch the next one is gathered. Which
    pictures share a batch follows from `sources` alone.

    Closing the iterator, or an exception inside it such as Ctrl-C, stops the threads.

    Args:
        sources: Paths, Pillow images or uint8 pixels [h, w, 3].
        describe: The network and the pooling, see `Describe`.
        boxes: The part of each picture that is described, (x0, y0, x1, y1) in pixels of
            the upright picture; None for a picture, or for all, is the whole.
        side: Longer side in pixels at which pictures enter the network, a multiple of
            32 of at least 64.
        batch_size: Pictures per call of `describe`, at least 1.
        workers: Threads that read pictures, at least 1.

    Yields:
        One result per source, batch by batch: sort by `position` if order matters.
        Pictures that can't be read are results, too.

    Raises:
        ValueError: If `boxes` has not one entry per source, a box is not inside its
            picture, or a number is out of range. Raised on the first step.
    """
    if boxes is not None and len(boxes) != len(sources):
        raise ValueError(
            f"boxes must have one entry per source, got {len(boxes)} for "
            f"{len(sources)} sources."
        )
    if batch_size < 1 or workers < 1:
        raise ValueError(
            "batch_size and workers must be at least 1, got "
            f"{batch_size} and {workers}."
        )
    running: _Batch | None = None
    pictures = _read_ahead(sources, boxes, side=side, ahead=batch_size, workers=workers)
    # Closed here, not by the garbage collector: a traceback would keep it alive.
    with contextlib.closing(pictures):
        for item in _batches(pictures, side=side, batch_size=batch_size):
            if isinstance(item, Unreadable):
                yield item
                continue
            inputs = _inputs(item, side=side, batch_size=batch_size)
            started = _Batch([picture.position for picture in item], describe(*inputs))
            if running is not None:
                yield from _results(running)
            running = started
        if running is not None:
            yield from _results(running)


def _read_ahead(
    sources: Sequence[PictureSource],
    boxes: Sequence[Box | None] | None,
    *,
    side: int,
    ahead: int,
    workers: int,
) -> Generator[_Fitted | Unreadable, None, None]:
    """Gives the pictures in order, with a batch of them read ahead."""

    def read(position: int) -> _Fitted | Unreadable:
        box = None if boxes is None else boxes[position]
        try:
            # Twice the side leaves enough to antialias.
            picture = as_picture(sources[position], box=box, shrink_to=2 * side)
        except PictureError as error:
            return Unreadable(position, error.reason)
        return _Fitted(position, fit_picture(picture, side=side))

    positions = iter(range(len(sources)))
    waiting: collections.deque[Future[_Fitted | Unreadable]] = collections.deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="diffjax-read")
    try:
        for first in itertools.islice(positions, ahead + workers):
            waiting.append(pool.submit(read, first))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(read, n) for n in itertools.islice(positions, 1))
            yield done
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(
    pictures: Iterator[_Fitted | Unreadable], *, side: int, batch_size: int
) -> Iterator[list[_Fitted] | Unreadable]:
    """Gathers pictures of one canvas; the unreadable ones pass at once."""
    gathered: dict[tuple[int, int], list[_Fitted]] = collections.defaultdict(list)
    for picture in pictures:
        if isinstance(picture, Unreadable):
            yield picture
            continue
        canvas = canvas_for(_size(picture), side=side)
        gathered[canvas].append(picture)
        if len(gathered[canvas]) == batch_size:
            yield gathered.pop(canvas)
    yield from gathered.values()


class _Inputs(NamedTuple):
    """What `describe` takes.

    Attributes:
        images: Pictures at the top left of zeros.
        sizes: (height, width) of each picture without the zeros.
    """

    images: UInt8[np.ndarray, "b h w 3"]
    sizes: Int[np.ndarray, "b 2"]


def _inputs(pictures: list[_Fitted], *, side: int, batch_size: int) -> _Inputs:
    """Stacks pictures of one canvas; missing ones are copies of the first."""
    pictures = pictures + pictures[:1] * (batch_size - len(pictures))
    canvas = canvas_for(_size(pictures[0]), side=side)
    images = np.zeros((batch_size, *canvas, 3), np.uint8)
    for image, picture in zip(images, pictures, strict=True):
        height, width = _size(picture)
        image[:height, :width] = picture.pixels
    return _Inputs(images, np.array([_size(p) for p in pictures], np.int32))


def _results(batch: _Batch) -> Iterator[Described]:
    """Waits for a batch and takes it apart."""
    vectors = np.asarray(batch.regions.vectors)
    for slot, position in enumerate(batch.positions):
        count = batch.regions.counts[slot]
        yield Described(position, vectors[slot, :count].copy())


def _size(picture: _Fitted) -> tuple[int, int]:
    height, width, _ = picture.pixels.shape
    return height, width
