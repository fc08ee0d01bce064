"""Bootstrap intervals and the paired randomisation test."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.evaluation import bootstrap_interval, paired_bootstrap
from diffjax.evaluation._significance import paired_test


@pytest.fixture
def values() -> np.ndarray:
    """Values between 0 and 1, 400 of them, as average precisions are."""
    return np.random.default_rng(5).beta(2, 2, size=400)


def test_interval_of_two_values_has_the_three_possible_means():
    # Of 0 and 1 with replacement: 0, 1/2 and 1 with chances 1/4, 1/2 and 1/4. The
    # middle 40 % lie within the half, the middle 60 % reach both ends.
    pair = np.array([0.0, 1.0])
    assert bootstrap_interval(pair, level=0.4) == (0.5, 0.5, 0.5)
    assert bootstrap_interval(pair, level=0.6) == (0.5, 0.0, 1.0)


def test_groups_are_drawn_whole_and_weighted_by_their_size():
    # Groups {0, 0, 0} and {1}: drawn twice the first gives 0, both 1/4, twice the
    # second 1; the mean over queries is 1/4.
    got = bootstrap_interval(np.array([0.0, 0, 0, 1]), groups="aaab", level=0.4)
    assert got == (0.25, 0.25, 0.25)
    got = bootstrap_interval(np.array([0.0, 0, 0, 1]), groups="aaab", level=0.6)
    assert got == (0.25, 0.0, 1.0)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_agrees_with_the_normal_interval_on_many_values(values, level):
    got = bootstrap_interval(values, level=level)
    error = values.std() / np.sqrt(len(values))
    reach = NormalDist().inv_cdf((1 + level) / 2) * error
    # A quantile of 10,000 draws at 2.5 % is itself off by 0.03 standard errors.
    assert got.mean == pytest.approx(values.mean())
    assert got.low == pytest.approx(values.mean() - reach, abs=0.1 * error)
    assert got.high == pytest.approx(values.mean() + reach, abs=0.1 * error)


def coverage(draw, *, grouped, trials=300):
    """Coverage: share of intervals that hold 0, the true mean of `draw(rng)`."""
    hits = 0
    for trial in range(trials):
        values, groups = draw(np.random.default_rng(trial))
        _, low, high = bootstrap_interval(
            values, groups=groups if grouped else None, level=0.9, resamples=400
        )
        hits += low <= 0 <= high
    return hits / trials


def test_interval_covers_the_true_mean_at_the_stated_rate():
    rate = coverage(lambda rng: (rng.normal(size=50), None), grouped=False)
    # 300 trials of chance 0.9 scatter by 0.017; the method itself is 0.01 short at 50.
    assert rate == pytest.approx(0.89, abs=3 * 0.017)


def test_intervals_without_groups_are_too_short_for_correlated_queries():
    def draw(rng):
        objects = np.repeat(np.arange(40), 5)
        return rng.normal(size=40)[objects] + 0.3 * rng.normal(
            size=200
        ), objects.tolist()

    assert coverage(draw, grouped=True) == pytest.approx(0.89, abs=3 * 0.017)
    # Taken for independent, 200 values look 5 times as many as they are: the interval
    # is 2.2 times too short and covers about P(|z| < 1.64 / 2.2) = 0.55.
    assert coverage(draw, grouped=False) < 0.7


def test_copies_in_a_group_count_as_one_value(values):
    once = bootstrap_interval(values)
    copies, objects = np.repeat(values, 4), np.repeat(np.arange(len(values)), 4)
    together = bootstrap_interval(copies, groups=objects.tolist())
    np.testing.assert_allclose(together, once, rtol=1e-12)
    apart = bootstrap_interval(copies)
    # Four times as many seem to halve the error.
    width = (once.high - once.low) / (apart.high - apart.low)
    assert width == pytest.approx(2, rel=0.1)


def test_groups_of_one_value_equal_no_groups(values):
    names = [f"object {i}" for i in range(len(values))]
    assert bootstrap_interval(values, groups=names) == bootstrap_interval(values)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3)), min_size=1, max_size=12),
)
def test_interval_lies_within_the_values_and_widens_with_the_level(drawn):
    values, groups = np.array([v for v, _ in drawn]), [g for _, g in drawn]
    wide, narrow = (
        bootstrap_interval(values, groups=groups, level=level, resamples=100)
        for level in (0.9, 0.5)
    )
    ends = [values.min(), wide.low, narrow.low, narrow.high, wide.high, values.max()]
    assert (np.diff(ends) >= -1e-12).all()


def test_interval_shifts_and_scales_with_the_values(values):
    got = bootstrap_interval(3 - 2 * values)
    mean, low, high = bootstrap_interval(values)
    np.testing.assert_allclose(got, [3 - 2 * mean, 3 - 2 * high, 3 - 2 * low])


def test_interval_of_one_value_has_width_zero():
    assert bootstrap_interval(np.array([0.5])) == (0.5, 0.5, 0.5)


def test_nan_values_and_groups_of_nan_alone_are_ignored(values):
    holes = np.insert(values, [0, 7, 400], np.nan)
    objects = np.repeat(np.arange(100), 4)
    expected = bootstrap_interval(values, groups=objects.tolist())
    # The first and the last hole have a group of their own.
    groups = np.insert(objects, [0, 7, 400], [500, 1, 501]).tolist()
    assert bootstrap_interval(holes, groups=groups) == expected
    assert bootstrap_interval(holes) == bootstrap_interval(values)


def test_equal_seeds_give_equal_intervals_and_others_do_not(values):
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_equal_methods_have_a_difference_of_zero(values):
    assert paired_bootstrap(values, values) == (0, 0, 0)


def test_paired_interval_separates_methods_whose_intervals_overlap(values):
    better = values + 0.02 * np.random.default_rng(1).uniform(size=len(values))
    gain = paired_bootstrap(better, values)
    # The gain is 0.01 on average and never negative, far below the spread of values.
    assert gain.mean == pytest.approx(0.01, rel=0.1)
    assert 0 < gain.low < gain.mean < gain.high
    assert bootstrap_interval(better).low < bootstrap_interval(values).high


def test_pairs_with_a_nan_are_ignored(values):
    first, second = values.copy(), values[::-1].copy()
    first[3], second[9] = np.nan, np.nan
    complete = np.delete(np.arange(len(values)), [3, 9])
    assert paired_bootstrap(first, second) == paired_bootstrap(
        values[complete], values[::-1][complete]
    )


def test_paired_bootstrap_equals_the_bootstrap_of_differences(values):
    groups = np.repeat(np.arange(100), 4).tolist()
    assert paired_bootstrap(
        values, values[::-1], groups=groups, level=0.8, resamples=50, seed=2
    ) == bootstrap_interval(
        values - values[::-1], groups=groups, level=0.8, resamples=50, seed=2
    )


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ({"level": 0.0}, r"level must be in \(0, 1\), got 0.0"),
        ({"level": 1.0}, r"level must be in \(0, 1\), got 1.0"),
        ({"level": float("nan")}, "level must be in"),
        ({"resamples": 0}, "resamples must be at least 1, got 0"),
        ({"groups": [0, 1]}, "groups must have one entry per value, 400, got 2"),
    ],
)
def test_rejects_invalid_settings(values, bad, complaint):
    with pytest.raises(ValueError, match=complaint):
        bootstrap_interval(values, **bad)


@pytest.mark.parametrize("nothing", [np.zeros(0), np.full(2, np.nan)])
def test_rejects_values_that_are_all_nan(nothing):
    with pytest.raises(ValueError, match="values must hold a number, got none"):
        bootstrap_interval(nothing)


@pytest.mark.usefixtures("unchecked")
def test_rejects_pairs_of_unequal_length(values):
    with pytest.raises(ValueError, match="baseline must have 400 values, got 399"):
        paired_bootstrap(values, values[1:])


# Machines that do more than one thing at a time are slow at times.
FEW_EXAMPLES = settings(deadline=None, max_examples=40)


def exact_p_value(gains, groups):
    """P value from all sign flips of whole numbers, enumerated."""
    sums = [sum(gains[i] for i in range(len(gains)) if groups[i] == g) for g in groups]
    sums = list(dict(zip(groups, sums, strict=True)).values())
    totals = [
        abs(sum(sign * s for sign, s in zip(signs, sums, strict=True)))
        for signs in itertools.product([-1, 1], repeat=len(sums))
    ]
    return sum(t >= abs(sum(sums)) for t in totals) / len(totals)


@FEW_EXAMPLES
@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 6)), min_size=1, max_size=12)
)
def test_paired_test_agrees_with_all_sign_flips_enumerated(drawn):
    gains, groups = [g for g, _ in drawn], [g for _, g in drawn]
    # Tenths are not exact: sums that are equal must be seen as equal all the same.
    values = np.array(gains) / 10 + 0.3
    got = paired_test(values, np.full(len(gains), 0.3), groups=groups)
    assert got == exact_p_value(gains, groups)


def test_three_gains_of_three_have_p_of_a_quarter():
    got = paired_test(np.array([0.5, 0.6, 0.7]), np.array([0.4, 0.4, 0.4]))
    assert got == 2 / 2**3


def test_equal_gains_without_groups_give_the_sign_test():
    # 9 better, 1 worse: as far are 9 or 10 alike, C(10, 1) + C(10, 0), either way.
    gains = np.array([0.1] * 9 + [-0.1])
    assert paired_test(gains, np.zeros(10)) == 2 * (10 + 1) / 2**10


def test_thirteen_groups_are_enumerated_and_fourteen_are_sampled():
    better = np.full(14, 0.1)
    assert paired_test(better[:13], np.zeros(13)) == 2 / 2**13
    got = paired_test(better, np.zeros(14))
    # Hits among 10,000 draws of chance 2 / 2^14, and what was seen.
    hits = got * 10_001 - 1
    assert hits == pytest.approx(round(hits), abs=1e-6)
    assert 0 <= round(hits) <= 10


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.6])
def test_sampled_p_value_agrees_with_the_exact_one(shift):
    gains = np.random.default_rng(2).normal(shift, size=11)
    exact = paired_test(gains, np.zeros(11), resamples=2**11)
    drawn = paired_test(gains, np.zeros(11), resamples=2**11 - 1)
    error = math.sqrt(exact * (1 - exact) / 2**11)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * error + 1 / 2**11)


def test_sampled_p_value_is_never_0():
    # Sure to be seen: of 2^40 choices 2 are as far, and none is drawn.
    got = paired_test(np.ones(40), np.zeros(40), resamples=99)
    assert got == 1 / 100


def simulated_p_values(*, grouped, num_groups, trials=400, resamples=10_000):
    """P values of equal methods, 3 queries per object with a common part."""
    p_values = []
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        objects = np.repeat(np.arange(num_groups), 3)
        common = rng.normal(size=num_groups)[objects]
        gains = common + 0.3 * rng.normal(size=objects.size)
        p_values.append(
            paired_test(
                gains,
                np.zeros(objects.size),
                groups=objects.tolist() if grouped else None,
                resamples=resamples,
                seed=trial,
            )
        )
    return np.array(p_values)


@pytest.mark.parametrize(
    ("num_groups", "resamples"), [(9, 10_000), (20, 499)], ids=["counted", "drawn"]
)
def test_p_value_is_uniform_for_equal_methods(num_groups, resamples):
    p = np.sort(
        simulated_p_values(grouped=True, num_groups=num_groups, resamples=resamples)
    )
    # Kolmogorov and Smirnov: the largest distance passes 1.63 / sqrt(n) 1 time in 100;
    # p moves in steps of 2 / 2^9, or of 1 / 500.
    distance = np.abs(p - (np.arange(p.size) + 0.5) / p.size).max()
    assert distance < 1.63 / math.sqrt(p.size) + 1 / 2**8


def test_tests_without_groups_reject_too_often_for_correlated_queries():
    # Taken apart, 3 queries that say the same look like 3 witnesses: a difference of
    # 1.65 standard errors instead of 1 passes for one at 10 %.
    together = simulated_p_values(grouped=True, num_groups=12, trials=200)
    apart = simulated_p_values(grouped=False, num_groups=12, trials=200, resamples=499)
    assert np.mean(together <= 0.1) < 0.1 + 3 * math.sqrt(0.1 * 0.9 / 200)
    assert np.mean(apart <= 0.1) > 0.2


@FEW_EXAMPLES
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.sampled_from([-3.0, 0.5]))
def test_p_value_does_not_depend_on_direction_or_scale(gains, factor):
    gains = np.round(gains, 3)
    once = paired_test(gains, np.zeros(gains.size))
    assert paired_test(np.zeros(gains.size), gains) == once
    assert paired_test(factor * gains, np.zeros(gains.size)) == once


def test_p_value_never_rises_with_the_gain():
    gains = np.random.default_rng(0).normal(size=10)
    gains -= gains.mean()
    p = [paired_test(gains + shift, np.zeros(10)) for shift in np.linspace(0, 2, 9)]
    assert (np.diff(p) <= 0).all()
    assert p[0] == 1
    assert p[-1] == 2 / 2**10


@pytest.mark.parametrize("queries", [5, 50, 2000])
def test_identical_results_have_p_value_1(queries):
    same = np.random.default_rng(0).uniform(size=queries)
    assert paired_test(same, same.copy(), resamples=200) == 1


def test_paired_test_ignores_pairs_with_a_nan():
    rng = np.random.default_rng(4)
    first, second = rng.uniform(size=(2, 30))
    groups = [i // 3 for i in range(30)]
    complete = [*range(1, 6), *range(9, 30)]  # Less 0, and all of group 2.
    expected = paired_test(
        first[complete], second[complete], groups=[groups[i] for i in complete]
    )
    first[[0, 6, 7]], second[8] = np.nan, np.nan
    assert paired_test(first, second, groups=groups) == expected


def test_equal_seeds_give_equal_p_values_and_others_do_not():
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
def test_paired_test_rejects_invalid_settings(bad, complaint):
    with pytest.raises(ValueError, match=complaint):
        paired_test(np.ones(3), np.zeros(3), **bad)


def test_paired_test_rejects_pairs_that_all_hold_a_nan():
    with pytest.raises(ValueError, match="values must hold a number, got none"):
        paired_test(np.array([np.nan, 1.0]), np.array([1.0, np.nan]))


@pytest.mark.usefixtures("unchecked")
def test_paired_test_rejects_pairs_of_unequal_length():
    with pytest.raises(ValueError, match="baseline must have 3 values, got 2"):
        paired_test(np.ones(3), np.zeros(2))
