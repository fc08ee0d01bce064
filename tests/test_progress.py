import io
import re
import time
from contextlib import redirect_stderr

import pytest
import rich.progress

from diffjax import progress as module
from diffjax.progress import progress_bars


class Terminal(io.StringIO):
    """Text stream that says whether it is a terminal."""

    def __init__(self, *, terminal=True):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    @property
    def text(self):
        """The text written, without control sequences."""
        return re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", self.getvalue())


@pytest.fixture(autouse=True)
def capable(monkeypatch):
    """Environment in which bars can be drawn."""
    for name, value in (("TERM", "xterm"), ("COLUMNS", "100")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_nothing_is_drawn_without_a_terminal(monkeypatch):
    monkeypatch.setattr(module, "_DELAY_SECONDS", -1)
    with redirect_stderr(Terminal(terminal=False)) as pipe, progress_bars() as progress:
        progress("describing", 1, 2)
    assert pipe.getvalue() == ""


def test_a_short_task_draws_nothing(monkeypatch):
    monkeypatch.setattr(module, "_DELAY_SECONDS", 1e9)
    with redirect_stderr(Terminal()) as terminal, progress_bars() as progress:
        for done in range(4):
            progress("describing", done, 3)
    assert terminal.text.strip() == ""


def test_a_long_task_shows_its_progress_and_rate(monkeypatch):
    monkeypatch.setattr(module, "_DELAY_SECONDS", -1)
    with redirect_stderr(Terminal()) as terminal, progress_bars() as progress:
        for done in range(1, 4):
            progress("describing", done, 3)
        progress("graph", 0, 1)
    last = terminal.text.splitlines()[-2:]
    assert re.search(r"describing +\S+ 3/3 +[\d.]+/s +0:00:00", last[0])
    assert re.search(r"graph +\S+ 0/1 +-:--:--", last[1])  # One step has no rate.


def test_a_long_task_without_reports_is_drawn(monkeypatch):
    monkeypatch.setattr(module, "_DELAY_SECONDS", 0)
    deadline = time.monotonic() + 60
    with redirect_stderr(Terminal()) as terminal, progress_bars() as progress:
        progress("graph", 0, 1)
        while "graph" not in terminal.text and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "graph" in terminal.text


def test_a_task_is_long_by_its_time_until_it_is_done():
    now = 0.0
    with rich.progress.Progress(get_time=lambda: now, disable=True) as bars:
        quick, slow, _ = (bars.add_task("task", total=1) for _ in range(3))
        lasting = []
        for now in (1.9, 2.1, 9.0):
            lasting.append([module._is_long_running(task) for task in bars.tasks])
            bars.update(quick if now < 2 else slow, completed=1)
    #                  quick, slow, running
    assert lasting == [[False, False, False], [False, True, True], [False, True, True]]


def test_an_interruption_restores_the_cursor(monkeypatch):
    def fail():
        with progress_bars() as progress:
            progress("describing", 1, 3)
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_DELAY_SECONDS", -1)
    with redirect_stderr(Terminal()) as terminal, pytest.raises(KeyboardInterrupt):
        fail()
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert terminal.getvalue().count(hide) == terminal.getvalue().count(show) == 1
