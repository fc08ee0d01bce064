"""Average precision of rankings, and of scores with ties."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import random_average_precision

from diffjax.evaluation import (
    PrecisionReport,
    average_precision,
    evaluate,
    evaluate_scores,
)
from diffjax.evaluation._average_precision import expected_precision
from diffjax.ranking import rank

# No deadline: machines that do more than one thing at a time are slow at times.
FEW_EXAMPLES = settings(deadline=None, max_examples=40)


def average_precision_by_loop(ranking, positives, junk=()):
    """Average precision as the area under precision over recall, rank by rank."""
    positives, junk = set(positives), set(junk)
    rank = num_found = 0
    area, precision = 0.0, 1.0
    for image in ranking:
        if image in junk:
            continue
        rank += 1
        num_found += image in positives
        if image in positives:
            area += (precision + num_found / rank) / 2 / len(positives)
        precision = num_found / rank
    return area


class Benchmark:
    """Benchmark of relevance labels alone."""

    def __init__(self, positives, junk=None):
        self.positives = positives
        self.junk = junk if junk is not None else [[] for _ in positives]


@st.composite
def cases(draw):
    """Rankings of up to 12 images with positives and junk among up to 14."""
    size = draw(st.integers(1, 12))
    ranking = draw(st.permutations(range(size)))
    kinds = draw(st.lists(st.sampled_from("pj-"), min_size=size + 2, max_size=size + 2))
    positives = [i for i, kind in enumerate(kinds) if kind == "p"]
    junk = [i for i, kind in enumerate(kinds) if kind == "j"]
    return ranking, positives or [size], [i for i in junk if i != size]


def test_agrees_with_the_formula_for_positives_at_ranks_0_2_and_5():
    # j/p_j and (j+1)/(p_j+1): (1 + 1/1)/2, (1/2 + 2/3)/2, (2/5 + 3/6)/2.
    expected = (1 + (1 / 2 + 2 / 3) / 2 + (2 / 5 + 3 / 6) / 2) / 3
    assert average_precision(np.arange(6), [0, 2, 5]) == pytest.approx(expected)
    assert round(expected, 6) == 0.677778  # As the benchmark's own program prints.


def test_junk_is_removed_before_ranks_are_counted():
    # Junk at 1, 8, 9 and 30 moves the positives up by 0, 1, 1, 3 and 3.
    with_junk = average_precision(np.arange(40), [0, 2, 6, 10, 20], [1, 8, 9, 30])
    assert with_junk == average_precision(np.arange(36), [0, 1, 5, 7, 17])
    # (j/p_j + (j+1)/(p_j+1))/2 at 0, 1, 5, 7 and 17.
    steps = [(1, 1), (1, 1), (2 / 5, 3 / 6), (3 / 7, 4 / 8), (4 / 17, 5 / 18)]
    assert with_junk == pytest.approx(sum(map(sum, steps)) / 2 / 5)


@FEW_EXAMPLES
@given(cases())
def test_agrees_with_the_area_under_precision_over_recall(case):
    ranking, positives, junk = case
    got = average_precision(np.array(ranking), positives, junk)
    assert got == pytest.approx(average_precision_by_loop(ranking, positives, junk))
    assert 0 <= got <= 1


@pytest.mark.parametrize("positives", [1, 3, 6])
def test_a_perfect_ranking_has_precision_1(positives):
    assert average_precision(np.arange(6), range(positives)) == pytest.approx(1)


def test_mean_over_all_rankings_equals_the_chance_level():
    # The j-th positive (from 0) is at rank p in C(p, j) C(m-1-p, P-1-j) of the
    # C(m, P) equally likely choices of ranks, and adds ((j/p) + (j+1)/(p+1)) / 2 / P.
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


@FEW_EXAMPLES
@given(cases(), st.randoms())
def test_positions_of_junk_do_not_change_the_precision(case, random):
    ranking, positives, junk = case
    moved = [image for image in ranking if image not in junk]
    for image in junk:
        moved.insert(random.randint(0, len(moved)), image)
    assert average_precision(np.array(moved), positives, junk) == average_precision(
        np.array(ranking), positives, junk
    )


@FEW_EXAMPLES
@given(cases())
def test_moving_a_positive_up_never_lowers_the_precision(case):
    ranking, positives, junk = case
    before = average_precision(np.array(ranking), positives, junk)
    for upper, lower in itertools.pairwise(range(len(ranking))):
        if ranking[lower] in positives:
            better = list(ranking)
            better[upper], better[lower] = ranking[lower], ranking[upper]
            after = average_precision(np.array(better), positives, junk)
            assert after >= before - 1e-12


def test_unranked_positives_add_nothing():
    # One of two is found, at rank 0: (1 + 1)/2 / 2.
    assert average_precision(np.array([4, 0]), [4, 9]) == pytest.approx(1 / 2)
    assert average_precision(np.array([0, 1]), [9]) == 0
    assert average_precision(np.zeros(0, int), [9]) == 0


def test_an_image_named_twice_as_positive_counts_once():
    once = average_precision(np.arange(6), [0, 2, 5])
    assert average_precision(np.arange(6), [0, 2, 2, 5, 0]) == once


def test_rankings_of_junk_alone_have_precision_0():
    assert average_precision(np.arange(3), [7], [0, 1, 2]) == 0


def test_precision_without_positives_is_nan():
    assert math.isnan(average_precision(np.arange(3), [], [1]))


def test_lists_numpy_and_jax_arrays_give_equal_precision():
    ranking = [3, 1, 0, 2]
    expected = average_precision(np.array(ranking), [1, 2], [0])
    got = average_precision(jnp.array(ranking), np.array([2, 1]), np.array([0]))
    assert got == expected


def test_mean_excludes_queries_without_positives():
    rankings = np.array([[0, 1, 0], [1, 0, 1], [2, 2, 2]])
    got = evaluate(rankings, Benchmark([[0], [], [2]], [[1], [0], []]))
    # Query 0 is perfect, query 1 asks nothing, query 2 is found last: (0/2 + 1/3)/2.
    expected = [1, np.nan, 1 / 6]
    np.testing.assert_allclose(got.average_precision, expected, rtol=1e-12)
    assert got.mean_average_precision == pytest.approx((1 + 1 / 6) / 2)
    assert isinstance(got, PrecisionReport)


def test_queries_without_positives_are_counted_and_do_not_change_the_mean():
    rankings = np.array([[0, 1], [1, 0]])
    alone = evaluate(rankings[:, :1], Benchmark([[1]]))
    assert alone.num_without_positives == 0
    for without in (1, 3):
        wider = np.repeat(rankings, [1, without], axis=1)
        got = evaluate(wider, Benchmark([[1], *[[]] * without]))
        assert got.num_without_positives == without
        assert got.mean_average_precision == alone.mean_average_precision


def test_report_fields_have_a_fixed_order():
    mean, per_query, without = evaluate(np.array([[0], [1]]), Benchmark([[0]]))
    assert mean == 1
    assert per_query.shape == (1,)
    assert without == 0


def test_rejects_images_that_are_positive_and_junk():
    with pytest.raises(ValueError, match="must be disjoint, got 2 in both"):
        average_precision(np.arange(3), [0, 2], [2])


def test_rejects_images_ranked_twice():
    with pytest.raises(ValueError, match="ranking must hold every image once"):
        average_precision(np.array([0, 1, 1]), [0])


def test_rejects_another_number_of_rankings_than_queries():
    with pytest.raises(ValueError, match="one column per query, 2, got 3"):
        evaluate(np.zeros((1, 3), int), Benchmark([[0], [0]]))


def test_rejects_benchmarks_without_positives():
    with pytest.raises(ValueError, match="a query with positives, got none"):
        evaluate(np.zeros((1, 2), int), Benchmark([[], []]))


# Expected precision: scores with ties.


@st.composite
def tied_cases(draw, *, largest=6):
    """Scores with ties of up to 6 images, at least one of them positive."""
    size = draw(st.integers(1, largest))
    scores = draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
    kinds = draw(st.lists(st.sampled_from("pj-"), min_size=size, max_size=size))
    kinds[draw(st.integers(0, size - 1))] = "p"
    positives, junk = ([i for i, k in enumerate(kinds) if k == w] for w in "pj")
    return np.array(scores, float), positives, junk


def precision_over_all_orders(scores, positives, junk):
    """Mean average precision over all orders that agree with the scores."""
    areas = []
    for order in itertools.permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            without_junk = [image for image in order if image not in junk]
            ranks = [p for p, image in enumerate(without_junk) if image in positives]
            areas.append(
                sum(
                    ((j / p if p else 1) + (j + 1) / (p + 1)) / 2
                    for j, p in enumerate(ranks)
                )
                / len(positives)
            )
    return np.mean(areas)


@FEW_EXAMPLES
@given(tied_cases())
def test_expected_precision_agrees_with_all_orders_of_ties(case):
    assert expected_precision(*case) == pytest.approx(precision_over_all_orders(*case))


def test_expected_precision_of_a_tie_behind_another_image_by_hand():
    # [0 | 1 2 3 | 4] with positives 0, 2: 0 adds 1. 2 is at rank 1, 2 or 3, and adds
    # (1/1 + 2/2)/2, (1/2 + 2/3)/2 or (1/3 + 2/4)/2, one as likely as another.
    second = ((1 / 1 + 2 / 2) + (1 / 2 + 2 / 3) + (1 / 3 + 2 / 4)) / 2 / 3
    got = expected_precision(np.array([3.0, 2, 2, 2, 1]), [0, 2], [])
    assert got == pytest.approx((1 + second) / 2)


@FEW_EXAMPLES
@given(
    st.permutations(range(12)),
    st.lists(st.sampled_from("pj-"), min_size=12, max_size=12),
)
def test_expected_precision_without_ties_is_the_average_precision(ranking, kinds):
    positives, junk = ([i for i, k in enumerate(kinds) if k == w] for w in "pj")
    scores = np.empty(12)
    scores[list(ranking)] = -np.arange(12.0)
    expected = average_precision(np.array(ranking), positives, junk)
    got = expected_precision(scores, positives, junk)
    np.testing.assert_array_equal(got, expected)


@FEW_EXAMPLES
@given(tied_cases(largest=15), st.randoms())
def test_expected_precision_does_not_depend_on_database_order(case, random):
    scores, positives, junk = case
    moved = list(range(scores.size))
    random.shuffle(moved)
    to = np.argsort(moved)
    got = expected_precision(scores[moved], to[positives], to[junk])
    assert got == pytest.approx(expected_precision(*case), rel=1e-12)


@FEW_EXAMPLES
@given(tied_cases(largest=15))
def test_expected_precision_lies_between_worst_and_best_order_of_ties(case):
    scores, positives, junk = case
    is_positive = np.isin(np.arange(scores.size), positives)
    luckiest = average_precision(np.lexsort((~is_positive, -scores)), positives, junk)
    unluckiest = average_precision(np.lexsort((is_positive, -scores)), positives, junk)
    got = expected_precision(*case)
    assert unluckiest - 1e-12 <= got <= luckiest + 1e-12


def test_images_of_score_minus_infinity_are_tied_at_the_end():
    scores = np.array([2.0, -np.inf, 1, -np.inf])
    # 1 is third or fourth: ((1/2 + 2/3) + (1/3 + 2/4))/2/2, and 0 adds 1.
    expected = (1 + ((1 / 2 + 2 / 3) + (1 / 3 + 2 / 4)) / 4) / 2
    assert expected_precision(scores, [0, 1], []) == pytest.approx(expected)


def test_numpy_and_jax_scores_give_equal_expected_precision():
    scores = np.array([[0.5], [0.25], [0.5], [0]], np.float32)
    benchmark = Benchmark([np.array([0, 3])], [np.array([1])])
    got = evaluate_scores(jnp.asarray(scores), benchmark)
    expected = evaluate_scores(scores, Benchmark([[0, 3]], [[1]]))
    assert got.mean_average_precision == expected.mean_average_precision


def test_expected_precision_without_positives_is_nan():
    assert math.isnan(expected_precision(np.zeros(3), [], [1]))


@pytest.mark.parametrize("num_images", range(1, 8))
def test_chance_level_equals_precision_of_all_images_tied(num_images):
    for positives in range(1, num_images + 1):
        got = random_average_precision(positives, num_images)
        tied = expected_precision(np.zeros(num_images), range(positives), [])
        assert got == pytest.approx(tied, rel=1e-12)
        # All ranks of the positives are equally likely.
        precisions = [
            average_precision(np.arange(num_images), ranks)
            for ranks in itertools.combinations(range(num_images), positives)
        ]
        assert got == pytest.approx(np.mean(precisions), rel=1e-12)


@pytest.mark.parametrize(("positives", "num_images"), [(1, 100), (7, 60), (50, 200)])
def test_chance_level_agrees_with_shuffling(positives, num_images):
    rng = np.random.default_rng(3)
    drawn = [
        average_precision(rng.permutation(num_images), range(positives))
        for _ in range(300)
    ]
    error = np.std(drawn) / np.sqrt(len(drawn))
    got = random_average_precision(positives, num_images)
    assert np.mean(drawn) == pytest.approx(got, abs=4 * error)


def test_tied_scores_have_precision_1_where_all_images_are_positive():
    assert expected_precision(np.zeros(9), range(9), []) == pytest.approx(1)


def test_report_of_scores_excludes_queries_without_positives():
    scores = np.array([[1.0, 2, 0], [1, 1, 0], [0, 0, 0]])
    got = evaluate_scores(scores, Benchmark([[0], [], [2]], [[], [0], [1]]))
    # Query 0: first or second, 1 or (0/1 + 1/2)/2. Query 2: the same, 1 being junk.
    np.testing.assert_allclose(got.average_precision, [5 / 8, np.nan, 5 / 8])
    assert got.mean_average_precision == pytest.approx(5 / 8)
    assert got.num_without_positives == 1


def test_report_of_scores_without_ties_equals_that_of_rankings():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(30, 4)).astype(np.float32)
    truth = Benchmark([rng.choice(30, 5, replace=False) for _ in range(4)])
    got = evaluate_scores(jnp.asarray(scores), truth)
    expected = evaluate(rank(jnp.asarray(scores)), truth, num_images=30)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_error_names_the_image_whose_score_is_nan():
    scores = np.array([[0.0, 1], [1, np.nan], [2, 0]])
    with pytest.raises(ValueError, match=r"numbers, got NaN for image 1\."):
        expected_precision(scores[:, 1], [0], [])
    with pytest.raises(ValueError, match=r"numbers, got NaN for image 1 \(query 1\)\."):
        evaluate_scores(scores, Benchmark([[0], [0]]))


def test_error_names_labelled_images_without_a_score():
    with pytest.raises(ValueError, match=r"positives must be images .* 2, got 3\."):
        expected_precision(np.zeros(3), [3], [])
    with pytest.raises(ValueError, match=r"junk must be images .* got -1 \(query 0\)"):
        evaluate_scores(np.zeros((3, 1)), Benchmark([[0]], [[-1]]))


def test_rejects_scored_images_that_are_positive_and_junk():
    with pytest.raises(ValueError, match=r"must be disjoint, got 1 in both\."):
        expected_precision(np.zeros(3), [0, 1], [1])


def test_rejects_another_number_of_score_columns_than_queries():
    with pytest.raises(ValueError, match="scores must have one column per query, 2"):
        evaluate_scores(np.zeros((3, 1)), Benchmark([[0], [0]]))
    with pytest.raises(ValueError, match="a query with positives, got none"):
        evaluate_scores(np.zeros((3, 1)), Benchmark([[]]))


@pytest.mark.usefixtures("unchecked")
def test_rejects_rankings_in_place_of_scores():
    with pytest.raises(ValueError, match=r"int64 \[3, 1\]: `evaluate` takes rankings"):
        evaluate_scores(np.arange(3)[:, None], Benchmark([[0]]))
