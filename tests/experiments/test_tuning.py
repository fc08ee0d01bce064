import types
from typing import Any

import numpy as np
import pytest

from experiments._collections import Outcome
from experiments.paper._tuning import halve_objects, tune_method

OBJECTS = [f"object {i // 3}" for i in range(30)]


def test_halves_are_of_objects_and_of_equal_size():
    second = halve_objects(OBJECTS, seed=0)
    sides = {name: set() for name in OBJECTS}
    for name, side in zip(OBJECTS, second.tolist(), strict=True):
        sides[name].add(side)
    assert all(len(got) == 1 for got in sides.values())
    assert second.sum() == 15
    assert (halve_objects(OBJECTS, seed=0) == second).all()
    assert (halve_objects(OBJECTS, seed=1) != second).any()


def test_halves_do_not_depend_on_the_order_of_queries():
    order = np.random.default_rng(0).permutation(30)
    mixed = halve_objects([OBJECTS[i] for i in order], seed=0)
    np.testing.assert_array_equal(mixed, halve_objects(OBJECTS, seed=0)[order])


def test_one_object_is_refused():
    with pytest.raises(ValueError, match=r"objects must be two or more .* got 1"):
        halve_objects(["a", "a"])


def tune(precision, second):
    """Tunes a method whose trials have the precision of a row, by their number."""

    def outcome(_, settings, __):
        row = np.asarray(precision)[settings["k"]]
        return Outcome(row, row + 10, row + 20, row + 30)

    given: Any = types.SimpleNamespace(evaluate_method=outcome)
    choices = [{"k": number} for number in range(len(precision))]
    return tune_method("R-MAC", given, second, choices=choices)


def test_each_half_is_tested_at_the_best_settings_for_the_other():
    second = np.array([False, False, True, True])
    precision = np.array([[1.0, 1.0, 0.0, 0.1], [0.3, 0.2, 0.9, 0.8]])
    got = tune(precision, second)
    # The first settings are best for the first half: they answer the second half.
    assert got.chosen == ({"k": 1}, {"k": 0})
    assert got.settings_text == "k 1; k 0"
    assert got.tried == 2
    expected = np.array([0.3, 0.2, 0.0, 0.1])
    for values, offset in zip(got.outcome, (0, 10, 20, 30), strict=True):
        np.testing.assert_array_equal(values, expected + offset)
    np.testing.assert_array_equal(got.untuned_precision, precision[0])


def test_settings_are_chosen_by_the_mean_and_not_the_median():
    second = np.array([False] * 3 + [True] * 3)
    precision = np.array([[0.5] * 6, [0.4, 0.4, 1.0] * 2])
    assert tune(precision, second).chosen == ({"k": 1},)


def test_choosing_among_random_settings_gains_nothing():
    # A choice on the tested queries themselves would gain about a deviation.
    draw = np.random.default_rng(0)
    second = np.arange(400) % 2 == 1
    gains = []
    for _ in range(50):
        precision = draw.uniform(size=(12, 400))
        got = tune(precision, second).outcome.precision
        gains.append(got.mean() - precision.mean())
    assert abs(np.mean(gains)) < 3 * np.std(gains) / np.sqrt(50)


def test_queries_without_positives_are_left_out_and_the_first_of_equals_is_chosen():
    second = np.array([False, False, True, True])
    precision = np.array([[0.5, np.nan, 0.5, 0.5], [0.5, np.nan, 0.5, 0.5]])
    got = tune(precision, second)
    assert got.chosen == ({"k": 0},)
    np.testing.assert_array_equal(np.isnan(got.outcome.precision), [0, 1, 0, 0])
