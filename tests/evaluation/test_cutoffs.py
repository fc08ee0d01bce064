import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.evaluation import evaluate
from diffjax.evaluation._cutoffs import evaluate_cutoffs, precision_at, recall_at

# Machines that do more than one thing at a time are slow at times.
FEW_EXAMPLES = settings(deadline=None, max_examples=40)


class Benchmark:
    """Benchmark of relevance labels alone."""

    def __init__(self, positives, junk=None):
        self.positives = positives
        self.junk = junk if junk is not None else [[] for _ in positives]


@st.composite
def cases(draw):
    """Rankings of up to 12 images, at least one of them positive."""
    size = draw(st.integers(1, 12))
    kinds = draw(st.lists(st.sampled_from("pj-"), min_size=size, max_size=size))
    kinds[draw(st.integers(0, size - 1))] = "p"
    positives, junk = ([i for i, k in enumerate(kinds) if k == w] for w in "pj")
    return np.array(draw(st.permutations(range(size)))), positives, junk


def precision_and_recall_by_loop(ranking, positives, junk, *, k):
    """Precision and recall by counting down to rank k, or to the last positive."""
    num_seen, num_positives = 0, 0
    for image in ranking:
        if image not in junk and num_seen < k and num_positives < len(positives):
            num_seen += 1
            num_positives += image in positives
    return num_positives / num_seen, num_positives / len(positives)


@FEW_EXAMPLES
@given(cases(), st.integers(1, 15))
def test_agrees_with_counting_down_the_ranking(case, k):
    precision, recall = precision_and_recall_by_loop(*case, k=k)
    assert precision_at(*case, k=k) == pytest.approx(precision)
    assert recall_at(*case, k=k) == pytest.approx(recall)


@pytest.mark.parametrize(
    ("k", "precision", "recall"),
    [
        (1, 1 / 1, 1 / 3),
        (2, 1 / 2, 1 / 3),
        (5, 2 / 5, 2 / 3),
        # The last of the three is the 6th: later ranks do not count.
        (10, 3 / 6, 3 / 3),
    ],
)
def test_agrees_by_hand_for_positives_at_ranks_0_2_and_5(k, precision, recall):
    assert precision_at(np.arange(8), [0, 2, 5], k=k) == precision
    assert recall_at(np.arange(8), [0, 2, 5], k=k) == recall


def test_junk_is_removed_before_answers_are_counted():
    # Golden case: positives [0, 2, 6, 10, 20] move to [0, 1, 5, 7, 17].
    truth = [0, 2, 6, 10, 20], [1, 8, 9, 30]
    expected = {1: 1 / 1, 2: 2 / 2, 5: 2 / 5, 10: 4 / 10, 30: 5 / 18}
    for k, precision in expected.items():
        assert precision_at(np.arange(40), *truth, k=k) == precision


@FEW_EXAMPLES
@given(cases(), st.integers(1, 15))
def test_a_perfect_ranking_reaches_1_at_every_cutoff(case, k):
    ranking, positives, junk = case
    others = [i for i in ranking if i not in positives and i not in junk]
    perfect = np.array([*junk, *positives, *others])
    assert precision_at(perfect, positives, junk, k=k) == 1
    assert recall_at(perfect, positives, junk, k=k) == min(1, k / len(positives))


@FEW_EXAMPLES
@given(cases(), st.integers(1, 15))
def test_answers_after_the_first_k_are_not_needed(case, k):
    ranking, positives, junk = case
    without_junk = [i for i in ranking if i not in junk]
    short = np.array(without_junk[:k])
    assert precision_at(short, positives, junk, k=k) == precision_at(*case, k=k)
    assert recall_at(short, positives, junk, k=k) == recall_at(*case, k=k)


@FEW_EXAMPLES
@given(cases())
def test_recall_rises_with_the_cutoff_up_to_1(case):
    recalls = [recall_at(*case, k=k) for k in (1, 2, 4, 7, 12)]
    assert (np.diff(recalls) >= 0).all()
    assert recalls[-1] == 1


