"""Build of an index in memory, its attributes and its searches."""

import dataclasses
import warnings

import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from small_index import CONFIG, assert_same_answers

from diffjax.graph import affinity, knn, normalize
from diffjax.index import PRESETS, Index, IndexConfig
from diffjax.index import _build as build_module
from diffjax.index import _index as index_module
from diffjax.regions import fit_pca_whitening, l2_normalize, whiten
from diffjax.retrieve import SearchConfig
from diffjax.types import Neighbors, SearchResult

ALL = 24  # Images of the collection.


@pytest.fixture(scope="module")
def many(given):
    """Seventy queries of one to four regions: vectors and ids."""
    rng = np.random.default_rng(3)
    ids = np.repeat(np.arange(70), rng.integers(1, 5, size=70))
    noise = 0.3 * rng.normal(size=(len(ids), given.vectors.shape[1]))
    rows = given.vectors[rng.integers(len(given.vectors), size=len(ids))] + noise
    return rows.astype(np.float32), ids


@pytest.fixture(scope="module")
def whitening(given):
    return fit_pca_whitening(given.vectors, dim=7)


def expected_scores(collection, config):
    """Scores of all images for all queries, from the paper's formulas."""
    vectors, ids = collection.vectors, collection.image_ids
    graph, search = config.graph, config.search
    s = oracle.normalized(oracle.affinity(vectors, graph.k, graph.gamma))
    columns = [
        oracle.query_vector(
            vectors,
            collection.queries[collection.query_ids == query],
            search.query_k,
            graph.gamma,
            search.rule,
        )
        for query in range(collection.query_ids[-1] + 1)
    ]
    weights = np.ones(len(vectors))
    if graph.pooling == "gmp":
        weights = oracle.gmp_weights(vectors, ids, graph.lam)
    f = oracle.diffusion(s, np.stack(columns, axis=1), search.alpha)
    return oracle.pooled(f, ids, weights)


def check_formulas(index, collection):
    """Checks a search against the formulas, on the vectors that the index holds."""
    prepared = collection._replace(
        vectors=np.asarray(index.vectors),
        queries=np.asarray(index.prepare(collection.queries)),
    )
    result = index.search(collection.queries, collection.query_ids, top=ALL)
    scores = expected_scores(prepared, index.config)
    order = np.argsort(-scores, axis=0, kind="stable")
    np.testing.assert_array_equal(result.images, order.T)
    best = np.take_along_axis(scores, order, axis=0).T
    np.testing.assert_allclose(result.scores, best, rtol=1e-9)
    return result


@pytest.mark.full
@pytest.mark.usefixtures("x64")
def test_a_search_of_whitened_vectors_is_what_the_formulas_give(collection):
    # Lengths don't matter, and a query that is a vector of the collection meets itself.
    config = CONFIG.replace(rtol=1e-13, max_steps=500, dim=7)
    lengths = np.random.default_rng(0).uniform(0.1, 9, size=len(collection.vectors))
    index, scaled = (
        Index.build(vectors, collection.image_ids, config=config)
        for vectors in (collection.vectors, collection.vectors * lengths[:, None])
    )
    np.testing.assert_allclose(scaled.vectors, index.vectors, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(index.vectors, axis=1), 1, rtol=1e-9)
    assert index.vectors.shape[1] == 7
    prepared = index.prepare(7 * collection.vectors)
    np.testing.assert_allclose(prepared, index.vectors, rtol=1e-9)
    check_formulas(index, collection)


@pytest.mark.full
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rule", ["paper", "official"])
@pytest.mark.parametrize("pooling", ["gmp", "sum"])
def test_a_search_is_what_the_formulas_give(collection, rule, pooling):
    config = CONFIG.replace(rtol=1e-13, max_steps=500, rule=rule, pooling=pooling)
    index = Index.build(collection.vectors, collection.image_ids, config=config)
    result = check_formulas(index, collection)
    # The same by the reference solver, which does not count its steps.
    reference = index.search(
        *(collection.queries, collection.query_ids),
        top=ALL,
        config=dataclasses.replace(config.search, solver="cg-bcoo"),
    )
    np.testing.assert_array_equal(reference.images, result.images)
    np.testing.assert_allclose(reference.scores, result.scores, rtol=1e-9)
    assert (result.solution.num_steps > 0).all()
    assert (reference.solution.num_steps == -1).all()


