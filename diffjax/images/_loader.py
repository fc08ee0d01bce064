"""Image loader: pictures read and resized ahead, by threads or processes."""

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

_NICENESS = 19


class ResizedPicture(NamedTuple):
    """A picture, or a part of one, ready for a network.

    Attributes:
        pixels: It, scaled to each side that was asked for.
        shown_box: What that shows, (x0, y0, x1, y1) in pixels of the upright picture.
    """

    pixels: tuple[UInt8[np.ndarray, "_ _ 3"], ...]
    shown_box: tuple[int, int, int, int]


def read_resized(
    source: PictureSource, *, box: Box | None = None, sides: tuple[int, ...] = (320,)
) -> ResizedPicture:
    """Reads a picture and scales it, see `read_pixels` and `resize_picture`.

    Imports nothing but NumPy and Pillow, so that a process that only reads pictures
    starts at once and stays small.

    Args:
        source: Path, Pillow image or uint8 pixels [h, w, 3].
        box: The part wanted, in pixels of the upright picture; None is all of it.
        sides: Longer sides wanted, each as for `resize_picture`; at least one.

    Returns:
        The scaled pixels.

    Raises:
        PictureError: If the picture can't be read.
        ValueError: If the box is not in it, or a side is no multiple of 32 from 64.
    """
    # Twice the side leaves enough to antialias.
    image, shown_box = read_picture_part(source, box=box, shrink_to=2 * max(sides))
    scaled = (resize_image(image, side=side) for side in sides)
    return ResizedPicture(tuple(np.asarray(each) for each in scaled), shown_box)


def read_resized_batch(
    asked: Sequence[tuple[PictureSource, Box | None]], *, sides: tuple[int, ...]
) -> list[ResizedPicture | PictureError]:
    """Reads pictures as `read_resized` does; one that can't be read is its error.

    Args:
        asked: Each picture and the part of it that is wanted.
        sides: As for `read_resized`.

    Returns:
        One result for each.

    Raises:
        ValueError: If a box is not in its picture.
    """
    found: list[ResizedPicture | PictureError] = []
    for source, box in asked:
        try:
            found.append(read_resized(source, box=box, sides=sides))
        except PictureError as error:
            found.append(error)
    return found


def initialize_reader_process() -> None:
    """Prepares a process that does nothing but read pictures for another one.

    Ctrl-C reaches it, too: what that means is decided by the one that asked. And where
    both share cores it takes what the network leaves: every step of the network waits
    for the slowest of its threads.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICENESS)


MIN_FILES_FOR_PROCESSES = 64  # Pictures for which starting processes pays.
_PICTURES_PER_TASK = 8  # Pictures that a process is asked for at a time.


class UnreadablePicture(NamedTuple):
    """A picture that could not be read.

    Attributes:
        position: Which of the sources it was.
        reason: What is wrong with it, in one line, without its name.
    """

    position: int
    reason: str


class LoadedPicture(NamedTuple):
    """A picture ready for the network.

    Attributes:
        position: Which of the sources it was.
        resized: Its pixels.
    """

    position: int
    resized: ResizedPicture


def prefetch_pictures(
    sources: Sequence[PictureSource],
    boxes: Sequence[Box | None] | None,
    *,
    sides: tuple[int, ...],
    ahead: int,
    workers: int,
) -> Generator[LoadedPicture | UnreadablePicture, None, None]:
    """Gives pictures in order while the next ones are being read.

    Decoding holds the interpreter back where threads do it, and a network on an
    accelerator waits for it: many files are read by processes. Their order, and so
    every answer, is the same.

    Args:
        sources: Paths, Pillow images or uint8 pixels [h, w, 3].
        boxes: The part of each that is wanted; None for one, or for all, is the whole.
        sides: As for `diffjax.data.read_resized`.
        ahead: Pictures read ahead, beside what every worker has under way.
        workers: Threads or processes.

    Yields:
        One result per source.

    Raises:
        ValueError: If a box is not inside its picture.
        OSError: If the system ended a process that read.
    """
    each = itertools.repeat(None, len(sources)) if boxes is None else boxes
    waiting: collections.deque[Future[list[ResizedPicture | PictureError]]]
    waiting = collections.deque()
    with contextlib.ExitStack() as running:
        first, others = _start_executors(sources, workers, running)
        together = 1 if others is first else _PICTURES_PER_TASK
        pairs = zip(sources, each, strict=True)
        submitted = taken = 0

        def submit() -> None:
            nonlocal submitted
            while submitted < len(sources) and (
                submitted - taken < ahead + workers * together
            ):
                pool, size = (
                    (first, 1)
                    if submitted < MIN_FILES_FOR_PROCESSES
                    else (others, together)
                )
                asked = list(itertools.islice(pairs, size))
                waiting.append(pool.submit(read_resized_batch, asked, sides=sides))
                submitted += len(asked)

        submit()
        while waiting:
            found = _await_result(waiting.popleft())
            start, taken = taken, taken + len(found)
            submit()
            for position, resized in enumerate(found, start=start):
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
    sources: Sequence[PictureSource], workers: int, running: contextlib.ExitStack
) -> tuple[Executor, Executor]:
    """Starts who reads the first pictures and who reads the others."""
    threads = ThreadPoolExecutor(workers, thread_name_prefix="diffjax-read")
    running.callback(threads.shutdown, cancel_futures=True)
    if len(sources) < MIN_FILES_FOR_PROCESSES or not all(
        isinstance(s, str | os.PathLike) for s in sources
    ):
        return threads, threads
    from loky.process_executor import ProcessPoolExecutor  # noqa: PLC0415  # Slow.

    # Of loky, not of the standard library, whose new processes run the user's script
    # again, up to the call that started them, unless it guards against that.
    processes = ProcessPoolExecutor(workers, initializer=initialize_reader_process)
    running.callback(processes.shutdown, kill_workers=True)
    processes.submit(int)  # They start while threads read the first pictures.
    return threads, processes
