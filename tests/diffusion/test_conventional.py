import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from finite_differences import check_gradient

from diffjax.diffusion import diffuse, diffuse_conventional, query_vectors
from diffjax.graph import affinity, knn, normalize

K = 6
LONG: dict[str, Any] = {"alpha": 0.9, "rtol": 1e-13, "max_steps": 500}

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture
def arrays(collection, x64):
    vectors = jnp.asarray(collection.vectors)
    return vectors, knn(vectors, K), jnp.asarray(collection.queries)


def enlarged(collection, query) -> tuple[np.ndarray, int]:
    """S on database and query regions, dense, and the number of database regions."""
    regions = collection.queries[collection.query_ids == query]
    everything = np.concatenate([collection.vectors, regions])
    return oracle.normalized(oracle.affinity(everything, K, 3.0)), len(
        collection.vectors
    )


def test_agrees_with_the_graph_of_database_and_query(collection, arrays):
    vectors, lists, queries = arrays
    got = diffuse_conventional(vectors, lists, queries, collection.query_ids, **LONG)
    for query in range(5):
        s, n = enlarged(collection, query)
        y = np.arange(len(s)) >= n
        expected = oracle.diffusion(s, y.astype(float), 0.9)[:n]
        np.testing.assert_allclose(got.value[:, query], expected, atol=1e-11)
    assert got.converged.all()


def test_the_database_diffuses_the_normalised_query_column(collection, arrays):
    # Eq. 10 at its fixed point: f_d = alpha (I - alpha S_d)^-1 B f_q. With one region
    # f_q is a number: the scores are those of the right-hand side B.
    vectors, lists, queries = arrays
    got = diffuse_conventional(vectors, lists, queries, collection.query_ids, **LONG)
    singles = np.flatnonzero(np.bincount(collection.query_ids) == 1)
    assert singles.size
    for query in singles:
        s, n = enlarged(collection, query)
        from_column = oracle.diffusion(s[:n, :n], s[:n, n], 0.9)
        f = np.asarray(got.value[:, query])
        scale = f.max() / from_column.max()
        np.testing.assert_allclose(f, scale * from_column, atol=1e-11)
    # Eq. 12 with several regions: under its assumptions, f_q = 1, S_q = 0 and no way
    # back, the scores are those of their summed columns.
    s, n = enlarged(collection, 1)
    directed = s.copy()
    directed[n:] = 0
    y = (np.arange(len(s)) >= n).astype(float)
    f = oracle.diffusion(directed, y, 0.9)[:n]
    summed = oracle.diffusion(s[:n, :n], s[:n, n:].sum(1), 0.9)
    np.testing.assert_allclose(f, 0.9 * summed, rtol=1e-11)


def test_query_vectors_are_that_column_but_for_norm_and_cut(collection, arrays):
    # (8) before normalisation and without its final cut, where reciprocity holds.
    vectors, _, queries = arrays
    ids, n = collection.query_ids, len(vectors)
    y = query_vectors(vectors, queries, ids, k=K - 1, keep=n)
    for query in range(5):
        regions = collection.queries[ids == query]
        everything = np.concatenate([collection.vectors, regions])
        a = oracle.affinity(everything, K, 3.0)[:n, n:]
        column = np.asarray(y[:, query])
        # Nodes that the graph links are in the query's list, with the same weights.
        linked = a.sum(1) > 0
        assert linked.any()
        for node in np.flatnonzero(linked):
            assert column[node] >= a[node].sum() - 1e-12


@pytest.mark.full
@pytest.mark.parametrize(
    "transform",
    [jax.jit, pytest.param(lambda f: f, marks=pytest.mark.full)],
    ids=["jit", "eager"],
)
def test_a_query_gets_the_same_scores_alone_and_among_others(
    collection, arrays, transform
):
    vectors, lists, queries = arrays
    run = functools.partial(diffuse_conventional, num_queries=5, max_regions=4, **LONG)
    together = transform(run)(
        vectors, lists, queries, jnp.asarray(collection.query_ids)
    )
    for query in (1, 2):  # Of 4 and of 2 regions.
        regions = queries[collection.query_ids == query]
        alone = diffuse_conventional(
            vectors, lists, regions, np.zeros(len(regions), np.int32), **LONG
        )
        np.testing.assert_allclose(
            together.value[:, query], alone.value[:, 0], atol=1e-11
        )


def test_a_query_without_mutual_neighbours_has_scores_of_0(x64):
    # The three vectors are nearest to each other; the query is no neighbour of them.
    vectors = jnp.asarray(np.eye(4)[:3] * 0.1 + np.ones((3, 4)))
    vectors /= jnp.linalg.norm(vectors, axis=1, keepdims=True)
    query = jnp.asarray([[0.0, 0.0, 0.0, 1.0]])
    got = diffuse_conventional(vectors, knn(vectors, 2), query)
    np.testing.assert_array_equal(got.value, 0)


def test_no_query_gives_no_column(arrays):
    vectors, lists, queries = arrays
    got = diffuse_conventional(vectors, lists, queries[:0])
    assert got.value.shape == (len(vectors), 0)


def test_gradients_match_finite_differences(collection, arrays):
    vectors, lists, queries = arrays

    def scores(queries, gamma, alpha):
        return diffuse_conventional(
            vectors,
            lists,
            jnp.asarray(queries),
            collection.query_ids,
            gamma=gamma,
            **(LONG | {"alpha": alpha}),
        ).value

    arguments = queries, jnp.asarray(3.0), jnp.asarray(0.8)
    check_gradient(scores, arguments)


def test_scores_are_correlated_with_those_of_the_paper(collection, arrays):
    vectors, lists, queries = arrays
    ids = collection.query_ids
    paper = diffuse(
        normalize(affinity(lists)), query_vectors(vectors, queries, ids, k=K), **LONG
    )
    other = diffuse_conventional(vectors, lists, queries, ids, **LONG)
    assert paper.value.shape == other.value.shape
    correlation = np.corrcoef(np.ravel(paper.value), np.ravel(other.value))[0, 1]
    assert 0.5 < correlation < 0.999


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"alpha": 1.0}, "alpha must be"),
        ({"gamma": 0.0}, "gamma must be"),
        ({"max_regions": 1}, "max_regions must be at least 4, got 1"),
        ({"num_queries": 2}, "num_queries must be at least 5, got 2"),
        ({"query_ids": np.arange(11) * 2}, "query_ids must neither decrease"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_rejects_bad_arguments(collection, arrays, change, complaint):
    arguments = {"query_ids": collection.query_ids} | change
    with pytest.raises(ValueError, match=complaint):
        diffuse_conventional(*arrays, **arguments)
