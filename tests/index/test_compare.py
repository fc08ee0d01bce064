import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from diffjax.index import (
    CompareConfig,
    Index,
    IndexConfig,
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
CONFIG = IndexConfig(
    k=12, query_k=8, gamma=2.5, alpha=0.9, lam=0.7, rtol=1e-13, max_steps=500
)
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
    s = oracle.normalized(oracle.affinity(vectors, k, CONFIG.gamma))
    y = [
        oracle.query_vector(vectors, regions, query_k, CONFIG.gamma, "paper")
        for regions in queries
    ]
    return oracle.diffusion(s, np.stack(y, axis=1), CONFIG.alpha)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("pooling", ["gmp", "sum"])
def test_every_method_is_what_its_formulas_give(collection, pooling):
    vectors, ids, queries, query_ids = collection
    config = dataclasses.replace(CONFIG, pooling=pooling)
    index = Index.build(vectors, ids, config=config)
    scored = score_methods(index, queries, query_ids, config=COMPARE)
    assert [one.method for one in scored] == METHODS
    regions = [queries[query_ids == query] for query in np.unique(query_ids)]
    regional = diffused(vectors, regions, k=12, query_k=8)
    descriptors = summed_and_scaled(vectors, ids)
    asked = summed_and_scaled(queries, query_ids)
    given = jnp.asarray(vectors), ids, jnp.asarray(queries), query_ids
    wanted = [
        nearest_neighbors(*given),
        r_match(*given),
        diffused(descriptors, asked[:, None], k=7, query_k=4),
        oracle.pooled(regional, ids, np.ones(len(vectors))),
        oracle.pooled(regional, ids, oracle.gmp_weights(vectors, ids, 0.7)),
    ]
    for one, scores in zip(scored, wanted, strict=True):
        np.testing.assert_allclose(one.scores, scores, rtol=1e-9, err_msg=one.method)
        order = np.argsort(-np.asarray(scores), axis=0, kind="stable")
        np.testing.assert_array_equal(one.rankings, order)


def test_all_methods_see_the_same_whitened_regions(collection):
    vectors = collection.vectors.astype(np.float32)
    queries = collection.queries.astype(np.float32)
    config = dataclasses.replace(CONFIG, dim=5, rtol=1e-6, max_steps=20)
    index = Index.build(vectors, collection.image_ids, config=config)
    scored = by_method(score_methods(index, queries, collection.query_ids))
    given = (
        *(index.vectors, index.image_ids),
        *(index.prepare(queries), collection.query_ids),
    )
    for method, function in (("global k-NN", nearest_neighbors), ("R-match", r_match)):
        np.testing.assert_allclose(
            scored[method].scores, function(*given), rtol=1e-5, atol=1e-6
        )
    # What users get from a search is the last method.
    found = index.search(queries, collection.query_ids, top=24)
    last = np.asarray(scored["regional diffusion, GMP"].scores)
    np.testing.assert_allclose(found.scores, -np.sort(-last.T, axis=1), rtol=1e-4)


def test_residuals_are_handed_on_and_warn_nobody(collection):
    config = dataclasses.replace(CONFIG, max_steps=1, alpha=0.99)
    index = Index.build(
        collection.vectors.astype(np.float32), collection.image_ids, config=config
    )
    queries = collection.queries.astype(np.float32)
    scored = by_method(score_methods(index, queries, collection.query_ids))
    with pytest.warns(UserWarning, match="far from solved"):
        found = index.search(queries, collection.query_ids)
    worst = float(found.solution.residual.max())
    assert worst > config.warn_residual
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
