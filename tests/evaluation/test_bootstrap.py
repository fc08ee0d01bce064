from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.evaluation import bootstrap_interval, paired_bootstrap


@pytest.fixture
def values() -> np.ndarray:
    """400 numbers between 0 and 1, such as average precisions are."""
    return np.random.default_rng(5).beta(2, 2, size=400)


def test_two_values_give_the_three_means_that_can_be_drawn():
    # Of 0 and 1 with replacement: 0, 1/2 and 1 with chances 1/4, 1/2 and 1/4. The
    # middle 40 % lie within the half, the middle 60 % reach both ends.
    pair = np.array([0.0, 1.0])
    assert bootstrap_interval(pair, level=0.4) == (0.5, 0.5, 0.5)
    assert bootstrap_interval(pair, level=0.6) == (0.5, 0.0, 1.0)


def test_a_group_is_drawn_whole_and_weighs_as_many_as_it_has():
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


def covered(draw, *, grouped, trials=300):
    """How often the interval of `draw(rng)`'s values, of mean 0, holds 0."""
    hits = 0
    for trial in range(trials):
        values, groups = draw(np.random.default_rng(trial))
        _, low, high = bootstrap_interval(
            values, groups=groups if grouped else None, level=0.9, resamples=400
        )
        hits += low <= 0 <= high
    return hits / trials


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    rate = covered(lambda rng: (rng.normal(size=50), None), grouped=False)
    # 300 trials of chance 0.9 scatter by 0.017; the method itself is 0.01 short at 50.
    assert rate == pytest.approx(0.89, abs=3 * 0.017)


def test_queries_for_one_object_need_to_be_drawn_together():
    def draw(rng):
        objects = np.repeat(np.arange(40), 5)
        return rng.normal(size=40)[objects] + 0.3 * rng.normal(
            size=200
        ), objects.tolist()

    assert covered(draw, grouped=True) == pytest.approx(0.89, abs=3 * 0.017)
    # Taken for independent, 200 values look 5 times as many as they are: the interval
    # is 2.2 times too short and covers about P(|z| < 1.64 / 2.2) = 0.55.
    assert covered(draw, grouped=False) < 0.7


def test_copies_in_a_group_count_as_the_one_that_they_are(values):
    once = bootstrap_interval(values)
    copies, objects = np.repeat(values, 4), np.repeat(np.arange(len(values)), 4)
    together = bootstrap_interval(copies, groups=objects.tolist())
    np.testing.assert_allclose(together, once, rtol=1e-12)
    apart = bootstrap_interval(copies)
    # Four times as many seem to halve the error.
    width = (once.high - once.low) / (apart.high - apart.low)
    assert width == pytest.approx(2, rel=0.1)


def test_groups_of_one_are_no_groups(values):
    names = [f"object {i}" for i in range(len(values))]
    assert bootstrap_interval(values, groups=names) == bootstrap_interval(values)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3)), min_size=1, max_size=12),
)
def test_the_ends_lie_among_the_values_and_a_higher_level_reaches_further(drawn):
    values, groups = np.array([v for v, _ in drawn]), [g for _, g in drawn]
    wide, narrow = (
        bootstrap_interval(values, groups=groups, level=level, resamples=100)
        for level in (0.9, 0.5)
    )
    ends = [values.min(), wide.low, narrow.low, narrow.high, wide.high, values.max()]
    assert (np.diff(ends) >= -1e-12).all()


def test_the_interval_moves_and_stretches_with_the_values(values):
    got = bootstrap_interval(3 - 2 * values)
    mean, low, high = bootstrap_interval(values)
    np.testing.assert_allclose(got, [3 - 2 * mean, 3 - 2 * high, 3 - 2 * low])


def test_one_value_has_nowhere_to_go():
    assert bootstrap_interval(np.array([0.5])) == (0.5, 0.5, 0.5)


def test_what_is_not_a_number_is_left_out_with_its_group(values):
    holes = np.insert(values, [0, 7, 400], np.nan)
    objects = np.repeat(np.arange(100), 4)
    expected = bootstrap_interval(values, groups=objects.tolist())
    # The first and the last hole have a group of their own.
    groups = np.insert(objects, [0, 7, 400], [500, 1, 501]).tolist()
    assert bootstrap_interval(holes, groups=groups) == expected
    assert bootstrap_interval(holes) == bootstrap_interval(values)


def test_a_seed_gives_one_interval_and_another_seed_another(values):
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_two_methods_alike_differ_by_nothing(values):
    assert paired_bootstrap(values, values) == (0, 0, 0)


def test_pairs_show_a_difference_that_two_intervals_hide(values):
    better = values + 0.02 * np.random.default_rng(1).uniform(size=len(values))
    gain = paired_bootstrap(better, values)
    # The gain is 0.01 on average and never negative, far below the spread of values.
    assert gain.mean == pytest.approx(0.01, rel=0.1)
    assert 0 < gain.low < gain.mean < gain.high
    assert bootstrap_interval(better).low < bootstrap_interval(values).high


def test_a_pair_with_a_hole_is_left_out(values):
    first, second = values.copy(), values[::-1].copy()
    first[3], second[9] = np.nan, np.nan
    kept = np.delete(np.arange(len(values)), [3, 9])
    assert paired_bootstrap(first, second) == paired_bootstrap(
        values[kept], values[::-1][kept]
    )


def test_a_paired_interval_draws_groups_together(values):
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
def test_rejects_bad_arguments(values, bad, complaint):
    with pytest.raises(ValueError, match=complaint):
        bootstrap_interval(values, **bad)


@pytest.mark.parametrize("nothing", [np.zeros(0), np.full(2, np.nan)])
def test_rejects_values_without_a_number(nothing):
    with pytest.raises(ValueError, match="values must hold a number, got none"):
        bootstrap_interval(nothing)


@pytest.mark.usefixtures("unchecked")
def test_rejects_pairs_of_unequal_length(values):
    with pytest.raises(ValueError, match="baseline must have 400 values, got 399"):
        paired_bootstrap(values, values[1:])