def test_single_precision_gives_the_same_images(given, index, collection):
    result = index.search(given.queries, given.query_ids, top=ALL)
    scores = expected_scores(collection, CONFIG)
    best = -np.sort(-scores.T, axis=1)
    np.testing.assert_allclose(result.scores, best, rtol=1e-4)
    order = np.argsort(-scores, axis=0, kind="stable")
    np.testing.assert_array_equal(result.images[:, :10], order[:10].T)


# Attributes.


def test_attributes_are_in_the_order_of_the_regions(given, index):
    np.testing.assert_array_equal(index.image_ids, given.image_ids)
    assert index.image_ids.dtype == np.int32
    assert (index.num_images, index.num_regions) == (ALL, len(given.vectors))
    units = given.vectors / np.linalg.norm(given.vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(index.vectors, units, atol=1e-6)
    neighbors = knn(index.vectors, 12)
    np.testing.assert_array_equal(index.neighbors.indices, neighbors.indices)
    np.testing.assert_allclose(
        index.neighbors.similarities, neighbors.similarities, atol=1e-6
    )
    expected = normalize(affinity(neighbors, gamma=2.5))
    np.testing.assert_allclose(
        index.graph.to_scipy().toarray(), expected.to_scipy().toarray(), rtol=1e-4
    )
    assert expected.degrees is not None
    np.testing.assert_allclose(index.graph.degrees, expected.degrees, rtol=1e-4)
    weights = oracle.gmp_weights(units, given.image_ids, 0.7)
    assert index.weights is not None
    np.testing.assert_allclose(index.weights, weights, rtol=1e-4)
    assert (index.whitening, index.boxes, index.pictures) == (None, None, None)
    assert index.recall is None


def test_clusters_renumber_nodes_but_not_attributes(given, index):
    config = CONFIG.replace(method="clusters", clusters=7, neighbor_probes=99)
    clustered = Index.build(given.vectors, given.image_ids, config=config)
    assert (clustered.store.arrays["order"] != np.arange(len(given.vectors))).any()
    assert clustered.recall == 1
    np.testing.assert_allclose(clustered.vectors, index.vectors, atol=1e-6)
    np.testing.assert_allclose(
        *(i.graph.to_scipy().toarray() for i in (clustered, index)), rtol=1e-4
    )
    np.testing.assert_array_equal(
        np.sort(clustered.neighbors.indices), np.sort(index.neighbors.indices)
    )
    assert clustered.weights is not None
    assert index.weights is not None
    np.testing.assert_allclose(clustered.weights, index.weights, rtol=1e-5)
    np.testing.assert_array_equal(clustered.image_ids, index.image_ids)


def test_an_index_is_described_in_a_line_and_equals_itself_only(given, index):
    other = Index.build(given.vectors, given.image_ids, config=CONFIG)
    edges = index.graph.weights.size
    assert repr(index) == (
        f"Index(24 images, {len(given.vectors)} regions of 12 dimensions, {edges} "
        "stored edges)"
    )
    assert index != other
    assert hash(index) != hash(other)


def test_old_names_are_answered_with_the_new_ones(given):
    with pytest.raises(TypeError, match="build takes ids, as image_ids is called now"):
        Index.build(given.vectors, image_ids=given.image_ids)
    with pytest.raises(TypeError, match="build has no parameter 'colour'"):
        Index.build(given.vectors, colour="red")
    with pytest.raises(AttributeError, match=r"Index\.load is called Index\.open now"):
        Index.load("somewhere")


# Whitening.


def test_whitening_leaves_few_vectors_something_in_common():
    # 3 clusters of 4: whitened to all 11 dimensions that they span they are orthogonal.
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(3, 12)), 4, axis=0)
    vectors = (vectors + 0.3 * rng.normal(size=vectors.shape)).astype(np.float32)
    complaint = "dim 12 is more than 12 vectors can tell apart: using 6, one for every"
    with pytest.warns(UserWarning, match=complaint):
        index = Index.build(vectors, config=IndexConfig.of(dim=12, k=5, query_k=5))
    assert index.graph.weights.size


