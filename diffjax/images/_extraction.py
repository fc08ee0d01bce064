"""Extraction of region vectors from many pictures, in batches of one canvas size."""

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
    """Batch of pictures, padded to one canvas.

    Attributes:
        images: Pictures, each at the top left, padded with zeros.
        sizes: (height, width) of each picture without the padding.
    """

    images: UInt8[np.ndarray, "b h w 3"]
    sizes: Int[np.ndarray, "b 2"]


class RegionBatch(NamedTuple):
    """Region vectors of a batch of pictures.

    Attributes:
        vectors: Region vectors; the first `counts[i]` of picture i are real, the rest
            is padding.
        boxes: Box of each region, (x0, y0, x1, y1) as fractions of the picture's width
            and height.
        counts: Number of regions of each picture.
    """

    vectors: Float[Array | np.ndarray, "b r c"]
    boxes: Float[np.ndarray, "b r 4"]
    counts: Int[np.ndarray, " b"]


class DescribedPicture(NamedTuple):
    """Region vectors of one picture.

    Attributes:
        position: Position of the picture in the sources.
        vectors: Region vectors, one per row.
        boxes: Box of each region, (x0, y0, x1, y1) in pixels of the upright picture,
            the last column and row not included.
    """

    position: int
    vectors: Float[np.ndarray, "r c"]
    boxes: Float[np.ndarray, "r 4"]


@runtime_checkable
class BatchDescriber(Protocol):
    """Function that computes region vectors of a batch of pictures.

    The vectors of a picture must depend neither on the padding nor on the other
    pictures of the batch. The call may return before the device is done. It is made
    in a worker thread, or in several with `parallel_batches`.
    """

    def __call__(
        self, scales: tuple[PictureBatch, ...], regions: tuple[BoxArray | None, ...], /
    ) -> RegionBatch:
        """Computes the region vectors of a batch.

        Args:
            scales: The same pictures at every scale, each scale of one canvas.
            regions: Boxes of each picture to describe, as fractions of its width and
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
    """Computes region vectors of many pictures, as a stream of bounded memory.

    Workers read and resize pictures ahead: processes for 64 files or more, else
    threads. Pictures of one canvas go to `describe` in batches of one size, the last
    ones padded with copies, so that few shapes are compiled: five per scale. The next
    batch is gathered while the device computes one. The composition of the batches and
    the order of the results depend on `sources` alone.

    Closing the iterator, or an exception inside it such as Ctrl-C, stops the workers.

    Args:
        sources: Paths, Pillow images or uint8 pixels [h, w, 3].
        describe: Computes the vectors of a batch, see `BatchDescriber`.
        boxes: Part of each picture to describe, (x0, y0, x1, y1) in pixels of the
            upright picture; None for a picture, or for all, is all of it.
        regions: Regions of each picture, boxes in pixels of the upright picture, inside
            its part; None for a picture, or for all, is the grid.
        sides: Longer sides in pixels at which pictures enter the network, each a
            multiple of 32 of at least 64.
        batch_size: Number of pictures per call of `describe`, at least 1.
        parallel_batches: Number of simultaneous calls of `describe`, at least 1. With
            two, cores that wait for the end of a layer work on another picture.
        workers: Number of threads or processes that read pictures, at least 1.

    Yields:
        One result per source, batch by batch: sort by `position` if order matters.
        Unreadable pictures are results, too.

    Raises:
        ValueError: If `boxes` or `regions` has not one entry per source, a box is not
            inside its picture, or a number is out of range. Raised at the first `next`.
    """
    for name, entries in (("boxes", boxes), ("regions", regions)):
        if entries is not None and len(entries) != len(sources):
            raise ValueError(
                f"{name} must have one entry per source, got {len(entries)} for "
                f"{len(sources)} sources."
            )
    if min(batch_size, parallel_batches, workers) < 1:
        raise ValueError(
            "batch_size, parallel_batches and workers must be at least 1, got "
            f"{batch_size}, {parallel_batches} and {workers}."
        )

    def describe_batch(batch: list[LoadedPicture]) -> list[DescribedPicture]:
        fractions = tuple(_relative_regions(p, regions, sources) for p in batch)
        fractions += fractions[:1] * (batch_size - len(fractions))
        scales = _stack_scales(batch, sides=sides, batch_size=batch_size)
        return _split_batch(batch, describe(scales, fractions))

    pending: collections.deque[Future[list[DescribedPicture]]] = collections.deque()
    pictures = prefetch_pictures(
        sources, boxes, sides=sides, ahead=batch_size, workers=workers
    )
    threads = ThreadPoolExecutor(
        parallel_batches, thread_name_prefix="diffjax-describe"
    )
    # Closed explicitly: a traceback would keep the generator alive.
    with contextlib.closing(pictures), threads:
        try:
            for item in _group_by_canvas(pictures, sides=sides, batch_size=batch_size):
                if isinstance(item, UnreadablePicture):
                    yield item
                    continue
                pending.append(threads.submit(describe_batch, item))
                # One more than run, so that no thread waits for a batch.
                if len(pending) > parallel_batches:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _group_by_canvas(
    pictures: Iterator[LoadedPicture | UnreadablePicture],
    *,
    sides: tuple[int, ...],
    batch_size: int,
) -> Iterator[list[LoadedPicture] | UnreadablePicture]:
    """Groups pictures of one canvas into batches; yields unreadable ones at once."""
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
    """Stacks pictures of one canvas; pads the batch with copies of the first."""
    pictures = pictures + pictures[:1] * (batch_size - len(pictures))
    batches = []
    for scale, side in enumerate(sides):
        resized = [picture.resized.pixels[scale] for picture in pictures]
        canvas = choose_canvas(resized[0].shape[:2], side=side)
        images = np.zeros((batch_size, *canvas, 3), np.uint8)
        for image, pixels in zip(images, resized, strict=True):
            image[: pixels.shape[0], : pixels.shape[1]] = pixels
        sizes = np.array([pixels.shape[:2] for pixels in resized], np.int32)
        batches.append(PictureBatch(images, sizes))
    return tuple(batches)


def _relative_regions(
    picture: LoadedPicture,
    regions: Sequence[BoxArray | None] | None,
    sources: Sequence[PictureSource],
) -> BoxArray | None:
    """Converts given regions to fractions of the described part; None without any."""
    boxes = None if regions is None else regions[picture.position]
    if boxes is None:
        return None
    x0, y0, x1, y1 = picture.resized.shown_box
    corner, size = np.array([x0, y0] * 2), np.array([x1 - x0, y1 - y0] * 2)
    is_inside = (boxes >= corner) & (boxes <= corner + size)
    is_large = boxes[:, 2:] - boxes[:, :2] >= MIN_BOX
    # Negated comparisons, so that NaN fails, too.
    invalid = np.flatnonzero(~(is_inside.all(1) & is_large.all(1)))
    if len(boxes) == 0 or invalid.size:
        received = "none"
        if len(boxes):
            row = invalid[0]
            received = f"{boxes[row].tolist()} in row {row}"
        source = sources[picture.position]
        name = os.fspath(source) if isinstance(source, str | os.PathLike) else "picture"
        raise ValueError(
            f"regions must be one or more boxes x0,y0,x1,y1 inside {x0},{y0},{x1},{y1} "
            f"of {name}, of {MIN_BOX} px or more on each side, got {received}."
        )
    return ((boxes - corner) / size).astype(np.float32)


def _split_batch(
    pictures: list[LoadedPicture], regions: RegionBatch
) -> list[DescribedPicture]:
    """Waits for a batch and splits it into pictures, without the padding."""
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
