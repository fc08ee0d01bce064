"""Extraction of region vectors from many pictures, in batches of one canvas."""

import collections
import contextlib
import os
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from ._canvas import choose_canvas
from ._loader import LoadedPicture, UnreadablePicture, prefetch_pictures
from ._reading import MIN_BOX, Box, PictureSource

BoxArray = Float[np.ndarray, "_ 4"]


class PictureBatch(NamedTuple):
    """Pictures of one canvas.

    Attributes:
        images: Pictures at the top left of zeros.
        sizes: (height, width) of each picture without the zeros.
    """

    images: UInt8[np.ndarray, "b h w 3"]
    sizes: Int[np.ndarray, "b 2"]


class RegionBatch(NamedTuple):
    """Region vectors of a batch of pictures.

    Attributes:
        vectors: One per region; the first `counts[i]` of picture i are real.
        boxes: What each region covers, (x0, y0, x1, y1) in parts of the picture's
            width and height.
        counts: Number of regions of each picture.
    """

    vectors: Float[Array | np.ndarray, "b r c"]
    boxes: Float[np.ndarray, "b r 4"]
    counts: Int[np.ndarray, " b"]


class DescribedPicture(NamedTuple):
    """The region vectors of one picture.

    Attributes:
        position: Which of the sources it was.
        vectors: One per region.
        boxes: What each region covers, (x0, y0, x1, y1) in pixels of the upright
            picture, the last column and row not included.
    """

    position: int
    vectors: Float[np.ndarray, "r c"]
    boxes: Float[np.ndarray, "r 4"]


@runtime_checkable
class BatchDescriber(Protocol):
    """Computes region vectors of a batch of pictures.

    A picture's vectors must depend on nothing but the picture: neither on the padding
    nor on the others of the batch. The call may return before the device is done. It
    comes from a thread of its own, from several where it is asked for several batches
    at once.
    """

    def __call__(
        self, scales: tuple[PictureBatch, ...], regions: tuple[BoxArray | None, ...], /
    ) -> RegionBatch:
        """Describes pictures.

        Args:
            scales: The same pictures at every scale asked for, each of one canvas.
            regions: For each picture the boxes to describe, in parts of its width and
                height as in `RegionBatch`; None is the grid.

        Returns:
            The region vectors.
        """
        ...


def describe_pictures(
    sources: Sequence[PictureSource],
    describe: BatchDescriber,
    *,
    boxes: Sequence[Box | None] | None = None,
    regions: Sequence[BoxArray | None] | None = None,
    sides: tuple[int, ...] = (320,),
    batch_size: int = 8,
    parallel_batches: int = 1,
    workers: int = 2,
) -> Generator[DescribedPicture | UnreadablePicture, None, None]:
    """Describes many pictures, in a stream of bounded memory.

    Others read and scale pictures ahead: processes where there are 64 files or more,
    else threads. Pictures of one canvas go to `describe` in batches of one size, the
    last ones filled up with copies, so that few shapes are ever compiled: five for one
    scale. While the device computes a batch the next one is gathered. Which pictures
    share a batch, and the order of the results, follow from `sources` alone.

    Closing the iterator, or an exception inside it such as Ctrl-C, stops the readers.

    Args:
        sources: Paths, Pillow images or uint8 pixels [h, w, 3].
        describe: The network and the pooling, see `BatchDescriber`.
        boxes: The part of each picture that is described, (x0, y0, x1, y1) in pixels of
            the upright picture; None for a picture, or for all, is the whole.
        regions: The regions of each picture, boxes in pixels of the upright picture,
            inside its part; None for a picture, or for all, is the grid.
        sides: Longer sides in pixels at which pictures enter the network, each a
            multiple of 32 of at least 64.
        batch_size: Pictures per call of `describe`, at least 1.
        parallel_batches: Calls of `describe` that run side by side, at least 1. With
            two, cores that wait for the last part of a layer have another picture to
            work on.
        workers: Who reads pictures, at least 1.

    Yields:
        One result per source, batch by batch: sort by `position` if order matters.
        Pictures that can't be read are results, too.

    Raises:
        ValueError: If `boxes` or `regions` has not one entry per source, a box is not
            inside its picture, or a number is out of range. Raised on the first step.
    """
    for name, given in (("boxes", boxes), ("regions", regions)):
        if given is not None and len(given) != len(sources):
            raise ValueError(
                f"{name} must have one entry per source, got {len(given)} for "
                f"{len(sources)} sources."
            )
    if min(batch_size, parallel_batches, workers) < 1:
        raise ValueError(
            "batch_size, parallel_batches and workers must be at least 1, got "
            f"{batch_size}, {parallel_batches} and {workers}."
        )

    def compute(item: list[LoadedPicture]) -> list[DescribedPicture]:
        own = tuple(_relative_regions(picture, regions, sources) for picture in item)
        own += own[:1] * (batch_size - len(own))
        scales = _stack_scales(item, sides=sides, batch_size=batch_size)
        return _split_batch(item, describe(scales, own))

    running: collections.deque[Future[list[DescribedPicture]]] = collections.deque()
    pictures = prefetch_pictures(
        sources, boxes, sides=sides, ahead=batch_size, workers=workers
    )
    threads = ThreadPoolExecutor(
        parallel_batches, thread_name_prefix="diffjax-describe"
    )
    # Closed here, not by the garbage collector: a traceback would keep it alive.
    with contextlib.closing(pictures), threads:
        try:
            for item in _group_by_canvas(pictures, sides=sides, batch_size=batch_size):
                if isinstance(item, UnreadablePicture):
                    yield item
                    continue
                running.append(threads.submit(compute, item))
                # One more than run, so that none waits for the next to be gathered.
                if len(running) > parallel_batches:
                    yield from running.popleft().result()
            while running:
                yield from running.popleft().result()
        finally:
            for waiting in running:
                waiting.cancel()