def test_a_whitening_that_is_handed_over_is_that_of_vectors_and_queries(
    given, whitening
):
    vectors, ids, queries, _ = given
    fitted = Index.build(vectors, ids, config=CONFIG.replace(dim=7))
    # Lengths do not matter.
    lengths = np.random.default_rng(0).uniform(0.1, 9, size=(len(vectors), 1))
    scaled = vectors * lengths.astype(np.float32)
    handed = Index.build(scaled, ids, config=CONFIG, whitening=whitening)
    units = np.asarray(whiten(l2_normalize(jnp.asarray(vectors)), whitening))
    # Vectors that are prepared are not whitened again, but queries are.
    prepared = Index.build(
        units, ids, config=CONFIG, whitening=whitening, prepared=True
    )
    expected = fitted.search(queries, top=ALL)
    # A query that is a vector of the collection meets itself.
    np.testing.assert_allclose(fitted.prepare(7 * vectors), fitted.vectors, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(fitted.vectors, axis=1), 1, rtol=1e-5)
    for index in handed, prepared:
        np.testing.assert_allclose(index.vectors, fitted.vectors, atol=1e-6)
        assert_same_answers(index.search(queries, top=ALL), expected)


def test_pca_alone_keeps_the_variances_and_shrinkage_draws_them_together(given):
    def projection(**settings):
        config = CONFIG.replace(dim=7, **settings)
        index = Index.build(given.vectors, given.image_ids, config=config)
        assert index.whitening is not None
        return np.asarray(index.whitening.projection)

    pca = projection(whitening="pca")
    np.testing.assert_allclose(pca.T @ pca, np.eye(7), atol=1e-5)
    spreads = [
        np.ptp(np.linalg.norm(projection(shrinkage=shrinkage), axis=0))
        for shrinkage in (0.9, 0.0)
    ]
    assert spreads[0] < 0.3 * spreads[1]


@pytest.mark.parametrize("count", [4, pytest.param(1, marks=pytest.mark.full)])
def test_vectors_that_do_not_differ_are_left_unwhitened(given, count):
    config = IndexConfig.of(dim=4, k=count, query_k=min(count, 2))
    with pytest.warns(UserWarning, match="vectors are not whitened: vectors must"):
        index = Index.build(np.repeat(given.vectors[:1], count, 0), config=config)
    assert index.whitening is None
    result = index.search(given.vectors[:1])
    assert np.isfinite(result.scores).all()
    assert result.scores.min() > 0


# Neighbours that are handed over, or approximate.


def test_neighbors_that_are_handed_over_are_taken_as_they_are(given, index):
    neighbors = knn(jnp.asarray(given.vectors), 12)
    config = CONFIG.replace(k=50)
    handed = Index.build(
        given.vectors, given.image_ids, config=config, neighbors=neighbors
    )
    assert handed.config.graph.k == 12
    assert_same_answers(
        *(i.search(given.queries, given.query_ids, top=ALL) for i in (handed, index))
    )
    bad = Neighbors(neighbors.indices.at[3, 2].set(999), neighbors.similarities)
    with pytest.raises(ValueError, match=r"neighbors must have .* got 999 in row 3"):
        Index.build(given.vectors, given.image_ids, neighbors=bad)


def test_approximate_neighbors_come_with_the_share_that_was_found(given):
    config = CONFIG.replace(method="nn-descent")
    index = Index.build(given.vectors, given.image_ids, config=config)
    assert index.recall is not None
    assert 0.9 < index.recall <= 1


def test_the_seed_reaches_the_neighbour_search(given, monkeypatch):
    seeds = []

    def recording_knn(vectors, k, *, method, seed):
        seeds.append(seed)
        return knn(vectors, k, method=method, seed=seed)

    monkeypatch.setattr(build_module, "knn", recording_knn)
    config = CONFIG.replace(method="nn-descent", seed=3)
    Index.build(given.vectors, given.image_ids, config=config)
    assert seeds == [3]


# Searches.


def first_queries(result, count, start=0):
    rows = slice(start, start + count)
    return SearchResult(
        result.images[rows], result.scores[rows], result.solution, result.regions[rows]
    )


