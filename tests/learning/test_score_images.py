import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from diffjax.index import Index, IndexConfig
from diffjax.learning._parameters import (
    PARAMETER_NAMES,
    Parameters,
    parameters,
    present_parameters,
    unconstrain,
)
from diffjax.learning._parameters import constrain as constrained
from diffjax.learning._score_images import score_images
from diffjax.learning._training_graphs import (
    QueryDescriptors,
    project_vectors,
    refresh_neighbors,
    training_graphs,
)

# What `replace_shrinkage_by_projection` makes a projection of is never there when
# images are scored.
SCORED = tuple(n for n in PARAMETER_NAMES if n not in ("shrinkage", "emphasis"))
EXACT = {"query_k": 6, "max_steps": 300, "rtol": 1e-13}


@pytest.fixture
def scales(collection):
    """Scale of every region of the collection: its place in its image, at most 2."""
    ids = collection.image_ids
    return np.minimum(np.arange(len(ids)) - np.searchsorted(ids, ids), 2)


def asked(collection, *, views=1):
    return QueryDescriptors((collection.queries,) * views, collection.query_ids)


def some(names) -> Parameters:
    """Parameters of these parts, all of them away from where they change nothing."""
    sizes = {"scales": 3, "dim": 12, "rank": 8, "graphs": 2}
    made = parameters(names, alpha=0.9, gamma=2.5, lam=0.7, **sizes)
    values = {
        "query_gamma": 1.5,
        "bias": 0.1,
        "scale_weights": [1.0, 0.5, 2.0],
        "mixture": [0.3, 0.7],
    }
    if "projection" in names:
        draw = np.random.default_rng(1).normal(size=(8, 12))
        values["projection"] = 0.3 * draw + np.eye(8, 12)
    kind = made.alpha.dtype
    named = {name: values[name] for name in names if name in values}
    return made._replace(**{k: jnp.asarray(v, kind) for k, v in named.items()})


def dense_scores(values: Parameters, collection, *, ks, scales):
    """The chain from its formulas, dense, in NumPy."""
    p = {name: np.asarray(x) for name, x in present_parameters(values).items()}
    vectors, queries = collection.vectors, collection.queries
    if "projection" in p:
        vectors, queries = vectors @ p["projection"].T, queries @ p["projection"].T
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    bias, mixture = p.get("bias", 0.0), p.get("mixture", np.ones(1))

    def kernel(s, gamma):
        return np.maximum(s - bias, 0) ** gamma

    a, y = np.zeros((len(vectors),) * 2), np.zeros((len(vectors), 5))
    for weight, k in zip(mixture, ks, strict=True):
        # Neighbours are those of the vectors before the projection.
        pairs = _mutual(collection.vectors, k)
        a += weight * pairs * kernel(vectors @ vectors.T, p["gamma"])
        for query in range(5):
            similarities = np.zeros(len(vectors))
            for z in queries[collection.query_ids == query]:
                near = np.argsort(-(vectors @ z))[:6]
                gamma = p.get("query_gamma", p["gamma"])
                similarities[near] += kernel(vectors[near] @ z, gamma)
            largest = np.argsort(-similarities)[:6]
            y[largest, query] += weight * similarities[largest]
    f = oracle.diffusion(oracle.normalized(a), y, p["alpha"])
    weights = oracle.gmp_weights(vectors, collection.image_ids, p["lam"])
    if "scale_weights" in p:
        weights *= p["scale_weights"][scales]
    return oracle.pooled(f, collection.image_ids, weights)


def _mutual(vectors, k):
    near = np.argsort(-(vectors @ vectors.T), axis=1)[:, :k]
    listed = np.zeros((len(vectors),) * 2, bool)
    np.put_along_axis(listed, near, values=True, axis=1)
    np.fill_diagonal(listed, val=False)
    return listed & listed.T


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("names", "ks"),
    [
        ((), [6]),
        (("bias", "projection", "scale_weights"), [6]),
        (SCORED, [4, 9]),
    ],
    ids=["none", "of one graph", "all"],
)
def test_agrees_with_the_formulas_dense(collection, scales, names, ks):
    values = some(names)
    made = training_graphs(
        collection.vectors, collection.image_ids, k=ks, scales=scales
    )
    got = score_images(values, made, asked(collection, views=len(ks)), **EXACT)
    expected = dense_scores(values, collection, ks=ks, scales=scales)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_without_more_parts_it_is_the_search_of_an_index(collection):
    vectors, queries = collection.vectors.astype("f4"), collection.queries.astype("f4")
    config = IndexConfig.of(k=6, query_k=6, max_steps=50)
    index = Index.build(vectors, collection.image_ids, config=config)
    answers = index.search(queries, collection.query_ids)
    got = score_images(
        parameters(),
        training_graphs(vectors, collection.image_ids, k=6),
        QueryDescriptors((queries,), collection.query_ids),
        query_k=6,
    )
    order = np.asarray(answers.images).T
    np.testing.assert_allclose(
        np.take_along_axis(np.asarray(got), order, axis=0),
        np.asarray(answers.scores).T,
        rtol=1e-5,
        atol=1e-5 * float(got.max()),
    )


