"""Indexes that search with learned parameters."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from small_index import CONFIG, assert_same_answers

from diffjax import learning
from diffjax.index import Index

LEARNED: dict[str, Any] = {
    "alpha": 0.8,
    "gamma": 2.0,
    "lam": 0.5,
    "query_gamma": 4.0,
    "bias": 0.1,
}
ALL = 24


def projection(dim, rows, seed=0):
    noise = np.random.default_rng(seed).normal(size=(rows, dim))
    return jnp.asarray(np.eye(rows, dim) + 0.3 * noise, jnp.float32)


def scores_by_image(result):
    """Scores of all images by number, a column per query."""
    scores = np.zeros(result.images.shape)
    np.put_along_axis(scores, np.asarray(result.images), np.asarray(result.scores), 1)
    return scores.T


@pytest.mark.parametrize(
    ("moved", "dim"),
    [
        (True, None),
        pytest.param(True, 7, marks=pytest.mark.full),
        pytest.param(False, None, marks=pytest.mark.full),
        pytest.param(False, 7, marks=pytest.mark.full),
    ],
    ids=["projection", "whitened projection", "scalars", "whitened scalars"],
)
def test_a_search_with_parameters_scores_as_learning_does(given, moved, dim):
    config = CONFIG.replace(dim=dim, max_steps=200)
    index = Index.build(given.vectors, given.image_ids, config=config)
    p = index.vectors.shape[1]
    learned = learning.parameters(tuple(LEARNED), **LEARNED)
    if moved:
        learned = learned._replace(projection=projection(p, p - 2))
    queries = learning.QueryDescriptors(
        (index.prepare(given.queries),), np.asarray(given.query_ids)
    )
    training_graphs = learning.training_graphs(index.vectors, index.image_ids, k=12)
    if moved:
        training_graphs = learning.refresh_neighbors(training_graphs, learned, k=12)
    expected = learning.score_images(
        learned, training_graphs, queries, query_k=9, max_steps=200
    )
    tuned = index.with_parameters(learned)
    result = tuned.search(given.queries, given.query_ids, top=ALL)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(scores_by_image(result), expected, atol=2e-5 * scale)
    np.testing.assert_array_equal(tuned.image_ids, index.image_ids)


def test_the_defaults_as_parameters_change_nothing(given):
    config = CONFIG.replace(gamma=3.0, lam=1.0, alpha=0.99)
    index = Index.build(given.vectors, given.image_ids, config=config)
    same = index.with_parameters(learning.parameters())
    alpha = same.config.search.alpha
    assert same.config == config.replace(alpha=alpha)
    assert alpha == pytest.approx(0.99)
    asked = given.queries, given.query_ids
    assert_same_answers(same.search(*asked, top=ALL), index.search(*asked, top=ALL))


def test_an_index_with_parameters_is_saved_as_any_other(index, given, tmp_path):
    learned = learning.parameters(tuple(LEARNED), **LEARNED)
    tuned = index.with_parameters(learned._replace(projection=projection(12, 10)))
    tuned.save(tmp_path / "tuned")
    again = Index.open(tmp_path / "tuned")
    asked = given.queries, given.query_ids
    before, after = (i.search(*asked, top=ALL) for i in (tuned, again))
    np.testing.assert_array_equal(after.images, before.images)
    np.testing.assert_array_equal(after.scores, before.scores)
    assert again.config.graph.bias == pytest.approx(0.1)
    assert again.config.search.query_gamma == pytest.approx(4.0)


def test_an_index_with_clusters_on_disk_takes_parameters_too(given, tmp_path):
    config = CONFIG.replace(method="clusters", clusters=7, neighbor_probes=99, probes=5)
    index = Index.build(
        given.vectors, given.image_ids, config=config, path=tmp_path / "index"
    )
    tuned = index.with_parameters(learning.parameters(alpha=0.5))
    assert tuned.recall == index.recall == 1
    expected = Index.build(
        given.vectors,
        given.image_ids,
        config=CONFIG.replace(gamma=3.0, lam=1.0, alpha=0.5),
    )
    asked = given.queries, given.query_ids
    assert_same_answers(tuned.search(*asked, top=ALL), expected.search(*asked, top=ALL))


@pytest.mark.full
def test_rows_that_were_solved_beforehand_are_solved_again(given, offline_index):
    tuned = offline_index.with_parameters(learning.parameters(alpha=0.5))
    alpha = tuned.config.search.alpha
    fresh = Index.build(
        given.vectors,
        given.image_ids,
        config=CONFIG.replace(offline_neighbors=20, gamma=3.0, lam=1.0, alpha=alpha),
    )
    values = [i.store.arrays["offline_values"] for i in (tuned, fresh, offline_index)]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5)
    assert not np.allclose(values[0], values[2])
    assert tuned.store.facts.offline["alpha"] == alpha


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


def test_parameters_need_whole_vectors(given):
    index = Index.build(given.vectors, config=CONFIG.replace(storage="float16"))
    with pytest.raises(ValueError, match=r"storage must be 'float32' .* got 'float16'"):
        index.with_parameters(learning.parameters())
