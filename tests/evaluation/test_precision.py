import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffjax.evaluation import average_precision, evaluate
from diffjax.evaluation._precision import Report


def walked_average_precision(ranking, positives, junk=()):
    """Walks down the list and adds up the area under precision over recall."""
    positives, junk = set(positives), set(junk)
    seen = found = 0
    area, precision = 0.0, 1.0
    for image in ranking:
        if image in junk:
            continue
        seen += 1
        found += image in positives
        if image in positives:
            area += (precision + found / seen) / 2 / len(positives)
        precision = found / seen
    return area


class Judged:
    """A benchmark with nothing but its truth."""

    def __init__(self, positives, junk=None):
        self.positives = positives
        self.junk = junk if junk is not None else [[] for _ in positives]


@st.composite
def cases(draw):
    """A ranking of up to 12 images with positives and junk among up to 14."""
    size = draw(st.integers(1, 12))
    ranking = draw(st.permutations(range(size)))
    kinds = draw(st.lists(st.sampled_from("pj-"), min_size=size + 2, max_size=size + 2))
    positives = [i for i, kind in enumerate(kinds) if kind == "p"]
    junk = [i for i, kind in enumerate(kinds) if kind == "j"]
    return ranking, positives or [size], [i for i in junk if i != size]


def test_positives_at_ranks_0_2_and_5_give_what_the_formula_says():
    # j/p_j and (j+1)/(p_j+1): (1 + 1/1)/2, (1/2 + 2/3)/2, (2/5 + 3/6)/2.
    expected = (1 + (1 / 2 + 2 / 3) / 2 + (2 / 5 + 3 / 6) / 2) / 3
    assert average_precision(np.arange(6), [0, 2, 5]) == pytest.approx(expected)
    assert round(expected, 6) == 0.677778  # As the benchmark's own program prints.


def test_junk_is_taken_out_before_ranks_are_counted():
    # Junk at 1, 8, 9 and 30 moves the positives up by 0, 1, 1, 3 and 3.
    with_junk = average_precision(np.arange(40), [0, 2, 6, 10, 20], [1, 8, 9, 30])
    assert with_junk == average_precision(np.arange(36), [0, 1, 5, 7, 17])
    # (j/p_j + (j+1)/(p_j+1))/2 at 0, 1, 5, 7 and 17.
    steps = [(1, 1), (1, 1), (2 / 5, 3 / 6), (3 / 7, 4 / 8), (4 / 17, 5 / 18)]
    assert with_junk == pytest.approx(sum(map(sum, steps)) / 2 / 5)


@given(cases())
def test_agrees_with_walking_down_the_list(case):
    ranking, positives, junk = case
    got = average_precision(np.array(ranking), positives, junk)
    assert got == pytest.approx(walked_average_precision(ranking, positives, junk))
    assert 0 <= got <= 1


@pytest.mark.parametrize("positives", [1, 3, 6])
def test_a_perfect_ranking_has_precision_1(positives):
    assert average_precision(np.arange(6), range(positives)) == pytest.approx(1)


def test_the_mean_over_all_rankings_is_what_chance_gives():
    # The j-th positive (from 0) is at rank p in C(p, j) C(m-1-p, P-1-j) of the
    # C(m, P) equally likely places, and adds ((j/p) + (j+1)/(p+1)) / 2 / P there.
    m, positives = 6, 2
    expected = sum(
        math.comb(p, j)
        * math.comb(m - 1 - p, positives - 1 - j)
        / math.comb(m, positives)
        * ((j / p if p else 1) + (j + 1) / (p + 1))
        / 2
        / positives
        for j in range(positives)
        for p in range(m)
    )
    rankings = itertools.permutations(range(m))
    all_of_them = [average_precision(np.array(r), range(positives)) for r in rankings]
    assert np.mean(all_of_them) == pytest.approx(expected)