def test_parts_at_their_start_change_nothing(collection, scales):
    single = collection._replace(
        vectors=collection.vectors.astype("f4"), queries=collection.queries.astype("f4")
    )
    ids = single.image_ids
    plain = score_images(
        parameters(),
        training_graphs(single.vectors, ids, k=6),
        asked(single),
        query_k=6,
    )
    full = score_images(
        parameters(SCORED, scales=3, dim=12, graphs=2),
        training_graphs(single.vectors, ids, k=[6, 6], scales=scales),
        asked(single, views=2),
        query_k=6,
    )
    np.testing.assert_allclose(full, plain, rtol=1e-4)


@pytest.mark.usefixtures("x64")
def test_every_derivative_of_the_chain_matches_finite_differences(collection, scales):
    made = training_graphs(
        collection.vectors, collection.image_ids, k=[4, 9], scales=scales
    )
    raw = unconstrain(some(SCORED))
    queries = asked(collection, views=2)

    def total(raw):
        scores = score_images(constrained(raw), made, queries, **EXACT)
        uneven = jnp.linspace(-1, 1, scores.size).reshape(scores.shape)
        return jnp.sum(scores * uneven)

    value, slope = jax.jit(total), jax.jit(jax.grad(total))(raw)
    draw = np.random.default_rng(0)
    for name, start in present_parameters(raw).items():
        to = jnp.asarray(draw.normal(size=start.shape))
        ends = [value(raw._replace(**{name: start + t * to})) for t in (1e-6, -1e-6)]
        np.testing.assert_allclose(
            jnp.sum(present_parameters(slope)[name] * to),
            (ends[0] - ends[1]) / 2e-6,
            rtol=1e-5,
            err_msg=name,
        )


@pytest.mark.full
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_padding_of_a_batch_changes_nothing(collection, jitted):
    made = training_graphs(
        collection.vectors.astype("f4"), collection.image_ids.astype("i4"), k=6
    )
    queries, ids = collection.queries.astype("f4"), collection.query_ids
    # A negative bias, at which even a zero vector is similar to everything.
    values = parameters(("bias",), bias=-0.1)
    counts = {"num_images": 24, "num_queries": 5, "max_regions": 6, "query_k": 6}
    score = functools.partial(score_images, **counts)
    score = jax.jit(score) if jitted else score
    plain = score(values, made, QueryDescriptors((queries,), ids))
    rows = QueryDescriptors(
        (np.insert(queries, [1, 5], 0, axis=0),), np.insert(ids, [1, 5], 5)
    )
    np.testing.assert_allclose(score(values, made, rows), plain, rtol=1e-5)


@pytest.mark.full
def test_a_descent_step_lowers_and_an_ascent_step_raises(collection):
    made = training_graphs(
        collection.vectors.astype("f4"), collection.image_ids.astype("i4"), k=6
    )
    queries = QueryDescriptors((collection.queries.astype("f4"),), collection.query_ids)
    raw = unconstrain(parameters(alpha=0.9))

    def loss(raw):
        scores = score_images(constrained(raw), made, queries, query_k=6)
        return scores[3].sum() / scores.sum()

    here, slope = jax.value_and_grad(loss)(raw)
    for name, one in present_parameters(slope).items():
        step = 1e-2 * jnp.sign(one)
        up, down = (
            loss(raw._replace(**{name: present_parameters(raw)[name] + s}))
            for s in (step, -step)
        )
        assert down < here < up, name


