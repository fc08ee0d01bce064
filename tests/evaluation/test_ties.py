import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.evaluation import average_precision, evaluate
from diffjax.evaluation._ties import (
    evaluate_scores,
    expected_average_precision,
    random_average_precision,
)
from diffjax.ranking import rank

# Machines that do more than one thing at a time are slow at times.
FEW = settings(deadline=None, max_examples=40)


class Judged:
    """A benchmark with nothing but its truth."""

    def __init__(self, positives, junk=None):
        self.positives = positives
        self.junk = junk if junk is not None else [[] for _ in positives]


@st.composite
def cases(draw, *, largest=6):
    """Scores with ties of up to 6 images, at least one of them positive."""
    size = draw(st.integers(1, largest))
    scores = draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
    kinds = draw(st.lists(st.sampled_from("pj-"), min_size=size, max_size=size))
    kinds[draw(st.integers(0, size - 1))] = "p"
    positives, junk = ([i for i, k in enumerate(kinds) if k == w] for w in "pj")
    return np.array(scores, float), positives, junk


def enumerated(scores, positives, junk):
    """Mean over all orders of all images that put no lower score before a higher."""
    areas = []
    for order in itertools.permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            kept = [image for image in order if image not in junk]
            ranks = [p for p, image in enumerate(kept) if image in positives]
            areas.append(
                sum(
                    ((j / p if p else 1) + (j + 1) / (p + 1)) / 2
                    for j, p in enumerate(ranks)
                )
                / len(positives)
            )
    return np.mean(areas)


@FEW
@given(cases())
def test_agrees_with_all_orders_of_tied_images(case):
    assert expected_average_precision(*case) == pytest.approx(enumerated(*case))


def test_a_tie_behind_other_images_by_hand():
    # [0 | 1 2 3 | 4] with positives 0, 2: 0 adds 1. 2 is at rank 1, 2 or 3, and adds
    # (1/1 + 2/2)/2, (1/2 + 2/3)/2 or (1/3 + 2/4)/2, one as likely as another.
    second = ((1 / 1 + 2 / 2) + (1 / 2 + 2 / 3) + (1 / 3 + 2 / 4)) / 2 / 3
    got = expected_average_precision(np.array([3.0, 2, 2, 2, 1]), [0, 2])
    assert got == pytest.approx((1 + second) / 2)


@FEW
@given(
    st.permutations(range(12)),
    st.lists(st.sampled_from("pj-"), min_size=12, max_size=12),
)
def test_without_ties_it_is_the_average_precision(ranking, kinds):
    positives, junk = ([i for i, k in enumerate(kinds) if k == w] for w in "pj")
    scores = np.empty(12)
    scores[list(ranking)] = -np.arange(12.0)
    expected = average_precision(np.array(ranking), positives, junk)
    got = expected_average_precision(scores, positives, junk)
    np.testing.assert_array_equal(got, expected)


@FEW
@given(cases(largest=15), st.randoms())
def test_the_order_of_the_database_never_matters(case, random):
    scores, positives, junk = case
    moved = list(range(scores.size))
    random.shuffle(moved)
    to = np.argsort(moved)
    got = expected_average_precision(scores[moved], to[positives], to[junk])
    assert got == pytest.approx(expected_average_precision(*case), rel=1e-12)


@FEW
@given(cases(largest=15))
def test_it_lies_between_the_luckiest_and_the_unluckiest_order(case):
    scores, positives, junk = case
    is_positive = np.isin(np.arange(scores.size), positives)
    luckiest = average_precision(np.lexsort((~is_positive, -scores)), positives, junk)
    unluckiest = average_precision(np.lexsort((is_positive, -scores)), positives, junk)
    got = expected_average_precision(*case)
    assert unluckiest - 1e-12 <= got <= luckiest + 1e-12


def test_images_outside_a_short_list_are_tied_below_it():
    scores = np.array([2.0, -np.inf, 1, -np.inf])
    # 1 is third or fourth: ((1/2 + 2/3) + (1/3 + 2/4))/2/2, and 0 adds 1.
    expected = (1 + ((1 / 2 + 2 / 3) + (1 / 3 + 2 / 4)) / 4) / 2
    assert expected_average_precision(scores, [0, 1]) == pytest.approx(expected)


def test_scores_of_any_kind_of_array_are_the_same():
    case = [0.5, 0.25, 0.5, 0.0]
    got = expected_average_precision(jnp.array(case), np.array([0, 3]), np.array([1]))
    assert got == expected_average_precision(np.array(case), [0, 3], [1])


