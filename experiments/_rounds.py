"""Times of calls that take turns, so that a busy machine slows down all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

# Does its work for a round of that number, 0 for the one that is not counted.
Call = Callable[[int], Any]
Times = Mapping[str, list[float]]


def take_turns(calls: Mapping[str, Call], *, rounds: int) -> Times:
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


def faster(claim: str, times: Times, *, than: str, by: str) -> dict[str, Any]:
    """How many times faster one is than another, as an entry of a record.

    Args:
        claim: What it shows.
        times: Of both, from one `take_turns`.
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