@pytest.mark.full
def test_new_neighbours_are_those_of_the_projected_vectors(collection):
    vectors = collection.vectors.astype("f4")
    moved = np.asarray(project_vectors(vectors, jnp.eye(12)[:4]))
    values = parameters(("projection",), dim=12, rank=4)
    queries = QueryDescriptors((collection.queries.astype("f4"),), collection.query_ids)
    start = training_graphs(vectors, collection.image_ids, k=7)
    again = refresh_neighbors(start, values, k=9)
    direct = training_graphs(moved, collection.image_ids, k=9)
    # There was no room for so many edges: now there is some left.
    assert again.edges.indices.size > direct.edges.indices.size
    asked_moved = (project_vectors(queries.vectors[0], values.projection),)
    np.testing.assert_allclose(
        score_images(values, again, queries, query_k=6),
        score_images(
            parameters(), direct, queries._replace(vectors=asked_moved), query_k=6
        ),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.full
def test_fewer_neighbours_leave_the_shapes_as_they_are(collection):
    vectors = collection.vectors.astype("f4")
    start = training_graphs(vectors, collection.image_ids, k=[5, 9])
    again = refresh_neighbors(start, parameters(), k=[4, 8])
    before, after = jax.tree.leaves(start), jax.tree.leaves(again)
    assert [x.shape for x in before] == [x.shape for x in after]
    # What is left free is no edge, in one graph as in the sum of two.
    direct = training_graphs(vectors, collection.image_ids, k=[4, 8])
    values = parameters(("mixture", "bias"), graphs=2, bias=-0.5)
    queries = QueryDescriptors(
        (collection.queries.astype("f4"),) * 2, collection.query_ids
    )
    np.testing.assert_allclose(
        score_images(values, again, queries, query_k=6),
        score_images(values, direct, queries, query_k=6),
        rtol=1e-5,
    )


@pytest.mark.full
def test_two_descriptions_need_not_have_the_same_dimensions(collection):
    vectors, queries = collection.vectors.astype("f4"), collection.queries.astype("f4")
    made = training_graphs([vectors, vectors[:, :5]], collection.image_ids, k=6)
    values = parameters(("mixture",), graphs=2)
    rows = QueryDescriptors((queries, queries[:, :5]), collection.query_ids)
    assert score_images(values, made, rows, query_k=6).shape == (24, 5)
    # All weight on one of them is that one alone.
    sure = values._replace(mixture=jnp.array([1.0, 1e-9]))
    alone = training_graphs(vectors, collection.image_ids, k=6)
    np.testing.assert_allclose(
        score_images(sure, made, rows, query_k=6),
        score_images(
            parameters(), alone, QueryDescriptors((queries,), rows.query_ids), query_k=6
        ),
        rtol=1e-3,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"names": ["mixture"], "graphs": 2}, "mixture must have one weight .* 1, got"),
        ({"names": ["scale_weights"], "scales": 2}, "scale_weights must be None"),
        (
            {"names": ["projection"], "dim": 5},
            "projection must take 12 .* got one of 5",
        ),
    ],
)
def test_rejects_parameters_of_another_collection(collection, values, match):
    made = training_graphs(collection.vectors.astype("f4"), collection.image_ids, k=3)
    queries = QueryDescriptors((collection.queries.astype("f4"),), collection.query_ids)
    with pytest.raises(ValueError, match=match):
        score_images(parameters(**values), made, queries, query_k=3)


def test_rejects_queries_of_another_collection(collection):
    vectors, queries = collection.vectors.astype("f4"), collection.queries.astype("f4")
    made = training_graphs(vectors, collection.image_ids, k=3)
    with pytest.raises(ValueError, match=r"queries must have one description .* got 2"):
        score_images(
            parameters(), made, QueryDescriptors((queries,) * 2, collection.query_ids)
        )
    with pytest.raises(ValueError, match=r"queries must have .* 12 dimensions, got 4"):
        score_images(
            parameters(),
            made,
            QueryDescriptors((queries[:, :4],), collection.query_ids),
        )
    with pytest.raises(ValueError, match="query_ids must start at 0, got 1"):
        score_images(
            parameters(),
            made,
            QueryDescriptors((queries,), collection.query_ids + 1),
            query_k=3,
        )


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"k": [3, 4, 5]}, "k must be one number or one for each of 2"),
        ({"k": 3, "scales": np.zeros(4, int)}, "scales must have one per row"),
        ({"k": 200}, r"k must be in 1\.\.\d+ \(n\), got 200"),
    ],
)
def test_rejects_graphs_that_can_not_be(collection, unchecked, bad, match):
    vectors = collection.vectors.astype("f4")
    with pytest.raises(ValueError, match=match):
        training_graphs([vectors, vectors], collection.image_ids, **bad)


def test_rejects_descriptions_of_other_regions(collection):
    vectors = collection.vectors.astype("f4")
    with pytest.raises(ValueError, match="as many rows in every description"):
        training_graphs([vectors, vectors[1:]], k=3)
