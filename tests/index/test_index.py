import dataclasses
import warnings

import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from diffjax.index import Index, IndexConfig
from diffjax.types import SearchResult

CONFIG = IndexConfig(k=12, query_k=8, gamma=2.5, alpha=0.9, lam=0.7)
EXACT = dataclasses.replace(CONFIG, rtol=1e-13, max_steps=500)


@pytest.fixture
def given(collection):
    """Vectors and ids of the shared collection, as users hand them over."""
    return collection._replace(
        vectors=collection.vectors.astype(np.float32),
        queries=collection.queries.astype(np.float32),
    )


@pytest.fixture
def index(given) -> Index:
    return Index.build(given.vectors, given.image_ids, config=CONFIG)


@pytest.fixture
def many(given):
    """Seventy queries of one to four regions: vectors and ids."""
    rng = np.random.default_rng(3)
    ids = np.repeat(np.arange(70), rng.integers(1, 5, size=70))
    noise = 0.3 * rng.normal(size=(len(ids), given.vectors.shape[1]))
    rows = given.vectors[rng.integers(len(given.vectors), size=len(ids))] + noise
    return rows.astype(np.float32), ids


def expected_scores(collection, config):
    """Scores of all images for all queries, from the paper's formulas."""
    vectors, ids = collection.vectors, collection.image_ids
    s = oracle.normalized(oracle.affinity(vectors, config.k, config.gamma))
    y = np.stack(
        [
            oracle.query_vector(
                vectors,
                collection.queries[collection.query_ids == query],
                config.query_k,
                config.gamma,
                config.rule,
            )
            for query in range(collection.query_ids[-1] + 1)
        ],
        axis=1,
    )
    weights = np.ones(len(vectors))
    if config.pooling == "gmp":
        weights = oracle.gmp_weights(vectors, ids, config.lam)
    return oracle.pooled(oracle.diffusion(s, y, config.alpha), ids, weights)


def assert_same_answers(found: SearchResult, wanted: SearchResult):
    """Equal scores to rounding; other images only where scores are as equal."""
    size = np.abs(np.asarray(wanted.scores)).max()
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5 * size)
    for query, place in np.argwhere(np.asarray(found.images != wanted.images)):
        image = found.images[query, place]
        others = np.asarray(wanted.scores)[query][wanted.images[query] == image]
        np.testing.assert_allclose(others, found.scores[query, place], rtol=1e-4)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rule", ["paper", "official"])
@pytest.mark.parametrize("pooling", ["gmp", "sum"])
def test_a_search_is_what_the_formulas_give(collection, rule, pooling):
    config = dataclasses.replace(EXACT, rule=rule, pooling=pooling)
    index = Index.build(collection.vectors, collection.image_ids, config=config)
    found = index.search(collection.queries, collection.query_ids, top=24)
    scores = expected_scores(collection, config)
    order = np.argsort(-scores, axis=0, kind="stable")
    np.testing.assert_array_equal(found.images, order.T)
    wanted = np.take_along_axis(scores, order, axis=0).T
    np.testing.assert_allclose(found.scores, wanted, rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_the_reference_solver_gives_the_same_search(collection):
    results = [
        Index.build(
            collection.vectors,
            collection.image_ids,
            config=dataclasses.replace(EXACT, solver=solver),
        ).search(collection.queries, collection.query_ids, top=24)
        for solver in ("cg", "cg-bcoo")
    ]
    np.testing.assert_array_equal(results[0].images, results[1].images)
    np.testing.assert_allclose(results[0].scores, results[1].scores, rtol=1e-9)
    assert (results[0].solution.num_steps > 0).all()
    assert (results[1].solution.num_steps == -1).all()  # It was the other one.


@pytest.mark.usefixtures("x64")
def test_vectors_are_whitened_and_brought_to_length_one_on_both_sides(collection):
    # Lengths don't matter, and a query that is a vector of the collection meets itself.
    lengths = np.random.default_rng(0).uniform(0.1, 9, size=len(collection.vectors))
    config = dataclasses.replace(EXACT, dim=5)
    plain, scaled = (
        Index.build(vectors, collection.image_ids, config=config)
        for vectors in (collection.vectors, collection.vectors * lengths[:, None])
    )
    np.testing.assert_allclose(scaled.vectors, plain.vectors, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(plain.vectors, axis=1), 1, rtol=1e-9)
    assert plain.vectors.shape[1] == 5
    prepared = plain.prepare(7 * collection.vectors)
    np.testing.assert_allclose(prepared, plain.vectors, rtol=1e-9)
    # Searched as if it held the whitened vectors and were asked with whitened queries.
    again = Index.build(plain.vectors, collection.image_ids, config=EXACT)
    queries = plain.prepare(collection.queries)
    wanted = again.search(queries, collection.query_ids, top=24)
    found = plain.search(collection.queries, collection.query_ids, top=24)
    np.testing.assert_array_equal(found.images, wanted.images)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-9)


