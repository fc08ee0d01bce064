import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from finite_differences import check_gradient

from diffjax.diffusion import QueryRule, query_vectors

Arrays = tuple[jax.Array, jax.Array]
RULES: tuple[QueryRule, ...] = ("paper", "official")


@pytest.fixture
def arrays(collection, x64) -> Arrays:
    return jnp.asarray(collection.vectors), jnp.asarray(collection.queries)


@pytest.mark.parametrize(
    ("rule", "k"),
    [
        ("paper", 1),
        ("official", 3),
        ("paper", 20),
        ("official", 20),
        pytest.param("paper", 3, marks=pytest.mark.full),
        pytest.param("official", 1, marks=pytest.mark.full),
    ],
)
def test_agrees_with_summing_region_by_region(collection, arrays: Arrays, rule, k):
    got = query_vectors(*arrays, collection.query_ids, k=k, gamma=3.0, rule=rule)
    for query in range(5):
        regions = collection.queries[collection.query_ids == query]
        expected = oracle.query_vector(collection.vectors, regions, k, 3.0, rule)
        np.testing.assert_allclose(got[:, query], expected, atol=1e-13)


def test_the_rules_agree_for_one_region_and_differ_for_several(
    collection, arrays: Arrays
):
    paper, official = (
        np.asarray(query_vectors(*arrays, collection.query_ids, k=20, rule=rule))
        for rule in RULES
    )
    same = [
        np.allclose(a, b, atol=1e-13) for a, b in zip(paper.T, official.T, strict=True)
    ]
    single = np.bincount(collection.query_ids) == 1
    assert np.array(same)[single].all()
    assert not np.array(same)[~single].any()


@pytest.mark.parametrize("rule", RULES)
def test_keeps_at_most_k_entries(collection, arrays: Arrays, rule):
    got = query_vectors(*arrays, collection.query_ids, k=4, rule=rule)
    assert ((np.asarray(got) > 0).sum(0) <= 4).all()
    assert (np.asarray(got) >= 0).all()


@pytest.mark.parametrize("rule", RULES)
def test_an_even_exponent_does_not_turn_negative_similarities_positive(x64, rule):
    vectors = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
    got = query_vectors(vectors, vectors[:1], k=2, gamma=2.0, rule=rule)
    np.testing.assert_allclose(got[:, 0], [1.0, 0.0])


@pytest.mark.parametrize("rule", RULES)
def test_more_regions_than_a_block_give_the_same_as_one_by_one(arrays: Arrays, rule):
    vectors, queries = arrays
    many = jnp.tile(queries, (13, 1))  # 143 rows, two full blocks and a rest.
    together = query_vectors(vectors, many, k=5, rule=rule)
    alone = query_vectors(vectors, queries, k=5, rule=rule)
    np.testing.assert_allclose(together, jnp.tile(alone, (1, 13)), atol=1e-13)


def test_no_query_gives_no_column(arrays: Arrays):
    vectors, queries = arrays
    assert query_vectors(vectors, queries[:0], k=3).shape == (len(vectors), 0)


@pytest.mark.parametrize(
    "rule", ["official", pytest.param("paper", marks=pytest.mark.full)]
)
def test_gradients_match_finite_differences(collection, arrays: Arrays, rule):
    vectors, queries = arrays

    def y(vectors, queries, gamma):
        ids = collection.query_ids
        vectors, queries = jnp.asarray(vectors), jnp.asarray(queries)
        return query_vectors(vectors, queries, ids, k=4, gamma=gamma, rule=rule)

    arguments = vectors, queries, jnp.asarray(3.0)
    check_gradient(y, arguments, order=2)


def test_traced_ids_need_the_number_of_queries(collection, arrays: Arrays):
    ids = jnp.asarray(collection.query_ids)
    with pytest.raises(ValueError, match="num_queries must be given under jit"):
        jax.jit(lambda ids: query_vectors(*arrays, ids, k=3))(ids)
    traced = jax.jit(lambda ids: query_vectors(*arrays, ids, k=3, num_queries=5))(ids)
    np.testing.assert_allclose(traced, query_vectors(*arrays, ids, k=3), atol=1e-13)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"k": 0}, r"k must be in 1\.\."),
        ({"k": 1000}, r"k must be in 1\.\."),
        ({"k": 3, "gamma": 0.0}, "gamma must be"),
        ({"k": 3, "rule": "folklore"}, "rule must be one of"),
        ({"k": 3, "query_ids": np.arange(11)[::-1]}, "query_ids must start at 0"),
        (
            {"k": 3, "query_ids": np.arange(11) * 2},
            "query_ids .* got 2 after 0 in row 1",
        ),
        ({"k": 3, "query_ids": np.arange(4)}, "query_ids must have one id per row, 11"),
        ({"k": 3, "num_queries": 2}, "num_queries must be at least 11, got 2"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_rejects_bad_arguments(arrays: Arrays, change, complaint):
    with pytest.raises(ValueError, match=complaint):
        query_vectors(*arrays, **change)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bias", [-0.2, 0.3])
def test_a_bias_is_subtracted_from_every_similarity(
    collection, arrays: Arrays, rule, bias
):
    # One more dimension, in which every product is -bias, has the same effect.
    vectors, queries = (np.insert(x, 0, 1, axis=1) for x in arrays)
    queries[:, 0] = -bias
    same = {"k": 6, "gamma": 2.5, "rule": rule}
    np.testing.assert_allclose(
        query_vectors(*arrays, collection.query_ids, bias=bias, **same),
        query_vectors(
            jnp.asarray(vectors), jnp.asarray(queries), collection.query_ids, **same
        ),
        atol=1e-13,
    )


@pytest.mark.parametrize("rule", RULES)
def test_a_bias_adds_no_node_outside_the_short_list(arrays: Arrays, rule):
    nodes = jnp.full((len(arrays[1]), 7), -1).at[:, 2].set(4)
    got = query_vectors(*arrays, k=7, nodes=nodes, bias=-1.5, rule=rule)
    assert ((np.asarray(got) > 0).sum(0) == 1).all()


@pytest.mark.usefixtures("unchecked")
def test_rejects_other_dimensions(arrays: Arrays):
    with pytest.raises(ValueError, match="queries must have the database's 12"):
        query_vectors(arrays[0], arrays[1][:, :5], k=3)