@given(cases(), st.randoms())
def test_the_place_of_junk_never_matters(case, random):
    ranking, positives, junk = case
    moved = [image for image in ranking if image not in junk]
    for image in junk:
        moved.insert(random.randint(0, len(moved)), image)
    assert average_precision(np.array(moved), positives, junk) == average_precision(
        np.array(ranking), positives, junk
    )


@given(cases())
def test_a_positive_that_moves_up_never_lowers_the_precision(case):
    ranking, positives, junk = case
    before = average_precision(np.array(ranking), positives, junk)
    for upper, lower in itertools.pairwise(range(len(ranking))):
        if ranking[lower] in positives:
            better = list(ranking)
            better[upper], better[lower] = ranking[lower], ranking[upper]
            after = average_precision(np.array(better), positives, junk)
            assert after >= before - 1e-12


def test_a_positive_that_is_not_ranked_adds_nothing():
    # One of two is found, at rank 0: (1 + 1)/2 / 2.
    assert average_precision(np.array([4, 0]), [4, 9]) == pytest.approx(1 / 2)
    assert average_precision(np.array([0, 1]), [9]) == 0
    assert average_precision(np.zeros(0, int), [9]) == 0


def test_an_image_named_twice_as_positive_counts_once():
    once = average_precision(np.arange(6), [0, 2, 5])
    assert average_precision(np.arange(6), [0, 2, 2, 5, 0]) == once


def test_all_junk_leaves_nothing_found():
    assert average_precision(np.arange(3), [7], [0, 1, 2]) == 0


def test_without_a_positive_there_is_no_precision():
    assert math.isnan(average_precision(np.arange(3), [], [1]))


def test_rankings_and_truths_of_any_kind_of_array_are_the_same():
    ranking = [3, 1, 0, 2]
    expected = average_precision(np.array(ranking), [1, 2], [0])
    got = average_precision(jnp.array(ranking), np.array([2, 1]), np.array([0]))
    assert got == expected


def test_the_mean_is_over_queries_that_have_positives():
    rankings = np.array([[0, 1, 0], [1, 0, 1], [2, 2, 2]])
    got = evaluate(rankings, Judged([[0], [], [2]], [[1], [0], []]))
    # Query 0 is perfect, query 1 asks nothing, query 2 is found last: (0/2 + 1/3)/2.
    expected = [1, np.nan, 1 / 6]
    np.testing.assert_allclose(got.average_precision, expected, rtol=1e-12)
    assert got.mean_average_precision == pytest.approx((1 + 1 / 6) / 2)
    assert isinstance(got, Report)


def test_queries_without_positives_are_counted_and_do_not_change_the_mean():
    rankings = np.array([[0, 1], [1, 0]])
    alone = evaluate(rankings[:, :1], Judged([[1]]))
    assert alone.num_without_positives == 0
    for without in (1, 3):
        wider = np.repeat(rankings, [1, without], axis=1)
        got = evaluate(wider, Judged([[1], *[[]] * without]))
        assert got.num_without_positives == without
        assert got.mean_average_precision == alone.mean_average_precision


def test_the_fields_of_a_report_keep_their_order():
    mean, per_query, without = evaluate(np.array([[0], [1]]), Judged([[0]]))
    assert mean == 1
    assert per_query.shape == (1,)
    assert without == 0


def test_an_image_can_not_be_both_positive_and_junk():
    with pytest.raises(ValueError, match="must be disjoint, got 2 in both"):
        average_precision(np.arange(3), [0, 2], [2])


def test_an_image_can_not_be_ranked_twice():
    with pytest.raises(ValueError, match="ranking must hold every image once"):
        average_precision(np.array([0, 1, 1]), [0])


def test_there_must_be_a_ranking_for_every_query():
    with pytest.raises(ValueError, match="one column per query, 2, got 3"):
        evaluate(np.zeros((1, 3), int), Judged([[0], [0]]))


def test_a_benchmark_without_a_positive_is_refused():
    with pytest.raises(ValueError, match="a query with positives, got none"):
        evaluate(np.zeros((1, 2), int), Judged([[], []]))
