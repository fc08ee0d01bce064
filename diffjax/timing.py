"""Where the seconds of a command go, from the shell prompt on."""

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

# What Python itself took to start is the processor's time up to here, nearly to a
# millisecond, as it waits for nothing; no system tells every program when it began.
_PYTHON_STARTUP = time.process_time()
_PROCESS_START = time.perf_counter() - _PYTHON_STARTUP

_TRACE_EVENT = "/jax/core/compile/jaxpr_trace_duration"
_LOWER_EVENT = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"  # Or what took its place.
_CACHE_HIT_EVENT = "/jax/compilation_cache/cache_hits"


class TimedStep(NamedTuple):
    """A part of a command.

    Attributes:
        name: What it did.
        seconds: How long it took.
        programs: Seconds of those spent on getting programs ready to run: tracing,
            lowering, compiling or reading.
        compiled: Programs that were compiled.
        cached: Programs that were taken from the cache.
    """

    name: str
    seconds: float
    programs: float = 0.0
    compiled: int = 0
    cached: int = 0


class Stopwatch:
    """Measures the steps of a command, the first from the start of its process."""

    def __init__(self) -> None:
        """Takes what came before for two steps, Python's start and imports."""
        self._last = time.perf_counter()
        self._steps = [
            TimedStep("Python", _PYTHON_STARTUP),
            TimedStep("imports", self._last - _PROCESS_START - _PYTHON_STARTUP),
        ]
        self._busy: list[tuple[float, float]] = []
        self._hits = self._ready = 0

    def step(self, name: str) -> None:
        """Ends a step, which began where the last one ended."""
        now = time.perf_counter()
        step = TimedStep(
            name=name,
            seconds=now - self._last,
            programs=_union_duration(self._busy),
            compiled=self._ready - self._hits,
            cached=self._hits,
        )
        self._steps.append(step)
        self._busy, self._hits, self._ready, self._last = [], 0, 0, now

    @property
    def steps(self) -> list[TimedStep]:
        """The steps that are over, and all of them together."""
        _, *numbers = zip(*self._steps, strict=True)
        seconds, programs, compiled, cached = map(sum, numbers)
        return [*self._steps, TimedStep("in all", seconds, programs, compiled, cached)]

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The steps as text: heading and rows."""
        heading = "step", "seconds", "for programs", "compiled", "from the cache"
        each = [
            (name, f"{seconds:.2f}", f"{programs:.2f}", str(compiled), str(cached))
            for name, seconds, programs, compiled, cached in self.steps
        ]
        return heading, each

    def on_event(self, event: str, **_: str | int) -> None:
        """Takes an event of JAX."""
        self._hits += event == _CACHE_HIT_EVENT

    def on_duration_event(
        self, event: str, duration_secs: float, **_: str | int
    ) -> None:
        """Takes an event of JAX that lasted."""
        if event in {_TRACE_EVENT, _LOWER_EVENT, _COMPILE_EVENT}:
            now = time.perf_counter()
            self._busy.append((now - duration_secs, now))
            self._ready += event == _COMPILE_EVENT


@contextlib.contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Gives a stopwatch that hears of JAX's programs."""
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
    """Adds up spans of time; what several cover, as nested traces do, counts once."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(stop - max(start, end), 0)
        end = max(end, stop)
    return total
