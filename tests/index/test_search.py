import dataclasses
import warnings

import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from diffjax.diffusion import (
    combine_offline_rows,
    diffuse,
    query_vectors,
    solve_offline_rows,
)
from diffjax.graph import affinity, knn, normalize
from diffjax.index import PRESETS, Index, IndexConfig
from diffjax.index._search import warn_of_residuals
from diffjax.pooling import gmp_weights, pool
from diffjax.ranking import rank
from diffjax.types import Neighbors

BASE = IndexConfig(k=12, query_k=9, max_steps=200, rtol=1e-10)

pytestmark = pytest.mark.usefixtures("x64")


def build(collection, **settings) -> Index:
    config = dataclasses.replace(BASE, **settings)
    return Index.build(collection.vectors, collection.image_ids, config=config)


def search(index, collection):
    return index.search(collection.queries, collection.query_ids, top=24)


def dense_scores(index, collection, query, *, size, cut):
    """Image scores of one query on its short list, from the formulas."""
    vectors, ids = collection.vectors, collection.image_ids
    regions = collection.queries[collection.query_ids == query]
    sums = np.array([vectors[ids == image].sum(0) for image in range(24)])
    sums /= np.linalg.norm(sums, axis=1, keepdims=True)
    similarity = sums @ regions.sum(0) / np.linalg.norm(regions.sum(0))
    images = np.argsort(-similarity, kind="stable")[:size]
    nodes = np.concatenate([np.flatnonzero(ids == image) for image in images])
    part = np.ix_(nodes, nodes)
    a = oracle.affinity(vectors, index.config.k, 3.0)
    s = oracle.normalized(a)[part] if cut == "late" else oracle.normalized(a[part])
    k = min(index.config.query_k, len(nodes))
    y = oracle.query_vector(vectors[nodes], regions, k, 3.0, "paper")
    f = oracle.diffusion(s, y, index.config.alpha)
    weights = oracle.gmp_weights(vectors, ids, 1.0)[nodes]
    scores = [(weights * f)[ids[nodes] == image].sum() for image in images]
    return images, np.array(scores), similarity


@pytest.mark.parametrize("cut", ["early", "late"])
def test_a_short_list_is_diffused_on_its_own_part_of_the_graph(collection, cut):
    index = build(collection, shortlist=10, cut=cut)
    found = search(index, collection)
    for query in range(5):
        images, scores, similarity = dense_scores(
            index, collection, query, size=10, cut=cut
        )
        order = np.argsort(-scores, kind="stable")
        np.testing.assert_array_equal(found.images[query, :10], images[order])
        np.testing.assert_allclose(found.scores[query, :10], scores[order], rtol=1e-7)
        rest = np.setdiff1d(np.arange(24), images)
        rest = rest[np.argsort(-similarity[rest], kind="stable")]
        np.testing.assert_array_equal(found.images[query, 10:], rest)
        assert (np.diff(found.scores[query]) <= 0).all()


def test_images_outside_may_score_zero_as_in_the_release(collection):
    index = build(collection, shortlist=10, tail="zero")
    found = search(index, collection)
    for query in range(5):
        images, *_ = dense_scores(index, collection, query, size=10, cut="early")
        outside = ~np.isin(found.images[query], images)
        assert (np.asarray(found.scores[query])[outside] == 0).all()
        assert (np.diff(np.asarray(found.images[query])[outside]) > 0).all()


@pytest.mark.parametrize("cut", ["early", "late"])
def test_a_list_of_all_images_changes_nothing(collection, cut):
    whole = search(build(collection), collection)
    limited = search(build(collection, shortlist=24, cut=cut), collection)
    longer = search(build(collection, shortlist=99, cut=cut), collection)
    for found in limited, longer:
        np.testing.assert_array_equal(found.images, whole.images)
        np.testing.assert_allclose(found.scores, whole.scores, rtol=1e-12)


def test_the_solution_of_a_short_list_stands_on_its_own_nodes(collection):
    found = search(build(collection, shortlist=6), collection)
    assert found.solution.value.shape == (len(collection.vectors), 5)
    for query in range(5):
        own = np.isin(collection.image_ids, found.images[query, :6])
        assert (np.asarray(found.solution.value)[~own, query] == 0).all()
        assert (np.asarray(found.solution.value)[own, query] != 0).any()


@pytest.mark.parametrize(
    "settings", [{"shortlist": 10}, {"offline": 20, "cut": "late"}, {"reach": 60}]
)
def test_a_query_alone_gets_the_answers_that_it_gets_in_a_batch(collection, settings):
    index = build(collection, **settings)
    together = search(index, collection)
    for query in range(5):
        own = collection.queries[collection.query_ids == query]
        alone = index.search(own, np.zeros(len(own), np.int32), top=24)
        np.testing.assert_array_equal(alone.images[0], together.images[query])
        np.testing.assert_allclose(alone.scores[0], together.scores[query], rtol=1e-9)


def test_offline_rows_on_all_nodes_answer_like_a_solve(collection):
    whole = search(build(collection), collection)
    offline = search(build(collection, offline=999, cut="late"), collection)
    np.testing.assert_array_equal(offline.images, whole.images)
    np.testing.assert_allclose(offline.scores, whole.scores, rtol=1e-7)
    assert (offline.solution.residual < 1e-9).all()
    np.testing.assert_array_equal(offline.solution.num_steps, 0)


