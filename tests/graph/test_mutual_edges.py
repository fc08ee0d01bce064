import itertools

import jax.numpy as jnp
import kernels
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.graph import _mutual_edges as module
from diffjax.graph import affinity, compress, knn, mutual_edges
from diffjax.graph._mutual import search_slots
from diffjax.native import mutual_slots
from diffjax.types import Graph, Neighbors

everywhere = pytest.mark.parametrize(
    "native", [pytest.param(True, marks=kernels.needed), False]
)


@pytest.fixture
def switched(monkeypatch, native):
    kernels.switch(monkeypatch, native)
    yield
    kernels.forget()


def lists(seed, n, k, *, empty=0.2):
    """Lists in any order, some slots empty, with similarities of their own."""
    rng = np.random.default_rng(seed)
    indices = np.argsort(rng.random((n, n)), axis=1)[:, :k].astype(np.int32)
    indices[rng.random((n, k)) < empty] = -1
    similarities = rng.normal(size=(n, k)).astype(np.float32)
    return Neighbors(jnp.asarray(indices), jnp.asarray(similarities))


def by_sets(neighbors):
    """Dense matrix of the smaller similarity of every mutual pair; NaN elsewhere."""
    indices, similarities = map(np.asarray, neighbors)
    n = len(indices)
    found = np.full((n, n), np.nan, similarities.dtype)
    for i, row in enumerate(indices):
        for slot, j in enumerate(row):
            if j >= 0 and j != i and i in indices[j]:
                back = similarities[j][list(indices[j]).index(i)]
                found[i, j] = min(similarities[i, slot], back)
    return found


def dense(graph):
    n = graph.num_nodes
    found = np.full((n, n), np.nan, np.asarray(graph.weights).dtype)
    found[np.asarray(graph.rows), np.asarray(graph.indices)] = graph.weights
    return found


@everywhere
@pytest.mark.parametrize(("n", "k"), [(1, 1), (40, 1), (40, 7), (200, 70), (60, 60)])
@pytest.mark.usefixtures("switched")
def test_agrees_with_comparing_lists(n, k):
    given = lists(n + k, n, k)
    got = mutual_edges(given)
    np.testing.assert_array_equal(dense(got), by_sets(given))
    starts, columns = np.asarray(got.starts), np.asarray(got.indices)
    for first, last in itertools.pairwise(starts):
        assert (np.diff(columns[first:last]) > 0).all()


@everywhere
@pytest.mark.usefixtures("switched")
def test_the_affinity_of_edges_is_the_compressed_affinity_of_lists(collection):
    near = knn(collection.vectors.astype(np.float32), 9)
    whole = compress(affinity(near, gamma=2.0))
    for got, expected in zip(
        compress(affinity(mutual_edges(near), gamma=2.0)), whole, strict=True
    ):
        if expected is not None:
            np.testing.assert_array_equal(got, expected)


@everywhere
@pytest.mark.usefixtures("switched", "x64")
def test_double_precision_stays_so(collection):
    got = affinity(mutual_edges(knn(collection.vectors, 7)), gamma=1.0)
    np.testing.assert_allclose(
        got.to_scipy().toarray(),
        oracle.affinity(collection.vectors, 7, 1.0),
        atol=1e-14,
    )


def test_blocks_are_as_one(monkeypatch):
    given = lists(3, 50, 6)
    whole = module._by_blocks(*map(np.asarray, given))
    monkeypatch.setattr(module, "_AT_ONCE", 6 * 6 * 7)
    for a, b in zip(whole, module._by_blocks(*map(np.asarray, given)), strict=True):
        if a is not None:
            np.testing.assert_array_equal(a, b)


@kernels.needed
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.sampled_from([1, 2, 17, 90]))
def test_slots_are_those_of_the_binary_search(seed, n):
    indices = lists(seed, n, min(n, 40)).indices
    np.testing.assert_array_equal(mutual_slots(indices), search_slots(indices))


@everywhere
@pytest.mark.usefixtures("switched")
def test_lists_that_are_empty_give_a_graph_without_edges():
    got = mutual_edges(
        Neighbors(jnp.full((4, 3), -1, jnp.int32), jnp.zeros((4, 3), jnp.float32))
    )
    assert got.weights.shape == (0,)
    assert got.num_nodes == 4


@everywhere
@pytest.mark.usefixtures("switched")
def test_compressing_keeps_degrees_and_drops_weights_of_zero():
    padded = Graph(
        jnp.array([[2, 1], [-1, 0], [0, -1]], jnp.int32),
        jnp.array([[0.5, 0.0], [0.0, 0.0], [0.5, 0.0]]),
        degrees=jnp.array([0.5, 1.0, 0.5]),
    )
    got = compress(padded)
    assert got.indices.tolist() == [2, 0]
    assert np.asarray(got.starts).tolist() == [0, 1, 1, 2]
    assert np.asarray(got.degrees).tolist() == [0.5, 1.0, 0.5]


@pytest.mark.parametrize("bad", [-2, 4])
def test_neighbours_that_are_no_nodes_are_refused(bad):
    given = Neighbors(jnp.array([[0], [bad], [1], [2]]), jnp.ones((4, 1)))
    with pytest.raises(
        ValueError,
        match=rf"neighbors must have indices in -1\.\.n-1, got {bad} in row 1",
    ):
        mutual_edges(given)
