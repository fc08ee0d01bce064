import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from small_index import CONFIG

from diffjax.index import (
    CompareConfig,
    Index,
    MethodScores,
    compare,
    score_methods,
)
from diffjax.ranking import nearest_neighbors, r_match
from diffjax.report import mean_ap_table

METHODS = [
    *("global k-NN", "R-match", "global diffusion"),
    *("regional diffusion, sum", "regional diffusion, GMP"),
]
COMPARE = CompareConfig(global_k=7, global_query_k=4, resamples=200)


class Truth(NamedTuple):
    positives: list[list[int]]
    junk: list[list[int]]


def by_method(scored) -> dict[str, MethodScores]:
    return {one.method: one for one in scored}


def summed_and_scaled(vectors, ids):
    """Global descriptors, image by image."""
    sums = np.array([vectors[ids == i].sum(0) for i in np.unique(ids)])
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def diffused(vectors, queries, *, k, query_k):
    """Scores of all vectors for queries of one or more regions each."""
    s = oracle.normalized(oracle.affinity(vectors, k, 2.5))
    y = [
        oracle.query_vector(vectors, regions, query_k, 2.5, "paper")
        for regions in queries
    ]
    return oracle.diffusion(s, np.stack(y, axis=1), 0.9)


def check_formulas(index, queries, query_ids, *, rtol):
    """Scores of all methods against their formulas, on the index's own vectors."""
    scored = score_methods(index, queries, query_ids, config=COMPARE)
    assert [one.method for one in scored] == METHODS
    ids = index.image_ids
    vectors, asked = np.asarray(index.vectors), np.asarray(index.prepare(queries))
    baselines = index.vectors, ids, index.prepare(queries), query_ids
    vectors, asked = vectors.astype(np.float64), asked.astype(np.float64)
    regions = [asked[query_ids == query] for query in np.unique(query_ids)]
    regional = diffused(vectors, regions, k=12, query_k=9)
    descriptors = summed_and_scaled(vectors, ids)
    query_descriptors = summed_and_scaled(asked, query_ids)
    expected = [
        nearest_neighbors(*baselines),
        r_match(*baselines),
        diffused(descriptors, query_descriptors[:, None], k=7, query_k=4),
        oracle.pooled(regional, ids, np.ones(len(vectors))),
        oracle.pooled(regional, ids, oracle.gmp_weights(vectors, ids, 0.7)),
    ]
    for one, scores in zip(scored, expected, strict=True):
        scale = rtol * np.abs(scores).max()
        np.testing.assert_allclose(
            one.scores, scores, rtol=rtol, atol=scale, err_msg=one.method
        )
    return scored


@pytest.mark.full
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("pooling", ["gmp", "sum"])
def test_every_method_is_what_its_formulas_give(collection, pooling):
    config = CONFIG.replace(pooling=pooling, rtol=1e-13, max_steps=500)
    index = Index.build(collection.vectors, collection.image_ids, config=config)
    check_formulas(index, collection.queries, collection.query_ids, rtol=1e-9)


def test_all_methods_see_the_same_whitened_regions(given):
    # Settings of a search that compares images, not regions, are of no use to it.
    config = CONFIG.replace(dim=7, local_nodes=60)
    index = Index.build(given.vectors, given.image_ids, config=config)
    asked = given.queries, given.query_ids
    scored = check_formulas(index, *asked, rtol=2e-4)
    for one in scored:
        order = np.argsort(-np.asarray(one.scores), axis=0, kind="stable")
        np.testing.assert_array_equal(one.rankings, order)
    # What users get from a search of all nodes is the last method.
    search = dataclasses.replace(config.search, local_nodes=0)
    result = index.search(*asked, top=24, config=search)
    last = np.asarray(scored[-1].scores)
    np.testing.assert_allclose(result.scores, -np.sort(-last.T, axis=1), rtol=1e-4)


def test_residuals_are_returned_without_warnings(given):
    config = CONFIG.replace(dim=7, max_steps=1, alpha=0.99)
    index = Index.build(given.vectors, given.image_ids, config=config)
    asked = given.queries, given.query_ids
    scored = by_method(score_methods(index, *asked, config=COMPARE))
    with pytest.warns(UserWarning, match="far from solved"):
        result = index.search(*asked, top=24)
    worst = float(result.solution.residual.max())
    assert worst > config.search.warn_residual
    residuals = [scored[method].residual for method in METHODS]
    assert residuals[:2] == [None, None]
    assert residuals[2] is not None
    assert residuals[3:] == pytest.approx([worst, worst])


@pytest.fixture
def planted():
    """Four images, three queries; R-match is always right, k-NN only for the first."""
    truth = Truth(positives=[[0], [1], [2]], junk=[[], [3], []])
    right = np.eye(4, 3, dtype=np.float32)
    # Right for query 0; for 1 and 2 image 0 stands before the right one.
    half = right / 2 + np.eye(4, dtype=np.float32)[0][:, None]
    return [
        MethodScores("global k-NN", jnp.asarray(half), None),
        MethodScores("R-match", jnp.asarray(right), None),
        MethodScores("something else", jnp.asarray(right), 0.25),
    ], truth


def test_methods_are_compared_query_by_query(planted):
    scored, truth = planted
    nearest, match, other = compare(scored, truth, config=COMPARE)
    # A positive at rank 1 (from 0) has AP ((0 / 1) + (1 / 2)) / 2 = 1 / 4.
    assert nearest["mean_ap"] == pytest.approx((1 + 1 / 4 + 1 / 4) / 3)
    assert nearest["low"] < nearest["mean_ap"] < nearest["high"] <= 1
    assert (match["mean_ap"], match["low"], match["high"]) == (1, 1, 1)
    assert "differences" not in nearest
    (difference,) = match["differences"]
    assert difference["against"] == "global k-NN"
    assert difference["mean"] == pytest.approx((0 + 3 / 4 + 3 / 4) / 3)
    assert 0 <= difference["low"] < difference["mean"] < difference["high"]
    assert other["largest_residual"] == 0.25
    assert "largest_residual" not in match
    assert "differences" not in other
    assert len(mean_ap_table([nearest, match, other]).rows) == 3


def test_queries_of_one_object_are_drawn_together(planted):
    scored, truth = planted
    nearest, *_ = compare(scored, truth, objects=["one"] * 3, config=COMPARE)
    # One group can be drawn in one way only.
    assert nearest["low"] == nearest["high"] == pytest.approx(nearest["mean_ap"])


def test_methods_that_were_left_out_are_not_compared_with(planted):
    scored, truth = planted
    (match,) = compare(scored[1:2], truth, config=COMPARE)
    assert "differences" not in match


def test_intervals_follow_from_the_seed(planted):
    first, again, other = (
        compare(*planted, config=dataclasses.replace(COMPARE, seed=seed, resamples=9))
        for seed in (0, 0, 5)
    )
    assert first == again != other