def test_a_reach_of_all_regions_answers_like_a_solve(collection):
    settings = {"k": 30, "max_steps": 200, "rtol": 1e-9}
    whole = search(build(collection, **settings), collection)
    around = search(build(collection, reach=999, **settings), collection)
    np.testing.assert_array_equal(around.images, whole.images)
    np.testing.assert_allclose(around.scores, whole.scores, rtol=1e-6)


def test_regions_that_are_not_reached_have_the_background(collection):
    # Its residuals are large, and no reason to warn: a warning would be an error here.
    index = build(collection, reach=12, query_k=6, k=30)
    found = np.asarray(search(index, collection).solution.value)
    shares = found / np.sqrt(np.asarray(index.graph.degrees))[:, None]
    for column in shares.T:
        _, counts = np.unique(column.round(12), return_counts=True)
        assert counts.max() == len(column) - 12


def test_rows_and_recall_are_kept_on_disk(collection, tmp_path):
    index = dataclasses.replace(build(collection, offline=20, cut="late"), recall=0.875)
    index.save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index")
    assert loaded.recall == 0.875
    assert loaded.rows is not None
    assert index.rows is not None
    for got, wanted in zip(loaded.rows, index.rows, strict=True):
        np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(
        search(loaded, collection).scores, search(index, collection).scores
    )


def test_ready_neighbours_are_taken_as_they_are(collection):
    ready = knn(collection.vectors, 12)
    config = dataclasses.replace(BASE, k=50)
    index = Index.build(
        collection.vectors, collection.image_ids, config=config, neighbors=ready
    )
    assert index.config.k == 12
    searched = search(build(collection), collection)
    np.testing.assert_allclose(
        search(index, collection).scores, searched.scores, rtol=1e-12
    )
    bad = Neighbors(ready.indices.at[3, 2].set(999), ready.similarities)
    with pytest.raises(ValueError, match=r"neighbors must have .* got 999 in row 3"):
        Index.build(collection.vectors, collection.image_ids, neighbors=bad)


@pytest.mark.parametrize("neighbors", ["nn-descent", "clusters"])
def test_approximate_neighbours_say_how_many_they_found(collection, neighbors):
    index = build(collection, neighbors=neighbors)
    assert index.recall is not None
    assert 0.9 < index.recall <= 1
    assert build(collection).recall is None


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_its_steps_put_together(collection, name):
    config = dataclasses.replace(PRESETS[name], k=12, query_k=9)
    vectors, ids = jnp.asarray(collection.vectors), collection.image_ids
    found = search(Index.build(vectors, ids, config=config), collection)
    graph = normalize(affinity(knn(vectors, 12)))
    rule = "official" if name == "official" else "paper"
    queries = jnp.asarray(collection.queries)
    y = query_vectors(vectors, queries, collection.query_ids, k=9, rule=rule)
    if name == "offline-late":
        n = len(ids)
        rows = solve_offline_rows(graph, knn(vectors, n).indices)
        f = combine_offline_rows(rows, y, k=9)
    else:
        f = diffuse(graph, y, keep_best=name == "official").value
    scores = pool(f, ids, weights=gmp_weights(vectors, ids))
    np.testing.assert_array_equal(found.images.T, rank(scores))


def test_presets_are_what_their_sources_say():
    paper, official, offline = (
        PRESETS[name] for name in ("paper", "official", "offline-late")
    )
    assert (paper.k, paper.query_k, paper.gamma, paper.alpha) == (200, 200, 3.0, 0.99)
    assert (paper.rule, paper.max_steps, paper.pooling) == ("paper", 20, "gmp")
    assert (official.rule, official.keep_best) == ("official", True)
    assert (official.cut, official.tail) == ("early", "zero")
    assert (offline.cut, offline.offline) == ("late", 1000)
    with pytest.raises(dataclasses.FrozenInstanceError):
        paper.k = 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"shortlist": 0}, "shortlist must be at least 1, got 0"),
        ({"offline": 0, "cut": "late"}, "offline must be at least 1, got 0"),
        ({"cut": "never"}, "cut must be one of"),
        ({"tail": "long"}, "tail must be one of"),
        ({"neighbors": "psychic"}, "neighbors must be one of"),
        ({"offline": 5}, "cut must be 'late' with offline"),
        ({"reach": 0}, "reach must be at least 1, got 0"),
        ({"reach": 60, "shortlist": 5}, "shortlist must be None with reach"),
        ({"reach": 60, "solver": "direct"}, "solver must be cg with reach.*got direct"),
        ({"reach": 60, "keep_best": True}, "keep_best must be False with reach"),
        ({"solver": "chebyshev", "keep_best": True}, "keep_best must be False with"),
        ({"solver": "cg-bcoo", "keep_best": True}, "keep_best must be False with"),
        ({"reach": 5}, "reach must be at least query_k, 50, got 5"),
        ({"offline": 5, "shortlist": 5, "cut": "late"}, "offline and shortlist must"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_settings_that_can_not_be_meant_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        IndexConfig(**settings)


def test_what_leads_out_of_what_is_reached_is_no_reason_to_warn_but_nan_is():
    config = IndexConfig(reach=60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_residuals(np.array([0.2, 1.3]), config)
    with pytest.warns(UserWarning, match="1 of 2 queries .* nan: look for numbers"):
        warn_of_residuals(np.array([0.2, np.nan]), config)
    with pytest.warns(UserWarning, match="1 of 2 queries .* 0.2: raise max_steps"):
        warn_of_residuals(np.array([0.2, 0.01]), IndexConfig())