def test_without_a_positive_there_is_no_precision():
    assert math.isnan(expected_average_precision(np.zeros(3), [], [1]))
    assert math.isnan(random_average_precision(0, 3))
    assert math.isnan(random_average_precision(0, 0))


@pytest.mark.parametrize("num_images", range(1, 8))
def test_chance_is_all_images_tied(num_images):
    for positives in range(1, num_images + 1):
        got = random_average_precision(positives, num_images)
        tied = expected_average_precision(np.zeros(num_images), range(positives))
        assert got == pytest.approx(tied, rel=1e-12)
        # All places of the positives are equally likely.
        everywhere = [
            average_precision(np.arange(num_images), places)
            for places in itertools.combinations(range(num_images), positives)
        ]
        assert got == pytest.approx(np.mean(everywhere), rel=1e-12)


@pytest.mark.parametrize(("positives", "num_images"), [(1, 100), (7, 60), (50, 200)])
def test_chance_agrees_with_shuffling(positives, num_images):
    rng = np.random.default_rng(3)
    drawn = [
        average_precision(rng.permutation(num_images), range(positives))
        for _ in range(1000)
    ]
    error = np.std(drawn) / np.sqrt(len(drawn))
    got = random_average_precision(positives, num_images)
    assert np.mean(drawn) == pytest.approx(got, abs=4 * error)


def test_chance_finds_all_where_all_are_right_and_little_where_few_are():
    assert random_average_precision(9, 9) == 1
    # (P/N + P/N + H_N/N) / 2 for few among many.
    few, many = 10, 1_000_000
    harmonic = math.log(many) + 0.5772156649
    expected = (few / many + (few - 1) / many + harmonic / many) / 2
    assert random_average_precision(few, many) == pytest.approx(expected, rel=1e-4)


def test_the_report_is_over_queries_that_have_positives():
    scores = np.array([[1.0, 2, 0], [1, 1, 0], [0, 0, 0]])
    got = evaluate_scores(scores, Judged([[0], [], [2]], [[], [0], [1]]))
    # Query 0: first or second, 1 or (0/1 + 1/2)/2. Query 2: the same, 1 being junk.
    np.testing.assert_allclose(got.average_precision, [5 / 8, np.nan, 5 / 8])
    assert got.mean_average_precision == pytest.approx(5 / 8)
    assert got.num_without_positives == 1


def test_the_report_without_ties_is_that_of_the_rankings():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(30, 4)).astype(np.float32)
    truth = Judged([rng.choice(30, 5, replace=False) for _ in range(4)])
    got = evaluate_scores(jnp.asarray(scores), truth)
    expected = evaluate(rank(jnp.asarray(scores)), truth, num_images=30)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_score_that_is_not_a_number_is_named():
    scores = np.array([[0.0, 1], [1, np.nan], [2, 0]])
    with pytest.raises(ValueError, match=r"numbers, got NaN for image 1\."):
        expected_average_precision(scores[:, 1], [0])
    with pytest.raises(ValueError, match=r"numbers, got NaN for image 1 \(query 1\)\."):
        evaluate_scores(scores, Judged([[0], [0]]))


def test_an_image_without_a_score_is_named():
    with pytest.raises(ValueError, match=r"positives must be images .* 2, got 3\."):
        expected_average_precision(np.zeros(3), [3])
    with pytest.raises(ValueError, match=r"junk must be images .* got -1 \(query 0\)"):
        evaluate_scores(np.zeros((3, 1)), Judged([[0]], [[-1]]))


def test_an_image_can_not_be_both_positive_and_junk():
    with pytest.raises(ValueError, match=r"must be disjoint, got 1 in both\."):
        expected_average_precision(np.zeros(3), [0, 1], [1])


def test_there_must_be_scores_for_every_query():
    with pytest.raises(ValueError, match="scores must have one column per query, 2"):
        evaluate_scores(np.zeros((3, 1)), Judged([[0], [0]]))
    with pytest.raises(ValueError, match="a query with positives, got none"):
        evaluate_scores(np.zeros((3, 1)), Judged([[]]))


@pytest.mark.usefixtures("unchecked")
def test_rankings_are_no_scores():
    with pytest.raises(ValueError, match=r"int64 \[3, 1\]: `evaluate` takes rankings"):
        evaluate_scores(np.arange(3)[:, None], Judged([[0]]))


@pytest.mark.parametrize(("positives", "images"), [(-1, 5), (6, 5), (1, 0)])
def test_there_are_at_most_as_many_positives_as_images(positives, images):
    complaint = rf"num_positives must be in \[0, num_images\], {images}, got"
    with pytest.raises(ValueError, match=complaint):
        random_average_precision(positives, images)
