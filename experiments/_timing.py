"""Interleaved timings of calls, and calls in fresh processes."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax

# Takes the number of its round; round 0 compiles and is not counted.
TimedCall = Callable[[int], Any]
Times = Mapping[str, list[float]]


def time_interleaved(
    calls: Mapping[str, TimedCall], *, rounds: int, pause: float = 0.0
) -> Times:
    """Times calls in turns, so that a busy machine slows all of them down.

    Args:
        calls: The calls to time, by name; each is called once before, uncounted.
        rounds: Number of counted rounds.
        pause: Seconds of rest before every counted call.

    Returns:
        Seconds of every call, round by round; arrays are waited for.
    """
    for call in calls.values():
        jax.block_until_ready(call(0))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(1, rounds + 1):
        for name, call in calls.items():
            time.sleep(pause)
            start = time.perf_counter()
            jax.block_until_ready(call(number))
            times[name].append(time.perf_counter() - start)
    return times


def time_calls(*calls: Callable[[], Any], rounds: int = 3) -> tuple[float, ...]:
    """Measures the least seconds of every call, timed in turns after a first one.

    Args:
        calls: The calls to time.
        rounds: Number of counted rounds.

    Returns:
        Seconds, in the order of the calls.
    """
    numbered: dict[str, TimedCall] = {
        str(number): lambda _, call=call: call() for number, call in enumerate(calls)
    }
    times = time_interleaved(numbered, rounds=rounds)
    return tuple(min(times[name]) for name in numbered)


def compare_times(claim: str, times: Times, *, than: str, by: str) -> dict[str, Any]:
    """Computes how many times faster one call is than another, as a record's entry.

    Args:
        claim: What the ratio shows.
        times: Seconds of both calls, from one `time_interleaved`.
        than: Name of the slower call.
        by: Name of the faster call.

    Returns:
        Median, least and largest ratio of the rounds, and medians of the seconds.
    """
    ratios = [a / b for a, b in zip(times[than], times[by], strict=True)]
    return {
        "claim": claim,
        "against": than,
        "times_faster": statistics.median(ratios),
        "least": min(ratios),
        "largest": max(ratios),
        "seconds": statistics.median(times[by]),
        "seconds_against": statistics.median(times[than]),
    }


def call_in_new_process(
    function: Callable[..., Any], *arguments: Any, **settings: Any
) -> Any:
    """Calls a function in a fresh process and waits for its result.

    Args:
        function: A function of a module, so that the new process can import it.
        arguments: Positional arguments.
        settings: Keyword arguments.

    Returns:
        The function's result.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(function, *arguments, **settings).result()