def test_a_query_alone_gets_the_answers_that_it_gets_in_a_batch(index, many):
    vectors, ids = many
    batch = index.search(vectors, ids, top=24)
    first = index.search(vectors[ids < 64], ids[ids < 64], top=24)
    assert first.images.shape == (64, 24)
    for query in (*range(0, 60, 9), 63, 64, 69):
        alone = index.search(vectors[ids == query], ids[ids == query] * 0, top=24)
        row = slice(query, query + 1)
        assert_same_answers(
            alone,
            SearchResult(
                batch.images[row],
                batch.scores[row],
                batch.solution,
                batch.regions[row],
            ),
        )
        value = batch.solution.value[:, query : query + 1]
        np.testing.assert_allclose(alone.solution.value, value, atol=1e-4)
    wanted = SearchResult(
        batch.images[:64], batch.scores[:64], batch.solution, batch.regions[:64]
    )
    assert_same_answers(first, wanted)


def test_searches_of_other_sizes_use_the_same_programs(index, many, compiled):
    vectors, ids = many
    index.search(vectors[ids < 1], ids[ids < 1])
    del compiled[:]
    for count in (1, 2, 3, 5):
        index.search(vectors[ids < count], ids[ids < count])
        index.search(vectors[:count])
    assert len(compiled) == 0
    # More than 16 regions and 8 queries are other shapes, once.
    for count in (9, 10, 11):
        index.search(vectors[ids < count], ids[ids < count])
    assert len(compiled) <= 6


def test_answers_come_best_first_and_ties_by_the_lower_image(given):
    # The same vectors three times over, everything a neighbour of everything.
    vectors = np.tile(given.vectors[:4], (3, 1))
    # Scores that spread would be sums in another order for each, and tie to rounding.
    config = IndexConfig(k=12, query_k=12, pooling="sum", alpha=0.0)
    found = Index.build(vectors, config=config).search(given.vectors[:1], top=12)
    assert sorted(found.images[0].tolist()) == list(range(12))
    scores = np.asarray(found.scores[0])
    assert (np.diff(scores) <= 0).all()
    assert found.images[0, :3].tolist() == [0, 4, 8]
    np.testing.assert_allclose(scores[:3], scores[0], rtol=1e-5)


def test_more_answers_than_images_are_all_images(index, given):
    found = index.search(given.queries[:1], top=1000)
    assert found.images.shape == (1, 24)
    assert sorted(found.images[0].tolist()) == list(range(24))


def test_no_queries_have_no_answers(index, given):
    found = index.search(given.queries[:0])
    assert found.images.shape == found.scores.shape == (0, 10)
    assert found.solution.value.shape == (len(given.vectors), 0)
    assert index.prepare(given.queries[:0]).shape == (0, 12)


def test_an_index_of_one_vector_answers_with_its_image(given):
    with pytest.warns(UserWarning, match="k 50 is more than the 1 regions") as caught:
        index = Index.build(given.vectors[:1])
    assert len(caught) == 2  # For k and for query_k.
    for sign in (1, -1):  # The same, and the opposite: all similarities negative.
        found = index.search(sign * given.vectors[:1])
        assert found.images.tolist() == [[0]]
        # The query's own y, 1 or 0, over (1 + lambda).
        np.testing.assert_allclose(found.scores, [[(sign == 1) / 2]], rtol=1e-6)


