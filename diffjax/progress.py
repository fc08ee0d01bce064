"""Progress bars on a terminal, silence elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import rich.console
import rich.progress

# Nobody needs a bar for what is over before it is read.
_DELAY_SECONDS = 2.0


@contextlib.contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Gives a function that is told (task, done, of) and draws a bar for each task.

    Bars show the rate and the time left, appear after two seconds of a task, and only
    where standard error is a terminal.
    """
    if not sys.stderr.isatty():
        yield no_progress
        return
    with _DelayedBars(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[rate]}"),
        rich.progress.TimeRemainingColumn(),
        console=rich.console.Console(stderr=True),
    ) as bars:
        tasks: dict[str, tuple[rich.progress.TaskID, float]] = {}

        def progress(task: str, done: int, of: int) -> None:
            if task not in tasks:
                tasks[task] = bars.add_task(task, total=of, rate=""), time.monotonic()
            number, start = tasks[task]
            spent = time.monotonic() - start
            rate = f"{done / spent:.1f}/s" if spent > 0 and of > 1 else ""
            bars.update(number, completed=done, rate=rate)

        yield progress


class _DelayedBars(rich.progress.Progress):
    """Bars of the tasks that last, also where a task is silent for long."""

    def get_renderables(self) -> Iterator[rich.console.RenderableType]:
        """Gives what is drawn, several times a second."""
        yield self.make_tasks_table(
            [task for task in self.tasks if _is_long_running(task)]
        )


def _is_long_running(task: rich.progress.Task) -> bool:
    spent = task.finished_time if task.finished else task.elapsed
    return (spent or 0) > _DELAY_SECONDS


def no_progress(task: str, done: int, of: int) -> None:
    """Takes progress where nobody looks."""
    del task, done, of