def test_a_query_alone_gets_the_answers_that_it_gets_in_a_batch(index, many):
    vectors, ids = many
    batch = index.search(vectors, ids, top=ALL)
    for query in (0, 9, 63, 64, 69):
        alone = index.search(vectors[ids == query], ids[ids == query] * 0, top=ALL)
        assert_same_answers(alone, first_queries(batch, 1, query))
        value = batch.solution.value[:, query : query + 1]
        np.testing.assert_allclose(alone.solution.value, value, atol=1e-4)
    first = index.search(vectors[ids < 64], ids[ids < 64], top=ALL)
    assert first.images.shape == (64, ALL)
    assert_same_answers(first, first_queries(batch, 64))


def test_searches_of_other_sizes_use_the_same_programs(index, many, compiled):
    vectors, ids = many
    index.search(vectors[ids < 1], ids[ids < 1], top=ALL)
    del compiled[:]
    for count in (1, 2, 3, 5):
        index.search(vectors[ids < count], ids[ids < count], top=ALL)
        index.search(vectors[:count], top=ALL)
    assert len(compiled) == 0
    # More than 16 regions and 8 queries are other shapes, once.
    for count in (9, 10, 11):
        index.search(vectors[ids < count], ids[ids < count], top=ALL)
    assert len(compiled) <= 8


def test_settings_may_be_given_for_one_search(given, index):
    asked = given.queries, given.query_ids
    before = index.search(*asked, top=ALL)
    for settings in ({"alpha": 0.5, "query_gamma": 4.0}, {"rule": "official"}):
        search = dataclasses.replace(CONFIG.search, **settings)
        result = index.search(*asked, top=ALL, config=search)
        config = CONFIG.replace(**settings)
        other = Index.build(given.vectors, given.image_ids, config=config)
        np.testing.assert_array_equal(
            result.scores, other.search(*asked, top=ALL).scores
        )
        assert (result.scores != before.scores).any()
    # The index is as it was.
    again = index.search(*asked, top=ALL)
    np.testing.assert_array_equal(again.scores, before.scores)


def test_other_settings_of_the_index_are_those_of_its_searches(given, index):
    search = dataclasses.replace(CONFIG.search, alpha=0.5)
    other = dataclasses.replace(
        index, config=dataclasses.replace(CONFIG, search=search)
    )
    np.testing.assert_array_equal(
        other.search(given.queries, top=ALL).scores,
        index.search(given.queries, top=ALL, config=search).scores,
    )


def test_rejects_settings_that_the_index_was_not_built_for(given, index, offline_index):
    def search(where, **settings):
        config = dataclasses.replace(CONFIG.search, **settings)
        return where.search(given.queries, top=ALL, config=config)

    with pytest.raises(ValueError, match="probes must be 0 in an index without cluste"):
        search(index, probes=3)
    with pytest.raises(ValueError, match=r"alpha must be 0\.9, .* beforehand, got 0\."):
        search(offline_index, alpha=0.5)
    with pytest.raises(ValueError, match=r"max_steps must be 50, .*: build another"):
        search(offline_index, max_steps=7)
    for settings in ({"shortlist": 5}, {"local_nodes": 60}):
        with pytest.raises(ValueError, match="shortlist and local_nodes must not be s"):
            search(offline_index, **settings)
    # What does not touch the solutions may differ.
    before, after = search(offline_index), search(offline_index, query_gamma=4.0)
    assert (before.scores != after.scores).any()


def test_answers_come_best_first_and_ties_by_the_lower_image(given):
    # The same vectors three times over, everything a neighbour of everything.
    vectors = np.tile(given.vectors[:4], (3, 1))
    # Scores that spread would be sums in another order for each, and tie to rounding.
    config = IndexConfig.of(k=12, query_k=12, pooling="sum", alpha=0.0)
    result = Index.build(vectors, config=config).search(given.vectors[:1], top=12)
    assert sorted(result.images[0].tolist()) == list(range(12))
    scores = np.asarray(result.scores[0])
    assert (np.diff(scores) <= 0).all()
    assert result.images[0, :3].tolist() == [0, 4, 8]
    np.testing.assert_allclose(scores[:3], scores[0], rtol=1e-5)