@pytest.mark.parametrize("count", [1, 5])
def test_vectors_that_do_not_differ_are_left_unwhitened(given, count):
    config = IndexConfig(dim=4, k=count, query_k=count)
    with pytest.warns(UserWarning, match="vectors are not whitened: vectors must"):
        index = Index.build(np.repeat(given.vectors[:1], count, 0), config=config)
    assert index.whitening is None
    found = index.search(given.vectors[:1])
    assert np.isfinite(found.scores).all()
    assert found.scores.min() > 0


def test_settings_above_what_the_collection_gives_are_cut_with_a_warning(given):
    config = IndexConfig(k=10**6, query_k=10**6, dim=13)
    n = len(given.vectors)
    with pytest.warns(UserWarning, match="using") as caught:
        index = Index.build(given.vectors, given.image_ids, config=config)
    said = [str(warning.message) for warning in caught]
    assert said == [
        f"dim 13 is more than the 12 dimensions that {n} vectors span: using 12.",
        f"k 1000000 is more than the {n} regions of the collection: using {n}.",
        f"query_k 1000000 is more than the {n} regions of the collection: using {n}.",
    ]
    assert index.neighbors.indices.shape == (n, n)
    assert index.config == config
    assert np.isfinite(index.search(given.queries).scores).all()


def test_regions_without_neighbours_keep_what_the_query_gave_them(given):
    # With k = 1 each vector has itself alone: no edges, so F = Y, and nothing is NaN.
    config = IndexConfig(k=1, query_k=3, pooling="sum")
    index = Index.build(given.vectors, given.image_ids, config=config)
    assert index.graph.weights.size == 0
    found = index.search(given.queries, given.query_ids, top=24)
    assert ((found.solution.value > 0).sum(0) <= 3).all()
    wanted = expected_scores(given, dataclasses.replace(config, alpha=0.5))
    best_first = -np.sort(-wanted.T, axis=1)
    np.testing.assert_allclose(found.scores, best_first, rtol=1e-5, atol=1e-7)


def test_a_region_that_is_like_no_other_is_an_island(given):
    vectors = given.vectors.copy()
    vectors[:, -1] = 0
    vectors[-1] = np.eye(12, dtype=np.float32)[-1]
    index = Index.build(vectors, given.image_ids, config=CONFIG)
    assert not (np.asarray(index.graph.indices) == len(vectors) - 1).any()
    found = index.search(vectors[-1:])
    assert found.images[0, 0] == 23
    np.testing.assert_array_equal(found.scores[0, 1:], 0)


def test_a_solver_that_stops_too_early_warns_in_a_line_that_names_the_remedy(given):
    config = dataclasses.replace(CONFIG, max_steps=1, alpha=0.99)
    index = Index.build(given.vectors, given.image_ids, config=config)
    with pytest.warns(UserWarning, match="queries are far from solved") as caught:
        found = index.search(given.queries, given.query_ids)
    assert len(caught) == 1
    worst = float(found.solution.residual.max())
    assert str(caught[0].message) == (
        f"5 of 5 queries are far from solved, the worst with relative residual "
        f"{worst:.2g}: raise max_steps above 1 or lower alpha."
    )
    assert not found.solution.converged.any()


@pytest.mark.parametrize("limit", [0.0, np.inf])
def test_the_residual_that_warns_is_a_setting(given, limit):
    config = dataclasses.replace(CONFIG, warn_residual=limit)
    index = Index.build(given.vectors, given.image_ids, config=config)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        index.search(given.queries)
    assert len(caught) == (limit == 0)


def broken(vectors, row, value):
    copy = vectors.copy()
    copy[row] = value
    return copy


