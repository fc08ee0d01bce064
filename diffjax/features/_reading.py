"""Pictures read ahead of the network: in processes where there are many."""

import collections
import contextlib
import itertools
import os
from collections.abc import Generator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from typing import NamedTuple

from diffjax.data import (
    Box,
    Fitted,
    PictureError,
    PictureSource,
    read_several,
    start_reader,
)

MANY = 64  # Pictures for which starting processes pays.
_TOGETHER = 8  # Pictures that a process is asked for at a time.


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
        ahead: Pictures read ahead, beside what every worker has under way.
        workers: Threads or processes.

    Yields:
        One result per source.

    Raises:
        ValueError: If a box is not inside its picture.
        OSError: If the system ended a process that read.
    """
    each = itertools.repeat(None, len(sources)) if boxes is None else boxes
    waiting: collections.deque[Future[list[Fitted | PictureError]]]
    waiting = collections.deque()
    with contextlib.ExitStack() as running:
        first, others = _readers(sources, workers, running)
        together = 1 if others is first else _TOGETHER
        pairs = zip(sources, each, strict=True)
        submitted = taken = 0

        def submit() -> None:
            nonlocal submitted
            while submitted < len(sources) and (
                submitted - taken < ahead + workers * together
            ):
                pool, size = (first, 1) if submitted < MANY else (others, together)
                asked = list(itertools.islice(pairs, size))
                waiting.append(pool.submit(read_several, asked, sides=sides))
                submitted += len(asked)

        submit()
        while waiting:
            found = _result(waiting.popleft())
            start, taken = taken, taken + len(found)
            submit()
            for position, fitted in enumerate(found, start=start):
                if isinstance(fitted, PictureError):
                    yield Unreadable(position, fitted.reason)
                else:
                    yield ReadPicture(position, fitted)


def _result(
    future: Future[list[Fitted | PictureError]],
) -> list[Fitted | PictureError]:
    try:
        return future.result()
    except BrokenExecutor as error:
        raise OSError(
            "a process that read pictures was ended by the system, for want of memory "
            "perhaps; run the same command, with fewer workers"
        ) from error


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
    from loky.process_executor import ProcessPoolExecutor  # noqa: PLC0415  # Slow.

    # Of loky, not of the standard library, whose new processes run the user's script
    # again, up to the call that started them, unless it guards against that.
    processes = ProcessPoolExecutor(workers, initializer=start_reader)
    running.callback(processes.shutdown, kill_workers=True)
    processes.submit(int)  # They start while threads read the first pictures.
    return threads, processes
