"""Interleaved timings of calls, and calls in fresh processes."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax


def call_in_new_process(
    function: Callable[..., Any], *arguments: Any, **settings: Any
) -> Any:
    """Calls a function in a process of its own, and waits for what it gives.

    Args:
        function: Of a module, so that the other process finds it.
        arguments: Handed over.
        settings: Handed over by name.

    Returns:
        What the function gives.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(function, *arguments, **settings).result()


# Does its work for a round of that number, 0 for the one that is not counted.
TimedCall = Callable[[int], Any]
Times = Mapping[str, list[float]]


def time_interleaved(calls: Mapping[str, TimedCall], *, rounds: int) -> Times:
    """Calls each in every round, once before that to compile it.

    Args:
        calls: What is timed, by name.
        rounds: How often.

    Returns:
        Seconds, round by round.
    """
    for call in calls.values():
        jax.block_until_ready(call(0))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(1, rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call(number))
            times[name].append(time.perf_counter() - start)
    return times


def compare_times(claim: str, times: Times, *, than: str, by: str) -> dict[str, Any]:
    """How many times faster one is than another, as an entry of a record.

    Args:
        claim: What it shows.
        times: Of both, from one `time_interleaved`.
        than: The slower one.
        by: The faster one.

    Returns:
        Ratios of rounds and medians of the seconds.
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
