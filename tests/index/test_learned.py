import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import learning
from diffjax.index import Index, IndexConfig

CONFIG = IndexConfig(k=12, query_k=8, max_steps=200)
LEARNED: dict[str, Any] = {
    "alpha": 0.9,
    "gamma": 2.0,
    "lam": 0.5,
    "query_gamma": 4.0,
    "bias": 0.1,
}


@pytest.fixture
def given(collection):
    return collection._replace(
        vectors=collection.vectors.astype(np.float32),
        queries=collection.queries.astype(np.float32),
    )


@pytest.fixture
def index(given):
    return Index.build(given.vectors, given.image_ids, config=CONFIG)


def projection(dim, rows, seed=0):
    draw = np.random.default_rng(seed)
    return jnp.asarray(np.eye(rows, dim) + 0.3 * draw.normal(size=(rows, dim)))


def ordered(found, num_images):
    """Scores of all images by number."""
    scores = np.zeros((found.images.shape[0], num_images))
    np.put_along_axis(scores, np.asarray(found.images), np.asarray(found.scores), 1)
    return scores.T


@pytest.mark.parametrize(
    ("moved", "dim"),
    [(False, None), (True, None), (True, 12)],
    ids=["scalars", "projection", "projection of whitened"],
)
def test_a_search_with_parameters_scores_as_learning_does(given, moved, dim):
    config = dataclasses.replace(CONFIG, dim=dim)
    index = Index.build(given.vectors, given.image_ids, config=config)
    p = index.vectors.shape[1]
    names = tuple(LEARNED)
    learned = learning.parameters(names, **LEARNED)
    if moved:
        learned = learned._replace(projection=projection(p, p - 2).astype(jnp.float32))
    queries = learning.QueryDescriptors(
        (index.prepare(given.queries),), np.asarray(given.query_ids)
    )
    problem = learning.problem(index.vectors, index.image_ids, k=CONFIG.k)
    if moved:
        problem = learning.refresh_neighbors(problem, learned, k=CONFIG.k)
    expected = learning.score_images(
        learned, problem, queries, query_k=CONFIG.query_k, max_steps=200
    )
    found = index.with_parameters(learned).search(
        given.queries, given.query_ids, top=index.num_images
    )
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        ordered(found, index.num_images), expected, atol=2e-5 * scale
    )


def test_the_defaults_as_parameters_change_nothing(index, given):
    same = index.with_parameters(learning.parameters())
    own = index.search(given.queries, given.query_ids)
    found = same.search(given.queries, given.query_ids)
    np.testing.assert_array_equal(found.images, own.images)
    assert same.config == dataclasses.replace(CONFIG, alpha=same.config.alpha)


def test_an_index_with_parameters_is_saved_as_any_other(index, given, tmp_path):
    learned = learning.parameters(tuple(LEARNED), **LEARNED)._replace(
        projection=projection(given.vectors.shape[1], 10).astype(jnp.float32)
    )
    tuned = index.with_parameters(learned)
    tuned.save(tmp_path / "tuned")
    again = Index.load(tmp_path / "tuned")
    own = tuned.search(given.queries, given.query_ids)
    found = again.search(given.queries, given.query_ids)
    np.testing.assert_array_equal(found.images, own.images)
    np.testing.assert_array_equal(found.scores, own.scores)
    assert again.config.bias == pytest.approx(0.1)


def test_the_fingerprint_is_of_the_vectors_and_not_of_the_settings(index, given):
    other = dataclasses.replace(CONFIG, alpha=0.5, k=5)
    assert (
        Index.build(given.vectors, given.image_ids, config=other).fingerprint
        == index.fingerprint
    )
    moved = np.array(given.vectors)
    moved[3, 2] += 0.01
    assert (
        Index.build(moved, given.image_ids, config=CONFIG).fingerprint
        != index.fingerprint
    )
    assert Index.build(given.vectors, config=CONFIG).fingerprint != index.fingerprint


def test_rows_that_were_solved_beforehand_are_solved_again(given):
    config = dataclasses.replace(CONFIG, offline=30, cut="late")
    index = Index.build(given.vectors, given.image_ids, config=config)
    tuned = index.with_parameters(learning.parameters(alpha=0.5))
    fresh = Index.build(
        given.vectors,
        given.image_ids,
        config=dataclasses.replace(config, alpha=tuned.config.alpha),
    )
    assert tuned.rows is not None
    assert fresh.rows is not None
    assert index.rows is not None
    np.testing.assert_allclose(tuned.rows.values, fresh.rows.values, rtol=1e-5)
    assert not np.allclose(tuned.rows.values, index.rows.values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture": jnp.ones(1)}, "got mixture: learning.score_images"),
        ({"scale_weights": jnp.ones(3)}, "got scale_weights"),
        ({"projection": jnp.eye(3)}, "projection must be of the .* got 3"),
        ({"alpha": jnp.asarray(1.5)}, "alpha must be in"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(index, changes, message):
    with pytest.raises(ValueError, match=message):
        index.with_parameters(learning.parameters()._replace(**changes))


@pytest.mark.parametrize("changes", [{"query_gamma": 0.0}, {"bias": 1.0}])
def test_settings_of_the_kernel_are_checked(changes):
    with pytest.raises(ValueError, match=f"{next(iter(changes))} must be"):
        dataclasses.replace(CONFIG, **changes)