def test_more_answers_than_images_are_all_images(index, given):
    result = index.search(given.queries[:1], top=1000)
    assert result.images.shape == (1, ALL)
    assert sorted(result.images[0].tolist()) == list(range(ALL))


def test_no_queries_have_no_answers(index, given):
    result = index.search(given.queries[:0], top=ALL)
    assert result.images.shape == result.scores.shape == (0, ALL)
    assert result.regions.shape == (0, ALL)
    assert result.solution.value.shape == (len(given.vectors), 0)
    assert index.prepare(given.queries[:0]).shape == (0, 12)
    search = dataclasses.replace(CONFIG.search, local_nodes=60)
    local = index.search(given.queries[:0], top=ALL, config=search)
    assert local.images.shape == (0, ALL)
    assert local.solution.residual.shape == (0,)


# Collections of the smallest sizes, and regions without neighbours.


def test_an_index_of_one_vector_answers_with_its_image(given):
    with pytest.warns(UserWarning, match="k 50 is more than the 1 regions") as caught:
        index = Index.build(given.vectors[:1])
    assert len(caught) == 2  # For k and for query_k.
    result = index.search(given.vectors[:1])
    assert result.images.tolist() == [[0]]
    # The query's own y, 1, over (1 + lambda).
    np.testing.assert_allclose(result.scores, [[0.5]], rtol=1e-6)
    with pytest.warns(UserWarning, match="near no region"):  # The opposite vector.
        assert index.search(-given.vectors[:1]).images.tolist() == [[-1]]


def test_settings_above_what_the_collection_gives_are_cut_with_a_warning(given):
    config = CONFIG.replace(k=10**6, query_k=10**6, dim=13)
    n = len(given.vectors)
    with pytest.warns(UserWarning, match="using") as caught:
        index = Index.build(given.vectors, given.image_ids, config=config)
    assert [str(warning.message) for warning in caught] == [
        f"dim 13 is more than the 12 dimensions that {n} vectors span: using 12.",
        f"k 1000000 is more than the {n} regions of the collection: using {n}.",
        f"query_k 1000000 is more than the {n} regions of the collection: using {n}.",
    ]
    assert index.neighbors.indices.shape == (n, n)
    assert index.config == config
    assert np.isfinite(index.search(given.queries, top=ALL).scores).all()


def test_regions_without_neighbors_keep_what_the_query_gave_them(given):
    # With k = 1 each vector has itself alone: no edges, so F = Y, and nothing is NaN.
    config = IndexConfig.of(k=1, query_k=9, pooling="sum", max_steps=50)
    index = Index.build(given.vectors, given.image_ids, config=config)
    assert index.graph.weights.size == 0
    result = index.search(given.queries, given.query_ids, top=ALL)
    assert ((result.solution.value > 0).sum(0) <= 9).all()
    expected = expected_scores(given, config.replace(alpha=0.5))
    best_first = -np.sort(-expected.T, axis=1)
    np.testing.assert_allclose(result.scores, best_first, rtol=1e-5, atol=1e-7)


def test_a_region_that_is_like_no_other_is_an_island(given):
    vectors = given.vectors.copy()
    vectors[:, -1] = 0
    vectors[-1] = np.eye(12, dtype=np.float32)[-1]
    index = Index.build(vectors, given.image_ids, config=CONFIG)
    assert not (np.asarray(index.graph.indices) == len(vectors) - 1).any()
    result = index.search(vectors[-1:], top=ALL)
    assert result.images[0, 0] == 23
    np.testing.assert_array_equal(result.scores[0, 1:], 0)