def test_missing_answers_of_a_short_ranking_count_as_wrong():
    # One of two is found at once, and the rank of the other is unknown.
    assert precision_at(np.array([4]), [4, 9], k=5) == 1 / 5
    assert precision_at(np.zeros(0, int), [9], k=5) == 0
    assert recall_at(np.zeros(0, int), [9], k=5) == 0


def test_precision_and_recall_without_positives_are_nan():
    assert math.isnan(precision_at(np.arange(3), [], [1], k=2))
    assert math.isnan(recall_at(np.arange(3), [], [1], k=2))


def test_means_exclude_queries_without_positives():
    rankings = np.array([[0, 1, 0], [1, 0, 1], [2, 2, 2]])
    truth = Benchmark([[0], [], [1, 2]], [[1], [0], []])
    got = evaluate_cutoffs(rankings, truth, cutoffs=(1, 2), num_images=3)
    nan = np.nan
    # Query 2: [0, 1, 2] holds its two positives second and third.
    np.testing.assert_array_equal(got.precision, [[1, 1], [nan, nan], [0, 1 / 2]])
    np.testing.assert_array_equal(got.recall, [[1, 1], [nan, nan], [0, 1 / 2]])
    np.testing.assert_array_equal(got.mean_precision, [1 / 2, 3 / 4])
    np.testing.assert_array_equal(got.mean_recall, [1 / 2, 3 / 4])
    assert got.cutoffs == (1, 2)
    assert got.num_without_positives == 1
    assert evaluate(rankings, truth).num_without_positives == 1


def test_results_of_a_query_do_not_depend_on_other_queries():
    rng = np.random.default_rng(0)
    rankings = np.stack([rng.permutation(20) for _ in range(6)], axis=1)
    positives = [rng.choice(10, size=n, replace=False) for n in (1, 2, 3, 4, 5, 9)]
    junk = [10 + rng.choice(10, size=n, replace=False) for n in (0, 5, 3, 1, 2, 4)]
    got = evaluate_cutoffs(rankings, Benchmark(positives, junk))
    assert got.cutoffs == (1, 5, 10)
    for query, one in enumerate(zip(rankings.T, positives, junk, strict=True)):
        for column, k in enumerate(got.cutoffs):
            assert got.precision[query, column] == precision_at(*one, k=k)
            assert got.recall[query, column] == recall_at(*one, k=k)
    np.testing.assert_allclose(got.mean_precision, got.precision.mean(0))
    np.testing.assert_allclose(got.mean_recall, got.recall.mean(0))


def test_zero_cutoffs_give_empty_results():
    got = evaluate_cutoffs(np.arange(3)[:, None], Benchmark([[0]]), cutoffs=())
    assert got.precision.shape == (1, 0)
    assert got.mean_precision.shape == (0,)


@pytest.mark.parametrize("measure", [precision_at, recall_at])
def test_rejects_cutoffs_below_1(measure):
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        measure(np.arange(3), [0], k=0)
    with pytest.raises(ValueError, match="cutoffs must be at least 1, got -2"):
        evaluate_cutoffs(np.arange(3)[:, None], Benchmark([[0]]), cutoffs=(1, -2))


@pytest.mark.parametrize("measure", [precision_at, recall_at])
def test_rejects_images_ranked_twice_or_both_positive_and_junk(measure):
    with pytest.raises(ValueError, match=r"got image 1 twice or more\."):
        measure(np.array([0, 1, 1]), [0], k=1)
    with pytest.raises(ValueError, match=r"disjoint, got 2 in both\."):
        measure(np.arange(3), [0, 2], [2], k=1)


def test_rejects_benchmarks_without_positives():
    with pytest.raises(ValueError, match="a query with positives, got none"):
        evaluate_cutoffs(np.zeros((1, 2), int), Benchmark([[], []]))
