"""Stopwatch of a command's steps, from the start of its process."""

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

# The start of Python waits for nothing, so it took the processor time up to here; no
# portable interface says when the process started.
_PYTHON_STARTUP = time.process_time()
_PROCESS_START = time.perf_counter() - _PYTHON_STARTUP

_TRACE_EVENT = "/jax/core/compile/jaxpr_trace_duration"
_LOWER_EVENT = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"  # Also cache hits.
_CACHE_HIT_EVENT = "/jax/compilation_cache/cache_hits"


class TimedStep(NamedTuple):
    """Timing of one step of a command.

    Attributes:
        name: Name of the step.
        seconds: Its time.
        programs: Seconds of it for preparing programs: tracing, lowering, compiling or
            reading from the cache.
        compiled: Number of programs compiled.
        cached: Number of programs read from the cache.
    """

    name: str
    seconds: float
    programs: float = 0.0
    compiled: int = 0
    cached: int = 0


class Stopwatch:
    """Measures the steps of a command, from the start of its process."""

    def __init__(self) -> None:
        """Starts with two finished steps, the start of Python and imports."""
        self._last = time.perf_counter()
        self._steps = [
            TimedStep("Python", _PYTHON_STARTUP),
            TimedStep("imports", self._last - _PROCESS_START - _PYTHON_STARTUP),
        ]
        self._spans: list[tuple[float, float]] = []
        self._num_hits = self._num_ready = 0

    def step(self, name: str) -> None:
        """Ends a step, which started at the end of the previous one."""
        now = time.perf_counter()
        step = TimedStep(
            name=name,
            seconds=now - self._last,
            programs=_union_duration(self._spans),
            compiled=self._num_ready - self._num_hits,
            cached=self._num_hits,
        )
        self._steps.append(step)
        self._spans, self._num_hits, self._num_ready, self._last = [], 0, 0, now

    @property
    def steps(self) -> list[TimedStep]:
        """The finished steps, and their total."""
        _, *columns = zip(*self._steps, strict=True)
        return [*self._steps, TimedStep("in all", *map(sum, columns))]

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Header and rows of a table of the steps."""
        header = "step", "seconds", "for programs", "compiled", "from the cache"
        rows = [
            (name, f"{seconds:.2f}", f"{programs:.2f}", str(compiled), str(cached))
            for name, seconds, programs, compiled, cached in self.steps
        ]
        return header, rows

    def on_event(self, event: str, **_: str | int) -> None:
        """Listener to events of `jax.monitoring`."""
        self._num_hits += event == _CACHE_HIT_EVENT

    def on_duration_event(
        self, event: str, duration_secs: float, **_: str | int
    ) -> None:
        """Listener to durations of `jax.monitoring`."""
        if event in {_TRACE_EVENT, _LOWER_EVENT, _COMPILE_EVENT}:
            now = time.perf_counter()
            self._spans.append((now - duration_secs, now))
            self._num_ready += event == _COMPILE_EVENT


@contextlib.contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Stopwatch that listens to JAX's compilation events."""
    from jax import monitoring  # noqa: PLC0415  # The clock must run before it is read.

    watch = Stopwatch()
    monitoring.register_event_listener(watch.on_event)
    monitoring.register_event_duration_secs_listener(watch.on_duration_event)
    try:
        yield watch
    finally:
        monitoring.unregister_event_listener(watch.on_event)
        monitoring.unregister_event_duration_listener(watch.on_duration_event)


def _union_duration(spans: list[tuple[float, float]]) -> float:
    """Length of the union of time spans: nested traces count once."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(stop - max(start, end), 0)
        end = max(end, stop)
    return total
