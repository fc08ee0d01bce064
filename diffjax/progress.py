"""Progress callbacks: bars on a terminal, nothing elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

# Called as progress(task, done, total): what is being done, how far, and of how much.
Progress = Callable[[str, int, int], None]

_DELAY_SECONDS = 2.0  # Tasks that end sooner get no bar.


def no_progress(task: str, done: int, total: int) -> None:
    """Progress callback that does nothing."""
    del task, done, total


@contextlib.contextmanager
def progress_bars() -> Iterator[Progress]:
    """Progress callback that draws one bar per task while the context lasts.

    Bars show the rate and the remaining time. They appear after two seconds of a task,
    and only where standard error is a terminal.
    """
    if not sys.stderr.isatty():
        yield no_progress
        return
    with _delayed_bars() as bars:
        tasks: dict[str, tuple[Any, float]] = {}

        def progress(task: str, done: int, total: int) -> None:
            if task not in tasks:
                tasks[task] = (
                    bars.add_task(task, total=total, rate=""),
                    time.monotonic(),
                )
            task_id, start = tasks[task]
            seconds = time.monotonic() - start
            rate = f"{done / seconds:.1f}/s" if seconds > 0 and total > 1 else ""
            bars.update(task_id, completed=done, rate=rate)

        yield progress


def _delayed_bars() -> Any:
    """Bars of the tasks that last, also while a task reports nothing."""
    # Slow to import, and needed on a terminal only.
    import rich.console  # noqa: PLC0415
    import rich.progress  # noqa: PLC0415

    class DelayedBars(rich.progress.Progress):
        def get_renderables(self) -> Iterator[rich.console.RenderableType]:
            """Bars to draw; called several times a second."""
            yield self.make_tasks_table(
                [task for task in self.tasks if _is_long_running(task)]
            )

    return DelayedBars(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[rate]}"),
        rich.progress.TimeRemainingColumn(),
        console=rich.console.Console(stderr=True),
    )


def _is_long_running(task: Any) -> bool:
    """Whether a `rich.progress.Task` takes, or took, longer than the delay."""
    seconds = task.finished_time if task.finished else task.elapsed
    return (seconds or 0) > _DELAY_SECONDS
