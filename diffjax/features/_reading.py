"""Pictures read ahead of the network: in processes where there are many."""

import collections
import contextlib
import itertools
import os
from collections.abc import Generator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from typing import NamedTuple

from loky.process_executor import ProcessPoolExecutor

from diffjax.data import (
    Box,
    Fitted,
    PictureError,
    PictureSource,
    read_fitted,
    start_reader,
)

MANY = 64  # Pictures for which starting processes pays.


class Unreadable(NamedTuple):
    """A picture that could not be read.

    Attributes:
        position: Which of the sources it was.
        reason: What is wrong with it, in one line, without its name.
    """

    position: int
    reason: str


class ReadPicture(NamedTuple):
    """A picture ready for the network.

    Attributes:
        position: Which of the sources it was.
        fitted: Its pixels.
    """

    position: int
    fitted: Fitted


def read_ahead(
    sources: Sequence[PictureSource],
    boxes: Sequence[Box | None] | None,
    *,
    sides: tuple[int, ...],
    ahead: int,
    workers: int,
) -> Generator[ReadPicture | Unreadable, None, None]:
    """Gives pictures in order while the next ones are being read.

    Decoding holds the interpreter back where threads do it, and a network on an
    accelerator waits for it: many files are read by processes. Their order, and so
    every answer, is the same.

    Args:
        sources: Paths, Pillow images or uint8 pixels [h, w, 3].
        boxes: The part of each that is wanted; None for one, or for all, is the whole.
        sides: As for `diffjax.data.read_fitted`.
        ahead: Pictures read ahead, beside one for each worker.
        workers: Threads or processes.

    Yields:
        One result per source.

    Raises:
        ValueError: If a box is not inside its picture.
        OSError: If the system ended a process that read.
    """
    each = itertools.repeat(None, len(sources)) if boxes is None else boxes
    waiting: collections.deque[Future[Fitted]] = collections.deque()
    with contextlib.ExitStack() as running:
        first, others = _readers(sources, workers, running)
        # Errors come back through the futures, those of pictures and those of boxes.
        jobs = (
            (first if position < MANY else others).submit(
                read_fitted, source, box=box, sides=sides
            )
            for position, (source, box) in enumerate(zip(sources, each, strict=True))
        )
        waiting.extend(itertools.islice(jobs, ahead + workers))
        for position in range(len(sources)):
            try:
                fitted = waiting.popleft().result()
            except BrokenExecutor as error:
                raise OSError(
                    "a process that read pictures was ended by the system, for want of "
                    "memory perhaps; run the same command, with fewer workers"
                ) from error
            except PictureError as error:
                found = Unreadable(position, error.reason)
            else:
                found = ReadPicture(position, fitted)
            waiting.extend(itertools.islice(jobs, 1))
            yield found


def _readers(
    sources: Sequence[PictureSource], workers: int, running: contextlib.ExitStack
) -> tuple[Executor, Executor]:
    """Starts who reads the first pictures and who reads the others."""
    threads = ThreadPoolExecutor(workers, thread_name_prefix="diffjax-read")
    running.callback(threads.shutdown, cancel_futures=True)
    if len(sources) < MANY or not all(
        isinstance(s, str | os.PathLike) for s in sources
    ):
        return threads, threads
    # Of loky, not of the standard library, whose new processes run the user's script
    # again, up to the call that started them, unless it guards against that.
    processes = ProcessPoolExecutor(workers, initializer=start_reader)
    running.callback(processes.shutdown, kill_workers=True)
    processes.submit(int)  # They start while threads read the first pictures.
    return threads, processes