@pytest.mark.parametrize("local_nodes", [0, pytest.param(4, marks=pytest.mark.full)])
def test_images_that_nothing_reached_name_no_region(local_nodes):
    # Two pairs that share nothing: the query reaches one of them.
    vectors = np.eye(12, dtype=np.float32).repeat(2, axis=0)[:4]
    config = IndexConfig.of(k=2, query_k=2, pooling="sum", local_nodes=local_nodes)
    index = Index.build(vectors, np.arange(4) // 2, config=config)
    result = index.search(vectors[:1], top=4)
    # A local solve knows no image that it did not reach.
    assert result.images.tolist() == [[0, -1 if local_nodes else 1]]
    assert result.regions.tolist() == [[0, -1]]
    assert result.scores[0, 1] == 0


# Warnings.


def test_a_solver_that_stops_too_early_warns_in_a_line_that_names_the_remedy(
    given, index
):
    search = dataclasses.replace(CONFIG.search, max_steps=1, alpha=0.99)
    asked = given.queries, given.query_ids
    with pytest.warns(UserWarning, match="queries are far from solved") as caught:
        result = index.search(*asked, top=ALL, config=search)
    assert len(caught) == 1
    worst = float(result.solution.residual.max())
    assert str(caught[0].message) == (
        f"5 of 5 queries are far from solved, the worst with relative residual "
        f"{worst:.2g}: raise max_steps above 1 or lower alpha."
    )
    assert not result.solution.converged.any()
    # The residual that warns is a setting.
    silent = dataclasses.replace(search, warn_residual=np.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index.search(*asked, top=ALL, config=silent)
    strict = dataclasses.replace(CONFIG.search, warn_residual=0.0)
    with pytest.warns(UserWarning, match="5 of 5 queries"):
        index.search(*asked, top=ALL, config=strict)


def test_unreached_mass_does_not_warn_and_nan_does():
    warn, local = index_module._warn_of_residuals, SearchConfig(local_nodes=60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn(np.array([0.2, 1.3]), local)
    with pytest.warns(UserWarning, match="1 of 2 queries .* nan: look for numbers"):
        warn(np.array([0.2, np.nan]), local)
    with pytest.warns(UserWarning, match="1 of 2 queries .* 0.2: raise max_steps"):
        warn(np.array([0.2, 0.01]), SearchConfig())


# Presets.


def test_presets_agree_with_their_sources():
    paper, official, offline = (
        PRESETS[name] for name in ("paper", "official", "offline-late")
    )
    assert (paper.graph.k, paper.search.query_k) == (200, 200)
    assert (paper.graph.gamma, paper.search.alpha) == (3.0, 0.99)
    assert (paper.search.rule, paper.search.max_steps) == ("paper", 20)
    assert paper.graph.pooling == "gmp"
    assert (official.search.rule, official.search.keep_best) == ("official", True)
    assert official.search.renormalize_shortlist
    assert official.search.outside_shortlist == "zero"
    assert not offline.search.renormalize_shortlist
    assert (offline.graph.offline_neighbors, offline.is_offline) == (1000, True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        paper.graph.k = 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.full
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_its_steps_put_together(collection, name):
    from diffjax.diffusion import (
        combine_offline_rows,
        diffuse,
        query_vectors,
        solve_offline_rows,
    )
    from diffjax.pooling import gmp_weights, pool
    from diffjax.ranking import rank

    config = PRESETS[name].replace(k=12, query_k=9)
    vectors, ids = jnp.asarray(collection.vectors), collection.image_ids
    index = Index.build(vectors, ids, config=config)
    result = index.search(collection.queries, collection.query_ids, top=ALL)
    graph = normalize(affinity(knn(vectors, 12)))
    rule = "official" if name == "official" else "paper"
    queries = jnp.asarray(collection.queries)
    y = query_vectors(vectors, queries, collection.query_ids, k=9, rule=rule)
    if name == "offline-late":
        rows = solve_offline_rows(graph, knn(vectors, len(ids)).indices)
        f = combine_offline_rows(rows, y, k=9)
    else:
        f = diffuse(graph, y, keep_best=name == "official").value
    scores = pool(f, ids, weights=gmp_weights(vectors, ids))
    np.testing.assert_array_equal(result.images.T, rank(scores))


def test_queries_near_nothing_get_no_answers_and_a_warning(given):
    positive = np.abs(given.vectors)
    index = Index.build(positive, given.image_ids, config=CONFIG)
    queries = np.concatenate([-positive[:2], positive[:1]])
    with pytest.warns(UserWarning, match="2 of 3 queries are near no region .*: 0, 1"):
        result = index.search(queries, top=4)
    np.testing.assert_array_equal(result.images[:2], -1)
    np.testing.assert_array_equal(result.regions[:2], -1)
    assert result.ids[:2] == [[], []]
    expected = index.search(queries[2:], top=4)
    np.testing.assert_array_equal(result.images[2], expected.images[0])
    assert result.ids[2] == expected.ids[0]
