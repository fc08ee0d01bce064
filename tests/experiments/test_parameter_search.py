import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.learning import parameters
from experiments.learning._parameter_search import (
    SEARCH_RANGES,
    grid_search,
    random_search,
)

both = pytest.mark.parametrize("search", [grid_search, random_search])


def constant(_):
    """Evaluation of searches whose trials alone are looked at."""
    return 0.0


def hill(given):
    """Closeness to alpha 0.9, gamma 2 and lam 0.5, in the logarithms of the search."""
    logs = [
        math.log((1 - float(given.alpha)) / 0.1),
        math.log(float(given.gamma) / 2),
        math.log(float(given.lam) / 0.5),
    ]
    return -sum(x**2 for x in logs)


@both
def test_the_best_trial_is_returned(search):
    got = search(hill, parameters(), budget=60)
    values = [trial.value for trial in got.trials]
    assert got.value == max(values) == hill(got.parameters)
    best = got.trials[int(np.argmax(values))].settings
    for name, value in best.items():
        np.testing.assert_allclose(getattr(got.parameters, name), value, rtol=1e-6)


@both
def test_a_known_maximum_is_found_to_the_spacing_of_the_trials(search):
    # 343 trials: a sixth of each range, in logarithms, is the grid's spacing.
    got = search(hill, parameters(), budget=344)
    assert got.value > -0.8
    assert got.value > hill(parameters())


@both
def test_the_start_is_the_first_trial_and_wins_ties(search):
    start = parameters(alpha=0.42, gamma=1.5, lam=7.0)
    got = search(lambda given: float(given.alpha == start.alpha), start, budget=9)
    assert got.trials[0].value == 1
    np.testing.assert_allclose(list(got.trials[0].settings.values()), [0.42, 1.5, 7])
    assert got.parameters is start
    # Also where all results are equal.
    assert search(lambda _: 0.5, start, budget=9).parameters is start


@both
def test_a_budget_of_one_is_the_start_alone(search):
    got = search(hill, parameters(), budget=1, solves_per_setting=7)
    assert len(got.trials) == 1
    assert got.solves == 7


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 70))
def test_no_search_tries_more_than_its_budget(budget):
    grid = grid_search(constant, parameters(), budget=budget, solves_per_setting=3)
    drawn = random_search(constant, parameters(), budget=budget, solves_per_setting=3)
    assert len(drawn.trials) == budget
    assert grid.solves == 3 * len(grid.trials)
    # One more point on the axis that has fewest would be too many.
    counts = [
        len({t.settings[name] for t in grid.trials[1:]}) for name in SEARCH_RANGES
    ]
    assert len(grid.trials) == 1 + math.prod(counts) <= budget
    assert max(counts) - min(counts) <= 1


def test_a_grid_has_both_ends_and_even_steps_in_logarithms():
    ranges = {"gamma": (1.0, 16.0), "alpha": (0.9, 0.999)}
    got = grid_search(hill, parameters(), budget=10, ranges=ranges)
    gammas = sorted({trial.settings["gamma"] for trial in got.trials[1:]})
    alphas = sorted({trial.settings["alpha"] for trial in got.trials[1:]})
    np.testing.assert_allclose(gammas, [1, 4, 16])
    np.testing.assert_allclose(alphas, [0.9, 0.99, 0.999])
    # Nothing else moves.
    assert float(got.parameters.lam) == 1


def test_one_point_lies_in_the_middle():
    ranges = {"gamma": (1.0, 16.0)}
    got = grid_search(hill, parameters(), budget=2, ranges=ranges)
    np.testing.assert_allclose(got.trials[1].settings["gamma"], 4)


def test_draws_are_within_their_ranges_and_uniform_in_logarithms():
    ranges = {"gamma": (1.0, 16.0), "alpha": (0.9, 0.999)}
    got = random_search(constant, parameters(), budget=1001, ranges=ranges, seed=1)
    gammas = np.array([trial.settings["gamma"] for trial in got.trials[1:]])
    alphas = np.array([trial.settings["alpha"] for trial in got.trials[1:]])
    for values, (low, high) in ((gammas, (1, 16)), (alphas, (0.9, 0.999))):
        assert np.all((values >= low) & (values <= high))
    # Half below the middle: 3 standard deviations of 1,000 coins are 0.047.
    assert abs(np.mean(gammas < 4) - 0.5) < 0.047
    assert abs(np.mean(alphas < 0.99) - 0.5) < 0.047
    # And independent of each other.
    assert abs(np.corrcoef(np.log(gammas), np.log(1 - alphas))[0, 1]) < 0.1


def test_a_seed_gives_the_same_draws_and_a_larger_budget_more_of_them():
    few, same = (random_search(hill, parameters(), budget=5, seed=3) for _ in range(2))
    many = random_search(hill, parameters(), budget=9, seed=3)
    assert few.trials == same.trials
    assert few.trials == many.trials[:5]
    assert few.trials[1:] != random_search(hill, parameters(), budget=5).trials[1:]


@both
def test_nan_is_never_the_best(search):
    def evaluate(given):
        return math.nan if float(given.gamma) == 3.0 else -float(given.gamma)

    got = search(evaluate, parameters(gamma=3.0), budget=9)
    assert math.isnan(got.trials[0].value)
    assert got.value == max(trial.value for trial in got.trials[1:])
    lost = search(lambda _: math.nan, start := parameters(), budget=9)
    assert math.isnan(lost.value)
    assert lost.parameters is start


@both
def test_parameters_that_are_not_searched_stay(search):
    start = parameters(["projection", "bias"], dim=3)
    got = search(hill, start, budget=9)
    assert got.parameters.projection is start.projection
    assert got.parameters.bias is start.bias
    assert got.parameters.alpha.dtype == jnp.float32


@both
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"budget": 0}, "budget must be at least 1, got 0"),
        ({"solves_per_setting": 0}, "solves_per_setting must be at least 1, got 0"),
        ({"ranges": {}}, "ranges must name a parameter"),
        ({"ranges": {"bias": (0.1, 0.2)}}, "of alpha, gamma, lam, got 'bias'"),
        ({"ranges": {"alpha": (0.5, 1.0)}}, r"alpha must go up inside \(0, 1\)"),
        ({"ranges": {"gamma": (2.0, 1.0)}}, r"gamma must go up .*got \(2.0, 1.0\)"),
        ({"ranges": {"lam": (0.0, 1.0)}}, r"lam must go up inside \(0, inf\)"),
    ],
)
def test_errors_name_the_invalid_argument(search, bad, message):
    with pytest.raises(ValueError, match=message):
        search(hill, parameters(), **({"budget": 5} | bad))


def test_errors_name_invalid_starts_and_seeds():
    bad = parameters()._replace(alpha=jnp.ones(()))
    with pytest.raises(ValueError, match="alpha must be in"):
        grid_search(hill, bad, budget=2)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        random_search(hill, parameters(), budget=2, seed=-1)
