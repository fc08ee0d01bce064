import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import global_descriptors
from small_collection import scorer_arguments

from diffjax.ranking import nearest_neighbors, r_match

SCORERS = [nearest_neighbors, r_match]
EYE = jnp.asarray(np.eye(3, dtype=np.float32))


def global_scores(vectors, image_ids, queries, query_ids):
    return (
        global_descriptors(vectors, image_ids)
        @ global_descriptors(queries, query_ids).T
    )


def cross_matches(vectors, image_ids, queries, query_ids):
    """R-match scores by loops: best similarities of query regions, summed."""
    scores = np.zeros((image_ids.max() + 1, query_ids.max() + 1))
    for image, query in np.ndindex(scores.shape):
        regions = vectors[image_ids == image]
        for region in queries[query_ids == query]:
            scores[image, query] += max(x @ region for x in regions)
    return scores


ORACLES = {nearest_neighbors: global_scores, r_match: cross_matches}


@pytest.fixture
def many(collection):
    """The collection with 40 query regions in 3 queries, the last of 35."""
    rng = np.random.default_rng(2)
    queries = collection.vectors[rng.integers(len(collection.vectors), size=40)]
    queries = queries + 0.3 * rng.normal(size=queries.shape)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return collection._replace(
        queries=queries, query_ids=np.repeat(range(3), [1, 4, 35])
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("case", "scorer"),
    [
        ("collection", nearest_neighbors),
        ("many", r_match),
        pytest.param("many", nearest_neighbors, marks=pytest.mark.full),
        pytest.param("collection", r_match, marks=pytest.mark.full),
    ],
)
def test_agrees_with_loops_over_images_and_regions(request, scorer, case):
    case = request.getfixturevalue(case)
    got = scorer(*scorer_arguments(case, np.float64))
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, ORACLES[scorer](*case), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("scorer", SCORERS)
def test_single_precision_is_close_to_the_loops(scorer, many):
    got = scorer(*scorer_arguments(many))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, ORACLES[scorer](*many), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scorer", SCORERS)
def test_single_regions_score_by_their_cosine(collection, scorer):
    vectors, queries = collection.vectors, collection.queries
    got = scorer(
        jnp.asarray(vectors),
        np.arange(len(vectors)),
        jnp.asarray(queries),
        np.arange(len(queries)),
    )
    np.testing.assert_allclose(got, vectors @ queries.T, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("scorer", SCORERS)
def test_the_order_of_regions_within_an_image_does_not_matter(collection, scorer):
    _, ids, _, query_ids = collection
    rng = np.random.default_rng(0)
    shuffled = np.lexsort([rng.uniform(size=len(ids)), ids])
    shuffled_queries = np.lexsort([rng.uniform(size=len(query_ids)), query_ids])
    moved = collection._replace(
        vectors=collection.vectors[shuffled],
        queries=collection.queries[shuffled_queries],
    )
    np.testing.assert_allclose(
        scorer(*scorer_arguments(moved)),
        scorer(*scorer_arguments(collection)),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("scorer", SCORERS)
def test_scores_of_a_query_do_not_depend_on_other_queries(many, scorer):
    vectors, ids, queries, query_ids = scorer_arguments(many)
    together = np.asarray(scorer(vectors, ids, queries, query_ids))
    for query in (1, 2):
        regions = jnp.asarray(np.asarray(queries)[query_ids == query])
        alone = scorer(vectors, ids, regions, np.zeros(len(regions), int))
        np.testing.assert_allclose(alone, together[:, [query]], rtol=1e-5, atol=1e-6)


def test_an_image_matches_itself_best(collection):
    vectors, ids, _, _ = scorer_arguments(collection)
    for scorer in SCORERS:
        scores = np.asarray(scorer(vectors, ids, vectors, ids))
        np.testing.assert_allclose(scores.diagonal(), scores.max(0), rtol=1e-6)


def test_added_regions_never_lower_r_match(collection):
    vectors, ids, queries, query_ids = scorer_arguments(collection)
    # Image 0 with all its regions, and with copies of the first of them alone.
    assert (ids == 0).sum() > 1
    copies = np.where(ids == 0, 0, np.arange(len(ids)))
    without = jnp.asarray(np.asarray(vectors)[copies])
    fewer = np.asarray(r_match(without, ids, queries, query_ids))
    more = np.asarray(r_match(vectors, ids, queries, query_ids))
    assert (more[0] >= fewer[0] - 1e-6).all()
    np.testing.assert_allclose(more[1:], fewer[1:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scorer", SCORERS)
def test_traced_ids_under_jit_give_equal_scores(many, scorer):
    arguments = scorer_arguments(many)
    expected = scorer(*arguments)
    traced = jax.jit(lambda *all_: scorer(*all_, num_images=24, num_queries=3))
    got = traced(*(jnp.asarray(a) for a in arguments))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_images_without_regions_rank_last_and_empty_queries_score_zero(
    collection,
):
    arguments = scorer_arguments(collection)
    counts = {"num_images": 25, "num_queries": 6}
    near, matched = (np.asarray(scorer(*arguments, **counts)) for scorer in SCORERS)
    assert near.shape == matched.shape == (25, 6)
    np.testing.assert_array_equal(near[24], 0)
    np.testing.assert_array_equal(near[:, 5], 0)
    np.testing.assert_array_equal(matched[24, :5], -np.inf)
    np.testing.assert_array_equal(matched[:, 5], 0)


@pytest.mark.parametrize("scorer", SCORERS)
def test_zero_queries_give_empty_scores(collection, scorer):
    vectors, ids, _, _ = scorer_arguments(collection)
    nothing = jnp.asarray(np.zeros((0, 12), np.float32))
    assert scorer(vectors, ids, nothing, ids[:0]).shape == (24, 0)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("missing", ["num_images", "num_queries"])
def test_traced_ids_need_counts_of_images_and_queries(collection, scorer, missing):
    counts = {"num_images": 24, "num_queries": 5}
    del counts[missing]
    arguments = (jnp.asarray(a) for a in scorer_arguments(collection))
    with pytest.raises(ValueError, match=f"{missing} must be given under jit"):
        jax.jit(lambda *all_: scorer(*all_, **counts))(*arguments)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize(
    ("ids", "complaint"),
    [
        ([1, 1, 2], "image_ids must start at 0, got 1"),
        ([0, 2, 2], "got 2 after 0 in row 1"),
        ([0, 1, 0], "got 0 after 1 in row 2"),
        ([0, 1], "image_ids must have one id per row, 3"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_rejects_ids_out_of_order(scorer, ids, complaint):
    with pytest.raises(ValueError, match=complaint):
        scorer(EYE, np.array(ids), EYE, np.arange(3))
    with pytest.raises(ValueError, match=complaint.replace("image_ids", "query_ids")):
        scorer(EYE, np.arange(3), EYE, np.array(ids))


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.usefixtures("unchecked")
def test_rejects_queries_of_another_dimension(scorer):
    with pytest.raises(ValueError, match="the database's 3 dimensions, got 2"):
        scorer(
            EYE, np.arange(3), jnp.asarray(np.eye(3, 2, dtype=np.float32)), np.arange(3)
        )


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.usefixtures("unchecked")
def test_rejects_double_precision_without_x64(scorer):
    for where, name in [(0, "vectors"), (2, "queries")]:
        arguments = [EYE, np.arange(3), EYE, np.arange(3)]
        arguments[where] = np.eye(3)
        with pytest.raises(ValueError, match=f"{name} must be float32 here, got float"):
            scorer(*arguments)
