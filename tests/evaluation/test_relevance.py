"""Ranks of positives, and errors that name the query and the image."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.evaluation import evaluate
from diffjax.evaluation._cutoffs import evaluate_cutoffs
from diffjax.evaluation._relevance import find_all_positive_ranks, find_positive_ranks


class Benchmark:
    """Benchmark of 3 queries on 5 images."""

    def __init__(self, positives=((0,), (1, 2), (4,)), junk=((), (0,), ())):
        self.positives = positives
        self.junk = junk


@pytest.fixture
def rankings() -> np.ndarray:
    """Rankings of all 5 images for the 3 queries, no two alike."""
    return np.array([[0, 2, 3], [1, 4, 4], [2, 0, 1], [3, 1, 2], [4, 3, 0]])


def test_positive_ranks_are_counted_without_junk(rankings):
    got = find_positive_ranks(rankings[:, 1], (1, 2), (0,))
    np.testing.assert_array_equal(got.ranks, [0, 2])
    assert got.num_positives == 2


@pytest.mark.parametrize("num_images", [None, 5])
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_positive_ranks_are_computed_for_every_query(rankings, num_images, kind):
    got = find_all_positive_ranks(kind(rankings), Benchmark(), num_images=num_images)
    for one, ranks in zip(got, [[0], [0, 2], [1]], strict=True):
        np.testing.assert_array_equal(one.ranks, ranks)
    assert [one.num_positives for one in got] == [1, 2, 1]


def test_error_names_the_image_ranked_twice_and_its_query(rankings):
    rankings[3, 1] = 4
    with pytest.raises(ValueError, match=r"got image 4 twice or more \(query 1\)"):
        evaluate(rankings, Benchmark())


def test_error_names_images_missing_from_a_complete_ranking(rankings):
    complaint = r"hold all 5 images, got 2 missing, first image 3 \(query 0\)"
    with pytest.raises(ValueError, match=complaint):
        evaluate(rankings[:3], Benchmark(), num_images=5)


def test_positives_missing_from_a_short_ranking_add_nothing(rankings):
    got = evaluate(rankings[:3], Benchmark())
    # Query 1 finds one of two, first; what it lacks adds nothing.
    np.testing.assert_allclose(got.average_precision, [1, 1 / 2, (0 + 1 / 2) / 2])


@pytest.mark.parametrize(
    ("image", "num_images", "complaint"),
    [
        (5, 5, "rankings must be images of the database, 0 to 4, got 5 (query 2)."),
        (-1, 5, "rankings must be images of the database, 0 to 4, got -1 (query 2)."),
        (-1, None, "rankings must count from 0, got -1 (query 2)."),
    ],
)
def test_rejects_ranked_images_outside_the_database(
    rankings, image, num_images, complaint
):
    rankings[4, 2] = image
    with pytest.raises(ValueError, match=re.escape(complaint)):
        evaluate(rankings, Benchmark(), num_images=num_images)


def test_any_image_number_is_accepted_without_num_images(rankings):
    rankings[4, 2] = 5
    assert evaluate(rankings, Benchmark()).mean_average_precision > 0


@pytest.mark.parametrize("name", ["positives", "junk"])
@pytest.mark.parametrize("kind", [list, np.array, tuple])
def test_rejects_labels_outside_the_database(rankings, name, kind):
    lists = [[], [], kind([3, 9])]
    truth = Benchmark(**({"positives": ((0,),) * 3, "junk": ((),) * 3} | {name: lists}))
    complaint = re.escape(
        f"{name} must be images of the database, 0 to 4, got 9 (query 2)."
    )
    for measure in (evaluate, evaluate_cutoffs):
        with pytest.raises(ValueError, match=complaint):
            measure(rankings, truth, num_images=5)


def test_error_names_the_image_that_is_positive_and_junk(rankings):
    truth = Benchmark(junk=((), (0, 2), ()))
    with pytest.raises(ValueError, match=r"disjoint, got 2 in both \(query 1\)"):
        evaluate(rankings, truth)


def test_rejects_another_number_of_queries_than_the_labels_have(rankings):
    with pytest.raises(ValueError, match="one column per query, 3, got 2"):
        evaluate_cutoffs(rankings[:, :2], Benchmark())
    with pytest.raises(ValueError, match="junk must have one entry per query, 3, got"):
        evaluate(rankings, Benchmark(junk=((), ())))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("measure", [evaluate, evaluate_cutoffs])
def test_rejects_scores_in_place_of_rankings(rankings, measure):
    complaint = r"got float64 \[5, 3\]: `rank` makes them from scores"
    with pytest.raises(ValueError, match=complaint):
        measure(rankings / 10, Benchmark())
    with pytest.raises(ValueError, match=r"rankings must be a matrix .* int64 \[5\]"):
        measure(rankings[:, 0], Benchmark())
