"""Parameter search on a grid and at random, compared with learning at equal cost."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from diffjax.learning import Parameters, check_parameters

Ranges = Mapping[str, tuple[float, float]]

# What is searched: from what other programs use as a rule to well beyond it.
SEARCH_RANGES: Ranges = {
    "alpha": (0.5, 0.999),
    "gamma": (0.5, 12.0),
    "lam": (0.1, 10.0),
}


class Trial(NamedTuple):
    """One setting that was tried.

    Attributes:
        settings: Value of each parameter that is searched, by name.
        value: How good it was.
    """

    settings: dict[str, float]
    value: float


class SearchOutcome(NamedTuple):
    """What a search found.

    Attributes:
        parameters: The best setting, the earliest of several; all that is not searched
            is as it was in the start.
        value: How good it is; NaN if nothing was ever a number.
        trials: All settings in the order in which they were tried, the start first.
        solves: Diffusions that were solved for it.
    """

    parameters: Parameters
    value: float
    trials: tuple[Trial, ...]
    solves: int


def grid_search(
    evaluate: Callable[[Parameters], float],
    start: Parameters,
    *,
    budget: int,
    ranges: Ranges = SEARCH_RANGES,
    solves_per_setting: int = 1,
) -> SearchOutcome:
    """Tries a start and a grid over ranges, and keeps what is best.

    Points are evenly spaced, both ends among them, in the logarithm of gamma, of lam
    and of 1 - alpha; a parameter with one point has it in the middle. Numbers of points
    grow one by one, in the order of `ranges`, as long as the grid fits: a budget of 28
    is 3 x 3 x 3 and the start, one of 30 is no more.

    Args:
        evaluate: How good parameters are, higher is better, for example the mean
            average precision of held-out queries. NaN is worse than any number.
        start: Where to start; it is tried first.
        budget: Most settings to try, the start counted.
        ranges: Lowest and highest value of each parameter to search, out of alpha,
            gamma and lam.
        solves_per_setting: Diffusions that one evaluation solves, one per query.

    Returns:
        The best setting, and all that were tried.

    Raises:
        ValueError: If `budget` or `solves_per_setting` is below 1, a name is none of
            the three, a range is empty or leaves what the parameter may be, or the
            start does.
    """
    _check_search(start, budget, ranges, solves_per_setting)
    points = _points_per_axis(budget - 1, len(ranges))
    axes = [
        [_range_value(name, ranges, i / (n - 1) if n > 1 else 0.5) for i in range(n)]
        for name, n in zip(ranges, points, strict=True)
    ]
    # A grid has one point at least, for which a budget of 1 has no room.
    grid = (
        dict(zip(ranges, values, strict=True)) for values in itertools.product(*axes)
    )
    settings = itertools.islice(grid, budget - 1)
    return _run_trials(evaluate, start, ranges, settings, solves_per_setting)


def random_search(
    evaluate: Callable[[Parameters], float],
    start: Parameters,
    *,
    budget: int,
    seed: int = 0,
    ranges: Ranges = SEARCH_RANGES,
    solves_per_setting: int = 1,
) -> SearchOutcome:
    """Tries a start and random settings within ranges, and keeps what is best.

    Draws are uniform in the logarithm of gamma, of lam and of 1 - alpha, independent of
    each other; with a larger budget the first ones stay the same.

    Args:
        evaluate: See `grid_search`, as for what follows.
        start: Where to start.
        budget: Settings to try, the start counted.
        seed: Seed of the draws.
        ranges: Lowest and highest value of each parameter to search.
        solves_per_setting: Diffusions that one evaluation solves.

    Returns:
        The best setting, and all that were tried.

    Raises:
        ValueError: As `grid_search`, or if `seed` is below 0.

    References:
        Bergstra and Bengio, Random search for hyper-parameter optimization, JMLR 13,
        2012; known by its abstract.
    """
    _check_search(start, budget, ranges, solves_per_setting)
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}.")
    draws = np.random.default_rng(seed).random((budget - 1, len(ranges)))
    settings = (
        {
            name: _range_value(name, ranges, x)
            for name, x in zip(ranges, row, strict=True)
        }
        for row in draws.tolist()
    )
    return _run_trials(evaluate, start, ranges, settings, solves_per_setting)


def _check_search(
    start: Parameters, budget: int, ranges: Ranges, solves_per_setting: int
) -> None:
    """Refuses what can not be searched."""
    check_parameters(start)
    if budget < 1:
        raise ValueError(f"budget must be at least 1, got {budget}.")
    if solves_per_setting < 1:
        raise ValueError(
            f"solves_per_setting must be at least 1, got {solves_per_setting}."
        )
    if not ranges:
        raise ValueError("ranges must name a parameter, got none.")
    for name, (low, high) in ranges.items():
        if name not in SEARCH_RANGES:
            raise ValueError(
                f"ranges must be of {', '.join(SEARCH_RANGES)}, got {name!r}."
            )
        end = 1 if name == "alpha" else math.inf
        if not 0 < low < high < end:
            raise ValueError(
                f"ranges of {name} must go up inside (0, {end}), got ({low}, {high})."
            )


def _points_per_axis(most: int, axes: int) -> list[int]:
    """How many points each axis has, as even as can be, for at most `most` in all."""
    points = [1] * axes
    for axis in itertools.cycle(range(axes)):
        more = [n + (i == axis) for i, n in enumerate(points)]
        if math.prod(more) > most:
            return points
        points = more
    raise AssertionError  # A cycle of axes has no end, and there is one axis or more.


def _range_value(name: str, ranges: Ranges, share: float) -> float:
    """The value at a share of the way through a range, in the scale of its name."""
    low, high = ranges[name]
    if name == "alpha":
        return 1 - _interpolate_log(1 - low, 1 - high, share)
    return _interpolate_log(low, high, share)


def _interpolate_log(low: float, high: float, share: float) -> float:
    return math.exp((1 - share) * math.log(low) + share * math.log(high))


def _run_trials(
    evaluate: Callable[[Parameters], float],
    start: Parameters,
    ranges: Ranges,
    settings: Iterable[dict[str, float]],
    solves_per_setting: int,
) -> SearchOutcome:
    first = {name: float(getattr(start, name)) for name in ranges}
    best, trials = start, [Trial(first, float(evaluate(start)))]
    value = trials[0].value
    for each in settings:
        arrays = {
            name: jnp.asarray(number, jnp.asarray(getattr(start, name)).dtype)
            for name, number in each.items()
        }
        parameters = start._replace(**arrays)
        trials.append(Trial(each, float(evaluate(parameters))))
        if trials[-1].value > value or math.isnan(value):
            best, value = parameters, trials[-1].value
    if math.isnan(value):
        best = start
    return SearchOutcome(best, value, tuple(trials), len(trials) * solves_per_setting)
