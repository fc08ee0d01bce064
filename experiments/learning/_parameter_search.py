"""Parameter search on a grid and at random, the baselines of learning."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from diffjax.learning import Parameters, check_parameters

Ranges = Mapping[str, tuple[float, float]]

# Ranges of the search: the usual values and well beyond.
SEARCH_RANGES: Ranges = {
    "alpha": (0.5, 0.999),
    "gamma": (0.5, 12.0),
    "lam": (0.1, 10.0),
}


class Trial(NamedTuple):
    """Trial of one setting.

    Attributes:
        settings: Value of each searched parameter, by name.
        value: Result of the evaluation, higher is better.
    """

    settings: dict[str, float]
    value: float


class SearchOutcome(NamedTuple):
    """Outcome of a search.

    Attributes:
        parameters: The best setting, the earliest of equals; parameters that are not
            searched are those of the start.
        value: Its result; NaN if every result was NaN.
        trials: All trials in their order, the start first.
        solves: Number of diffusions that were solved.
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
    """Evaluates a start and a grid over ranges, and returns the best setting.

    Points are evenly spaced, both ends among them, in the logarithm of gamma, of lam
    and of 1 - alpha; a single point is in the middle. Numbers of points grow one by
    one, in the order of `ranges`, as long as the grid fits: a budget of 28 is 3 x 3 x 3
    and the start, one of 30 the same.

    Args:
        evaluate: Evaluates parameters, higher is better, for example by the mean
            average precision of held-out queries. NaN is worse than any number.
        start: Parameters that are evaluated first.
        budget: Most settings to evaluate, the start included.
        ranges: Lowest and highest value of each parameter to search, out of alpha,
            gamma and lam.
        solves_per_setting: Diffusions that one evaluation solves, one per query.

    Returns:
        The best setting, and all trials.

    Raises:
        ValueError: If `budget` or `solves_per_setting` is below 1, a name is none of
            the three, or a range is empty or outside the parameter's domain, or the
            start is.
    """
    _check_search(start, budget, ranges, solves_per_setting)
    points = _points_per_axis(budget - 1, len(ranges))
    axes = [
        [_range_value(name, ranges, i / (n - 1) if n > 1 else 0.5) for i in range(n)]
        for name, n in zip(ranges, points, strict=True)
    ]
    # The grid has at least one point; a budget of 1 is the start alone.
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
    """Evaluates a start and random settings in ranges, and returns the best setting.

    Draws are uniform in the logarithm of gamma, of lam and of 1 - alpha, independent of
    each other; with a larger budget the first ones stay the same.

    Args:
        evaluate: As for `grid_search`, like the other arguments.
        start: Parameters that are evaluated first.
        budget: Settings to evaluate, the start included.
        seed: Seed of the draws.
        ranges: Lowest and highest value of each parameter to search.
        solves_per_setting: Diffusions that one evaluation solves.

    Returns:
        The best setting, and all trials.

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
    """Validates the arguments of a search."""
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


def _points_per_axis(max_points: int, axes: int) -> list[int]:
    """Chooses numbers of points per axis, as even as possible."""
    points = [1] * axes
    for axis in itertools.cycle(range(axes)):
        more = [n + (i == axis) for i, n in enumerate(points)]
        if math.prod(more) > max_points:
            return points
        points = more
    raise AssertionError  # Unreachable: the cycle of one or more axes never ends.


def _range_value(name: str, ranges: Ranges, share: float) -> float:
    """Interpolates a range at a share of its length, in the scale of the parameter."""
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
    start_settings = {name: float(getattr(start, name)) for name in ranges}
    best, trials = start, [Trial(start_settings, float(evaluate(start)))]
    value = trials[0].value
    for tried in settings:
        arrays = {
            name: jnp.asarray(number, jnp.asarray(getattr(start, name)).dtype)
            for name, number in tried.items()
        }
        parameters = start._replace(**arrays)
        trials.append(Trial(tried, float(evaluate(parameters))))
        if trials[-1].value > value or math.isnan(value):
            best, value = parameters, trials[-1].value
    if math.isnan(value):
        best = start
    return SearchOutcome(best, value, tuple(trials), len(trials) * solves_per_setting)
