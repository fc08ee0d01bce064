import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.evaluation._paired import paired_test

# Machines that do more than one thing at a time are slow at times.
FEW = settings(deadline=None, max_examples=40)


def counted(gains, groups):
    """The p value from writing down every choice of signs, in whole numbers."""
    sums = [sum(gains[i] for i in range(len(gains)) if groups[i] == g) for g in groups]
    sums = list(dict(zip(groups, sums, strict=True)).values())
    totals = [
        abs(sum(sign * s for sign, s in zip(signs, sums, strict=True)))
        for signs in itertools.product([-1, 1], repeat=len(sums))
    ]
    return sum(t >= abs(sum(sums)) for t in totals) / len(totals)


@FEW
@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 6)), min_size=1, max_size=12)
)
def test_agrees_with_writing_down_every_choice_of_signs(drawn):
    gains, groups = [g for g, _ in drawn], [g for _, g in drawn]
    # Tenths are not exact: sums that are equal must be seen as equal all the same.
    values = np.array(gains) / 10 + 0.3
    got = paired_test(values, np.full(len(gains), 0.3), groups=groups)
    assert got == counted(gains, groups)


def test_three_of_three_better_is_one_of_eight_either_way():
    got = paired_test(np.array([0.5, 0.6, 0.7]), np.array([0.4, 0.4, 0.4]))
    assert got == 2 / 2**3


def test_without_groups_and_all_gains_alike_it_is_the_sign_test():
    # 9 better, 1 worse: as far are 9 or 10 alike, C(10, 1) + C(10, 0), either way.
    gains = np.array([0.1] * 9 + [-0.1])
    assert paired_test(gains, np.zeros(10)) == 2 * (10 + 1) / 2**10


def test_thirteen_groups_are_counted_and_fourteen_are_drawn():
    better = np.full(14, 0.1)
    assert paired_test(better[:13], np.zeros(13)) == 2 / 2**13
    got = paired_test(better, np.zeros(14))
    # Hits among 10,000 draws of chance 2 / 2^14, and what was seen.
    hits = got * 10_001 - 1
    assert hits == pytest.approx(round(hits), abs=1e-6)
    assert 0 <= round(hits) <= 10


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.6])
def test_drawing_agrees_with_counting(shift):
    gains = np.random.default_rng(2).normal(shift, size=11)
    exact = paired_test(gains, np.zeros(11), resamples=2**11)
    drawn = paired_test(gains, np.zeros(11), resamples=2**11 - 1)
    error = math.sqrt(exact * (1 - exact) / 2**11)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * error + 1 / 2**11)


def test_drawing_never_gives_0():
    # Sure to be seen: of 2^40 choices 2 are as far, and none is drawn.
    got = paired_test(np.ones(40), np.zeros(40), resamples=99)
    assert got == 1 / 100


def draws_of_p(*, grouped, num_groups, trials=400, resamples=10_000):
    """P values of methods that are alike, 3 queries per object with a common part."""
    found = []
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        objects = np.repeat(np.arange(num_groups), 3)
        common = rng.normal(size=num_groups)[objects]
        gains = common + 0.3 * rng.normal(size=objects.size)
        found.append(
            paired_test(
                gains,
                np.zeros(objects.size),
                groups=objects.tolist() if grouped else None,
                resamples=resamples,
                seed=trial,
            )
        )
    return np.array(found)


@pytest.mark.parametrize(
    ("num_groups", "resamples"), [(9, 10_000), (20, 499)], ids=["counted", "drawn"]
)
def test_the_p_value_of_methods_alike_is_uniform(num_groups, resamples):
    p = np.sort(draws_of_p(grouped=True, num_groups=num_groups, resamples=resamples))
    # Kolmogorov and Smirnov: the largest distance passes 1.63 / sqrt(n) 1 time in 100;
    # p moves in steps of 2 / 2^9, or of 1 / 500.
    distance = np.abs(p - (np.arange(p.size) + 0.5) / p.size).max()
    assert distance < 1.63 / math.sqrt(p.size) + 1 / 2**8


def test_queries_for_one_object_need_to_change_sign_together():
    # Taken apart, 3 queries that say the same look like 3 witnesses: a difference of
    # 1.65 standard errors instead of 1 passes for one at 10 %.
    together = draws_of_p(grouped=True, num_groups=12, trials=200)
    apart = draws_of_p(grouped=False, num_groups=12, trials=200, resamples=499)
    assert np.mean(together <= 0.1) < 0.1 + 3 * math.sqrt(0.1 * 0.9 / 200)
    assert np.mean(apart <= 0.1) > 0.2


@FEW
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.sampled_from([-3.0, 0.5]))
def test_neither_direction_nor_scale_matters(gains, factor):
    gains = np.round(gains, 3)
    once = paired_test(gains, np.zeros(gains.size))
    assert paired_test(np.zeros(gains.size), gains) == once
    assert paired_test(factor * gains, np.zeros(gains.size)) == once


def test_more_gain_never_makes_it_less_sure():
    gains = np.random.default_rng(0).normal(size=10)
    gains -= gains.mean()
    p = [paired_test(gains + shift, np.zeros(10)) for shift in np.linspace(0, 2, 9)]
    assert (np.diff(p) <= 0).all()
    assert p[0] == 1
    assert p[-1] == 2 / 2**10


@pytest.mark.parametrize("queries", [5, 50, 2000])
def test_methods_that_do_the_same_do_not_differ(queries):
    same = np.random.default_rng(0).uniform(size=queries)
    assert paired_test(same, same.copy(), resamples=200) == 1


def test_a_pair_with_a_hole_is_left_out_with_its_group():
    rng = np.random.default_rng(4)
    first, second = rng.uniform(size=(2, 30))
    groups = [i // 3 for i in range(30)]
    kept = [*range(1, 6), *range(9, 30)]  # Less 0, and all of group 2.
    expected = paired_test(first[kept], second[kept], groups=[groups[i] for i in kept])
    first[[0, 6, 7]], second[8] = np.nan, np.nan
    assert paired_test(first, second, groups=groups) == expected


def test_a_seed_gives_one_answer_and_another_seed_another():
    gains = np.random.default_rng(0).normal(0.1, size=40)
    p = [paired_test(gains, np.zeros(40), seed=seed) for seed in (3, 3, 4)]
    assert p[0] == p[1] != p[2]


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ({"resamples": 0}, "resamples must be at least 1, got 0"),
        ({"groups": [0, 1]}, "groups must have one entry per value, 3, got 2"),
    ],
)
def test_rejects_bad_arguments(bad, complaint):
    with pytest.raises(ValueError, match=complaint):
        paired_test(np.ones(3), np.zeros(3), **bad)


def test_rejects_pairs_without_a_number():
    with pytest.raises(ValueError, match="values must hold a number, got none"):
        paired_test(np.array([np.nan, 1.0]), np.array([1.0, np.nan]))


@pytest.mark.usefixtures("unchecked")
def test_rejects_pairs_of_unequal_length():
    with pytest.raises(ValueError, match="baseline must have 3 values, got 2"):
        paired_test(np.ones(3), np.zeros(2))