BAD_VECTORS = {
    "nan": (lambda v: broken(v, 3, np.nan), "must be finite, got NaN.*first in row 3"),
    "infinite": (lambda v: broken(v, 2, -np.inf), "must be finite.*first in row 2"),
    "zero": (lambda v: broken(v, 1, 0), "must have a direction.*first row 1"),
    "doubles": (
        lambda v: v.astype(np.float64),
        "must be float32 here, got float64: convert it, or turn on",
    ),
    "halves": (
        lambda v: v.astype(np.float16),
        r"must be float32 .*got float16 \[.*astype",
    ),
    "integers": (lambda v: (9 * v).astype(np.int32), r"must be float32 .*got int32 \["),
    "short floats": (
        lambda v: jnp.asarray(v, jnp.bfloat16),
        r"must be float32 .*got bfloat16 \[.*astype",
    ),
    "one vector": (
        lambda v: v[0],
        r"must be float32 of shape \[n, d\].* got float32 \[12\]",
    ),
    "three axes": (lambda v: v[None], r"must be float32 .*got float32 \[1, "),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("spoil", "message"), BAD_VECTORS.values(), ids=BAD_VECTORS)
def test_bad_vectors_are_refused_in_a_line_that_says_why(given, index, spoil, message):
    with pytest.raises(ValueError, match=f"^vectors {message}") as caught:
        Index.build(spoil(given.vectors), config=CONFIG)
    assert "\n" not in str(caught.value)
    for ask in (index.search, index.prepare):
        with pytest.raises(ValueError, match=f"^queries {message}"):
            ask(spoil(given.queries))


BAD_IDS = {
    "gap": (lambda ids: ids + (ids > 2), "got 4 after 2 in row"),
    "back": (lambda ids: ids[::-1], "must start at 0, got"),
    "falling": (lambda ids: np.where(ids == 3, 1, ids), "got 1 after 2 in row"),
    "late": (lambda ids: ids + 1, "must start at 0, got 1"),
    "early": (lambda ids: ids - 1, "must start at 0, got -1"),
    "short": (lambda ids: ids[:-1], "must have one id per row"),
    "table": (lambda ids: ids[:, None], "must have one id per row"),
    "fractions": (lambda ids: ids / 1, "must be integers, got float64"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("spoil", "message"), BAD_IDS.values(), ids=BAD_IDS)
def test_bad_ids_are_refused_in_a_line_that_says_why(given, index, spoil, message):
    with pytest.raises(ValueError, match=f"^image_ids .*{message}"):
        Index.build(given.vectors, spoil(given.image_ids), config=CONFIG)
    with pytest.raises(ValueError, match=f"^query_ids .*{message}"):
        index.search(given.queries, spoil(given.query_ids))


@pytest.mark.parametrize("kind", [np.int16, np.int64, jnp.asarray])
def test_ids_may_be_of_any_whole_type(given, index, kind):
    again = Index.build(given.vectors, kind(given.image_ids), config=CONFIG)
    assert again.image_ids.dtype == np.int32
    found, wanted = (
        i.search(given.queries, kind(given.query_ids)) for i in (again, index)
    )
    np.testing.assert_array_equal(found.images, wanted.images)


def test_other_bad_arguments_are_refused(given, index):
    with pytest.raises(ValueError, match="vectors must be at least one, got none"):
        Index.build(given.vectors[:0])
    with pytest.raises(ValueError, match=r"must have the 12 dimensions .* got 11"):
        index.search(given.queries[:, :11])
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        index.search(given.queries, top=0)


@pytest.mark.usefixtures("x64")
def test_queries_of_another_precision_are_refused(given):
    index = Index.build(given.vectors, config=CONFIG)
    with pytest.raises(ValueError, match="must be float32 as the index, got float64"):
        index.search(given.queries.astype(np.float64))


def test_an_index_of_vectors_is_not_searched_with_pictures(index):
    with pytest.raises(ValueError, match="got one of vectors: search it with vectors"):
        index.search_picture(np.zeros((50, 50, 3), np.uint8))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("k", 0), ("query_k", 0), ("max_steps", 0), ("dim", 0)),
        *(("gamma", 0.0), ("gamma", np.nan), ("lam", -1.0), ("lam", np.inf)),
        *(("alpha", 1.0), ("alpha", np.nan), ("rtol", -1.0)),
        *(("pooling", "max"), ("rule", "other"), ("solver", "lu")),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_settings_out_of_their_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*got '?{value}'?"):
        IndexConfig(**{name: value})
