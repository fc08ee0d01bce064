"""Image loader: reads and resizes pictures ahead, in threads or processes."""

import collections
import contextlib
import itertools
import os
import signal
from collections.abc import Generator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from ._canvas import resize_image
from ._reading import Box, PictureError, PictureSource, read_picture_part

_NICENESS = 19  # Lowest priority of a process.
MIN_FILES_FOR_PROCESSES = 64  # From so many files, processes are worth their start.
_PICTURES_PER_TASK = 8  # Pictures that a process reads per task.


class ResizedPicture(NamedTuple):
    """Picture, or part of one, resized for a network.

    Attributes:
        pixels: Pixels, resized to each of the requested sides.
        shown_box: Part that they show, (x0, y0, x1, y1) in pixels of the upright
            picture.
    """

    pixels: tuple[UInt8[np.ndarray, "_ _ 3"], ...]
    shown_box: tuple[int, int, int, int]


class UnreadablePicture(NamedTuple):
    """Picture that could not be read.

    Attributes:
        position: Position of the picture in the sources.
        reason: Reason in one line, without the name of the picture.
    """

    position: int
    reason: str


class LoadedPicture(NamedTuple):
    """Picture that was read and resized.

    Attributes:
        position: Position of the picture in the sources.
        resized: Pixels of the picture.
    """

    position: int
    resized: ResizedPicture


def read_resized(
    source: PictureSource, *, box: Box | None = None, sides: tuple[int, ...] = (320,)
) -> ResizedPicture:
    """Reads and resizes a picture; see `read_pixels` and `resize_picture`.

    Needs only NumPy and Pillow, so that a process that only reads pictures starts fast
    and stays small.

    Args:
        source: Path, Pillow image or uint8 pixels [h, w, 3].
        box: Part of the picture, in pixels of the upright picture; None is all of it.
        sides: Longer sides in pixels, each as for `resize_picture`; at least one.

    Returns:
        The resized pixels.

    Raises:
        PictureError: If the picture can't be read.
        ValueError: If the box is not inside the picture, or a side is not a multiple of
            32 of at least 64.
    """
    # Twice the side is enough for antialiasing.
    image, shown_box = read_picture_part(source, box=box, shrink_to=2 * max(sides))
    pixels = tuple(np.asarray(resize_image(image, side=side)) for side in sides)
    return ResizedPicture(pixels, shown_box)


def read_resized_batch(
    requests: Sequence[tuple[PictureSource, Box | None]], *, sides: tuple[int, ...]
) -> list[ResizedPicture | PictureError]:
    """Reads pictures as `read_resized` does; unreadable ones become their errors.

    Args:
        requests: Pictures, each with a part to read, or None for all of it.
        sides: Longer sides in pixels, as for `read_resized`.

    Returns:
        One result per picture.

    Raises:
        ValueError: If a box is not inside its picture.
    """
    results: list[ResizedPicture | PictureError] = []
    for source, box in requests:
        try:
            results.append(read_resized(source, box=box, sides=sides))
        except PictureError as error:
            results.append(error)
    return results


def initialize_reader_process() -> None:
    """Prepares a worker process that only reads pictures.

    It ignores Ctrl-C, which reaches it, too: the parent process handles that. It takes
    the lowest priority, because every step of the network waits for the slowest of its
    threads and they share the cores.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICENESS)


def prefetch_pictures(
    sources: Sequence[PictureSource],
    boxes: Sequence[Box | None] | None,
    *,
    sides: tuple[int, ...],
    ahead: int,
    workers: int,
) -> Generator[LoadedPicture | UnreadablePicture, None, None]:
    """Yields pictures in order while the next ones are being read.

    Many files are read by processes: decoding in threads holds the interpreter's lock,
    which a network on an accelerator would wait for. The order, and so every result,
    is the same with threads.

    Args:
        sources: Paths, Pillow images or uint8 pixels [h, w, 3].
        boxes: Part of each picture to read; None for one, or for all, is all of it.
        sides: Longer sides in pixels, as for `read_resized`.
        ahead: Number of pictures read ahead, beside those that workers are reading.
        workers: Number of threads or processes.

    Yields:
        One result per source.

    Raises:
        ValueError: If a box is not inside its picture.
        OSError: If the system ended a worker process.
    """
    box_of_picture = itertools.repeat(None, len(sources)) if boxes is None else boxes
    pending: collections.deque[Future[list[ResizedPicture | PictureError]]]
    pending = collections.deque()
    with contextlib.ExitStack() as executors:
        first_executor, later_executor = _start_executors(sources, workers, executors)
        task_size = 1 if later_executor is first_executor else _PICTURES_PER_TASK
        remaining = zip(sources, box_of_picture, strict=True)
        submitted = finished = 0

        def submit() -> None:
            nonlocal submitted
            while submitted < len(sources) and (
                submitted - finished < ahead + workers * task_size
            ):
                executor, size = (
                    (first_executor, 1)
                    if submitted < MIN_FILES_FOR_PROCESSES
                    else (later_executor, task_size)
                )
                task = list(itertools.islice(remaining, size))
                pending.append(executor.submit(read_resized_batch, task, sides=sides))
                submitted += len(task)

        submit()
        while pending:
            results = _await_result(pending.popleft())
            start, finished = finished, finished + len(results)
            submit()
            for position, resized in enumerate(results, start=start):
                if isinstance(resized, PictureError):
                    yield UnreadablePicture(position, resized.reason)
                else:
                    yield LoadedPicture(position, resized)


def _await_result(
    future: Future[list[ResizedPicture | PictureError]],
) -> list[ResizedPicture | PictureError]:
    try:
        return future.result()
    except BrokenExecutor as error:
        raise OSError(
            "a process that read pictures was ended by the system, for want of memory "
            "perhaps; run the same command, with fewer workers"
        ) from error


def _start_executors(
    sources: Sequence[PictureSource], workers: int, executors: contextlib.ExitStack
) -> tuple[Executor, Executor]:
    """Starts the executor of the first pictures and the one of the others."""
    threads = ThreadPoolExecutor(workers, thread_name_prefix="diffjax-read")
    executors.callback(threads.shutdown, cancel_futures=True)
    if len(sources) < MIN_FILES_FOR_PROCESSES or not all(
        isinstance(s, str | os.PathLike) for s in sources
    ):
        return threads, threads
    from loky.process_executor import ProcessPoolExecutor  # noqa: PLC0415  # Slow.

    # loky, because processes of the standard library run the user's script again, up to
    # the call that starts them, unless it has a guard.
    processes = ProcessPoolExecutor(workers, initializer=initialize_reader_process)
    executors.callback(processes.shutdown, kill_workers=True)
    processes.submit(int)  # Starts them while threads read the first pictures.
    return threads, processes
