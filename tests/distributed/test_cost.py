import math

import pytest

from diffjax.distributed import estimate_cost


def test_one_device_sends_nothing():
    costs = estimate_cost(1000, d=8, k=5, devices=1, queries=3, regions=2)
    assert [step.total_sent for step in costs] == [0] * 6


def test_twice_the_devices_halve_the_rows_but_not_what_all_gather():
    few, many = (estimate_cost(2**20, d=64, k=32, devices=p) for p in (8, 16))
    assert many.memory_at_rest * 2 == few.memory_at_rest
    assert many.search.total_sent == few.search.total_sent
    # Each receives the search directions of the others.
    assert few.solve.sent == 2**20 * 4 * 7 / 8 + 6 * 4 * 7 / 8
    assert many.solve.sent == 2**20 * 4 * 15 / 16 + 6 * 4 * 15 / 16


def test_twice_the_queries_send_twice_as_much():
    one, two = (estimate_cost(5000, d=8, k=5, devices=4, queries=q) for q in (1, 2))
    for step in ("query", "solve", "pool"):
        assert getattr(two, step).total_sent == 2 * getattr(one, step).total_sent


def test_rows_are_rounded_up_and_a_device_sends_no_more_than_it_has():
    costs = estimate_cost(10, d=8, k=50, devices=4)
    assert costs.search.arguments == 3 * (8 * 4 + 1)
    assert costs.query.total_sent == 2 * 3 * min(50, 3) * 8


def test_steps_are_summed_and_the_largest_is_the_memory():
    costs = estimate_cost(10_000, d=8, k=5, devices=4, steps=7)
    solve = costs.solve
    assert math.isclose(solve.total_sent, 7 * solve.sent + solve.sent_once)
    assert costs.memory == max(step.memory for step in costs)
    assert costs.memory > costs.memory_at_rest


@pytest.mark.parametrize("name", ["n", "d", "k", "devices", "queries", "steps"])
def test_rejects_numbers_below_one(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        estimate_cost(**{"n": 5, "d": 1, "k": 1, "devices": 1, name: 0})
