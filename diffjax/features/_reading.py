"""Pictures read ahead of the network: in processes where there are many."""

import collections
import functools
import itertools
import os
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import NamedTuple

from loky.process_executor import ProcessPoolExecutor

from diffjax.data import Box, Fitted, PictureError, PictureSource, read_fitted

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
    """
    each = itertools.repeat(None, len(sources)) if boxes is None else boxes
    waiting: collections.deque[Future[Fitted]] = collections.deque()
    pool, stop = _start(sources, workers)
    # Errors come back through the futures, those of pictures and those of boxes.
    jobs = (
        pool.submit(read_fitted, source, box=box, sides=sides)
        for source, box in zip(sources, each, strict=True)
    )
    try:
        waiting.extend(itertools.islice(jobs, ahead + workers))
        for position in range(len(sources)):
            try:
                fitted = waiting.popleft().result()
            except PictureError as error:
                found = Unreadable(position, error.reason)
            else:
                found = ReadPicture(position, fitted)
            waiting.extend(itertools.islice(jobs, 1))
            yield found
    finally:
        stop()


def _start(
    sources: Sequence[PictureSource], workers: int
) -> tuple[Executor, Callable[[], None]]:
    """Starts who reads; gives them and what stops them."""
    if len(sources) < MANY or not all(
        isinstance(s, str | os.PathLike) for s in sources
    ):
        threads = ThreadPoolExecutor(workers, thread_name_prefix="diffjax-read")
        return threads, functools.partial(threads.shutdown, cancel_futures=True)
    # Of loky, not of the standard library, whose new processes run the user's script
    # again, up to the call that started them, unless it guards against that.
    processes = ProcessPoolExecutor(
        workers,
        # Ctrl-C reaches all of them: what it means is decided by the one that asked.
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    return processes, functools.partial(processes.shutdown, kill_workers=True)