def _group_by_canvas(
    pictures: Iterator[LoadedPicture | UnreadablePicture],
    *,
    sides: tuple[int, ...],
    batch_size: int,
) -> Iterator[list[LoadedPicture] | UnreadablePicture]:
    """Gathers pictures of one canvas; the unreadable ones pass at once."""
    gathered: dict[tuple, list[LoadedPicture]] = collections.defaultdict(list)
    for picture in pictures:
        if isinstance(picture, UnreadablePicture):
            yield picture
            continue
        canvases = tuple(
            choose_canvas(pixels.shape[:2], side=side)
            for pixels, side in zip(picture.resized.pixels, sides, strict=True)
        )
        gathered[canvases].append(picture)
        if len(gathered[canvases]) == batch_size:
            yield gathered.pop(canvases)
    yield from gathered.values()


def _stack_scales(
    pictures: list[LoadedPicture], *, sides: tuple[int, ...], batch_size: int
) -> tuple[PictureBatch, ...]:
    """Stacks pictures of one canvas; missing ones are copies of the first."""
    pictures = pictures + pictures[:1] * (batch_size - len(pictures))
    batches = []
    for scale, side in enumerate(sides):
        each = [picture.resized.pixels[scale] for picture in pictures]
        canvas = choose_canvas(each[0].shape[:2], side=side)
        images = np.zeros((batch_size, *canvas, 3), np.uint8)
        for image, pixels in zip(images, each, strict=True):
            image[: pixels.shape[0], : pixels.shape[1]] = pixels
        sizes = np.array([pixels.shape[:2] for pixels in each], np.int32)
        batches.append(PictureBatch(images, sizes))
    return tuple(batches)


def _relative_regions(
    picture: LoadedPicture,
    regions: Sequence[BoxArray | None] | None,
    sources: Sequence[PictureSource],
) -> BoxArray | None:
    """The picture's own regions in parts of what is described of it, if it has any."""
    own = None if regions is None else regions[picture.position]
    if own is None:
        return None
    x0, y0, x1, y1 = picture.resized.shown_box
    corner, size = np.array([x0, y0] * 2), np.array([x1 - x0, y1 - y0] * 2)
    inside = (own >= corner) & (own <= corner + size)
    # Written so that NaN fails, too.
    large = own[:, 2:] - own[:, :2] >= MIN_BOX
    bad = np.flatnonzero(~(inside.all(1) & large.all(1)))
    if len(own) == 0 or bad.size:
        what = "none" if len(own) == 0 else f"{own[bad[0]].tolist()} in row {bad[0]}"
        source = sources[picture.position]
        named = isinstance(source, str | os.PathLike)
        name = os.fspath(source) if named else "picture"
        raise ValueError(
            f"regions must be one or more boxes x0,y0,x1,y1 inside {x0},{y0},{x1},{y1} "
            f"of {name}, of {MIN_BOX} px or more on each side, got {what}."
        )
    return ((own - corner) / size).astype(np.float32)


def _split_batch(
    pictures: list[LoadedPicture], regions: RegionBatch
) -> list[DescribedPicture]:
    """Waits for a batch and takes it apart; what filled it up is left out."""
    vectors = np.asarray(regions.vectors)
    described = []
    for slot, picture in enumerate(pictures):
        count = regions.counts[slot]
        x0, y0, x1, y1 = picture.resized.shown_box
        boxes = regions.boxes[slot, :count] * np.array(
            [x1 - x0, y1 - y0] * 2, np.float32
        )
        described.append(
            DescribedPicture(
                position=picture.position,
                vectors=vectors[slot, :count].copy(),
                boxes=boxes + np.array([x0, y0] * 2, np.float32),
            )
        )
    return described
