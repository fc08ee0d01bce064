import itertools
import operator

import jax
import jax.numpy as jnp
import kernels
import numpy as np
import oracle
import pytest
from finite_differences import check_gradient
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax._sharding import flat_mesh
from diffjax.graph import (
    _reciprocal,
    affinity,
    compress,
    edge_similarities,
    kernel,
    knn,
    mutual_edges,
)
from diffjax.graph._reciprocal import mutual_slots_jax
from diffjax.native import mutual_slots
from diffjax.types import Graph, Neighbors


def draw_lists(n: int, k: int, *, empty: float) -> Neighbors:
    """Random lists with different similarities in both directions and empty slots."""
    rng = np.random.default_rng(n + k)
    indices = np.stack([rng.choice(n, k, replace=False) for _ in range(n)])
    indices[rng.random((n, k)) < empty] = -1
    similarities = np.where(indices >= 0, rng.normal(size=(n, k)), 0)
    return Neighbors(
        jnp.asarray(indices, jnp.int32), jnp.asarray(similarities, jnp.float32)
    )


def mutual_by_loops(neighbors: Neighbors) -> np.ndarray:
    """The smaller similarity of each pair that is in both lists, by loops."""
    indices, similarities = map(np.asarray, neighbors)
    smaller = np.full(indices.shape, -np.inf)
    for i, row in enumerate(indices):
        for slot, j in enumerate(row):
            if j >= 0 and j != i and i in indices[j]:
                back = similarities[j, list(indices[j]).index(i)]
                smaller[i, slot] = min(similarities[i, slot], back)
    return smaller


@pytest.mark.parametrize(
    ("n", "k", "empty", "batch_size"),
    [
        (23, 6, 0.2, 7),
        (6, 6, 0.0, 2**16),
        (5, 1, 1.0, 7),
        pytest.param(23, 6, 0.2, 2**16, marks=pytest.mark.full),
        pytest.param(6, 6, 0.0, 7, marks=pytest.mark.full),
        pytest.param(5, 1, 1.0, 2**16, marks=pytest.mark.full),
    ],
)
def test_a_pair_is_mutual_where_each_lists_the_other(
    monkeypatch, n, k, empty, batch_size
):
    monkeypatch.setattr(_reciprocal, "_PAIRS_PER_BATCH", batch_size)
    neighbors = draw_lists(n, k, empty=empty)
    line = flat_mesh(np.array(jax.devices()[:1]))
    expected = mutual_by_loops(neighbors)
    for similarities in (
        jax.jit(_reciprocal.mutual_similarities)(neighbors),
        # A new function each time, because the batch size is not an argument.
        jax.jit(lambda x: _reciprocal.ring_mutual_similarities(x, line))(neighbors),
    ):
        np.testing.assert_array_equal(similarities, expected.astype(np.float32))


def test_more_pairs_than_numbers_are_refused():
    line = flat_mesh(np.array(jax.devices()[:1]))
    many = Neighbors(
        jax.ShapeDtypeStruct((2**26, 32), jnp.int32),  # pyright: ignore[reportArgumentType]  # A shape of it.
        jax.ShapeDtypeStruct((2**26, 32), jnp.float32),  # pyright: ignore[reportArgumentType]  # Likewise.
    )
    with pytest.raises(
        ValueError, match=r"fewer than 2\^31 on each device, got 2147483"
    ):
        jax.eval_shape(lambda x: _reciprocal.ring_mutual_similarities(x, line), many)


eager_or_jit = pytest.mark.parametrize(
    "jitted", [True, pytest.param(False, marks=pytest.mark.full)], ids=["jit", "eager"]
)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("k", "gamma"),
    [
        (1, 3.0),
        (7, 1.0),
        (7, 3.0),
        (30, 0.5),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in [(1, 1.0), (1, 0.5), (2, 1.0), (2, 3.0), (2, 0.5), (7, 0.5)]
        ),
        *(pytest.param(30, gamma, marks=pytest.mark.full) for gamma in (1.0, 3.0)),
    ],
)
def test_agrees_with_comparing_neighbour_sets(collection, k, gamma):
    got = affinity(knn(collection.vectors, k), gamma=gamma)
    np.testing.assert_allclose(
        got.to_scipy().toarray(),
        oracle.affinity(collection.vectors, k, gamma),
        atol=1e-14,
    )


@eager_or_jit
def test_needs_both_directions_and_takes_the_smaller_similarity(jitted):
    # 0 and 1 list each other; 2 lists 1, but 1 does not list 2; 3 lists only itself.
    neighbors = Neighbors(
        jnp.array([[0, 1], [1, 0], [1, 2], [3, -1]], jnp.int32),
        jnp.array([[1.0, 0.5], [1.0, 0.4], [0.9, 1.0], [1.0, 0.0]]),
    )
    with jax.disable_jit(not jitted):
        got = affinity(neighbors, gamma=2.0)
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = 0.4**2
    np.testing.assert_allclose(got.to_scipy().toarray(), expected, rtol=1e-6)
    np.testing.assert_array_equal(got.indices, [[-1, 1], [-1, 0], [-1, -1], [-1, -1]])


def test_negative_similarity_is_no_edge():
    vectors = np.array([[1.0, 0.0], [-1.0, 0.1]], np.float32)
    assert affinity(knn(vectors, 2), gamma=2.0).to_scipy().nnz == 0


def test_one_neighbour_is_the_vector_itself_and_gives_no_edge(collection):
    vectors = collection.vectors.astype(np.float32)
    assert affinity(knn(vectors, 1)).to_scipy().nnz == 0


def test_duplicates_are_linked_with_weight_one():
    vectors = np.repeat(np.eye(3, dtype=np.float32), 2, axis=0)
    got = affinity(knn(vectors, 2)).to_scipy().toarray()
    np.testing.assert_array_equal(got, np.kron(np.eye(3), [[0, 1], [1, 0]]))


def random_neighbors(seed, n, k):
    """Random lists with empty slots and non-negative or slightly negative numbers."""
    rng = np.random.default_rng(seed)
    indices = np.stack([rng.permutation(n)[:k] for _ in range(n)]).astype(np.int32)
    indices[rng.random((n, k)) < 0.2] = -1
    similarities = rng.uniform(-0.2, 1, size=(n, k)).astype(np.float32)
    return Neighbors(jnp.asarray(indices), jnp.asarray(similarities))


@settings(deadline=None, max_examples=10)
@given(
    seed=st.integers(0, 10_000), n=st.sampled_from([2, 9]), k=st.sampled_from([1, 2])
)
def test_the_affinity_of_any_lists_is_exactly_symmetric(seed, n, k):
    dense = affinity(random_neighbors(seed, n, k)).to_scipy().toarray()
    np.testing.assert_array_equal(dense, dense.T)
    assert (dense.diagonal() == 0).all()
    assert (dense >= 0).all()


def test_kernel_applies_to_a_compressed_graph_of_raw_similarities(collection):
    neighbors = knn(collection.vectors.astype(np.float32), 8)
    direct = affinity(neighbors, gamma=3.0)
    raw = compress(affinity(neighbors, gamma=1.0))
    np.testing.assert_allclose(
        affinity(raw, gamma=3.0).to_scipy().toarray(),
        direct.to_scipy().toarray(),
        rtol=1e-6,
    )


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_gradient_is_finite_where_the_similarity_is_zero(gamma):
    neighbors = Neighbors(
        jnp.array([[1], [0]], jnp.int32), jnp.zeros((2, 1), jnp.float32)
    )

    def total(similarities):
        graph = affinity(neighbors._replace(similarities=similarities), gamma=gamma)
        return graph.weights.sum()

    np.testing.assert_array_equal(jax.grad(total)(neighbors.similarities), 0.0)


@pytest.mark.parametrize(
    "bias", [-0.1, 0.3, pytest.param(-2.0, marks=pytest.mark.full)]
)
def test_a_bias_is_subtracted_before_the_power_and_makes_or_removes_edges(
    collection, x64, bias
):
    lists = knn(collection.vectors, 40)
    got = affinity(lists, gamma=2.0, bias=bias).to_scipy().toarray()
    similarity = collection.vectors @ collection.vectors.T
    is_listed = np.zeros_like(similarity, bool)
    np.put_along_axis(is_listed, np.asarray(lists.indices), values=True, axis=1)
    np.fill_diagonal(is_listed, val=False)
    expected = np.where(
        is_listed & is_listed.T, np.maximum(similarity - bias, 0) ** 2, 0
    )
    np.testing.assert_allclose(got, expected, atol=1e-13)


@pytest.mark.parametrize("form", [lambda graph: graph, compress])
def test_a_bias_makes_no_edge_of_an_empty_slot(collection, form):
    lists = knn(collection.vectors.astype(np.float32), 8)
    raw = form(affinity(lists, gamma=1.0))
    got = affinity(raw, gamma=1.0, bias=-0.5).to_scipy()
    assert got.nnz == raw.to_scipy().nnz
    np.testing.assert_allclose(got.data, raw.to_scipy().data + 0.5, rtol=1e-6)


def test_rejects_a_bias_that_is_no_number():
    with pytest.raises(ValueError, match=r"bias must be finite .* got nan"):
        affinity(random_neighbors(0, 4, 2), bias=float("nan"))


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan"), float("inf")])
def test_rejects_an_exponent_that_is_not_above_zero(gamma):
    with pytest.raises(ValueError, match=f"gamma .* got {gamma}"):
        affinity(random_neighbors(0, 4, 2), gamma=gamma)


def test_padded_graph_keeps_the_shape_of_the_lists():
    neighbors = random_neighbors(0, 9, 4)
    got = affinity(neighbors)
    assert isinstance(got, Graph)
    assert got.indices.shape == got.weights.shape == (9, 4)
    assert got.starts is None
    assert got.num_nodes == 9


@pytest.mark.parametrize("build", [affinity, mutual_edges])
def test_lists_that_make_no_symmetric_graph_are_refused(build):
    indices = jnp.array([[0, 1, 1], [1, 0, 2], [2, 1, 0]], jnp.int32)
    similarities = jnp.array([[1, 0.5, 0.4], [1, 0.5, 0.3], [1, 0.3, 0.2]])
    with pytest.raises(ValueError, match="each index once in a row, got 1 in row 0"):
        build(Neighbors(indices, similarities))
    once = indices.at[0, 2].set(2)
    with pytest.raises(ValueError, match="finite similarities, got nan in row 1"):
        build(Neighbors(once, similarities.at[1, 1].set(jnp.nan)))
    with pytest.raises(ValueError, match=r"indices in -1\.\.n-1, got 3 in row 0"):
        build(Neighbors(once.at[0, 2].set(3), similarities))
    build(Neighbors(once, similarities))


def test_nan_stays_nan(x64):
    assert np.isnan(kernel(jnp.array(jnp.nan), 3.0))
    indices = random_neighbors(0, 9, 4).indices
    bad = Neighbors(indices, jnp.full(indices.shape, jnp.nan))
    # Traced lists are not checked.
    got, graph = (
        jax.jit(affinity)(bad),
        affinity(Neighbors(indices, jnp.ones(indices.shape))),
    )
    np.testing.assert_array_equal(got.indices, graph.indices)
    np.testing.assert_array_equal(np.isnan(got.weights), graph.indices >= 0)


both_paths = pytest.mark.parametrize(
    "native", [pytest.param(True, marks=kernels.needed), False]
)


@pytest.fixture
def switched(monkeypatch, native):
    kernels.switch(monkeypatch, native)
    yield
    kernels.forget()


def random_lists(seed, n, k, *, empty=0.2):
    """Lists in random order, some slots empty, with random similarities."""
    rng = np.random.default_rng(seed)
    indices = np.argsort(rng.random((n, n)), axis=1)[:, :k].astype(np.int32)
    indices[rng.random((n, k)) < empty] = -1
    similarities = rng.normal(size=(n, k)).astype(np.float32)
    return Neighbors(jnp.asarray(indices), jnp.asarray(similarities))


def by_sets(neighbors):
    """Dense matrix of the smaller similarity of every mutual pair; NaN elsewhere."""
    indices, similarities = map(np.asarray, neighbors)
    n = len(indices)
    matrix = np.full((n, n), np.nan, similarities.dtype)
    for i, row in enumerate(indices):
        for slot, j in enumerate(row):
            if j >= 0 and j != i and i in indices[j]:
                back = similarities[j][list(indices[j]).index(i)]
                matrix[i, j] = min(similarities[i, slot], back)
    return matrix


def dense(graph):
    n = graph.num_nodes
    matrix = np.full((n, n), np.nan, np.asarray(graph.weights).dtype)
    matrix[np.asarray(graph.rows), np.asarray(graph.indices)] = graph.weights
    return matrix


@both_paths
@pytest.mark.parametrize(
    ("n", "k"),
    [
        (1, 1),
        (40, 7),
        (60, 60),
        *(pytest.param(*case, marks=pytest.mark.full) for case in [(40, 1), (200, 70)]),
    ],
)
@pytest.mark.usefixtures("switched")
def test_agrees_with_comparing_lists(n, k):
    neighbors = random_lists(n + k, n, k)
    got = mutual_edges(neighbors)
    np.testing.assert_array_equal(dense(got), by_sets(neighbors))
    starts, columns = np.asarray(got.starts), np.asarray(got.indices)
    for first, last in itertools.pairwise(starts):
        assert (np.diff(columns[first:last]) > 0).all()


@both_paths
@pytest.mark.usefixtures("switched")
def test_the_affinity_of_edges_is_the_compressed_affinity_of_lists(collection):
    lists = knn(collection.vectors.astype(np.float32), 9)
    for got, expected in zip(
        compress(affinity(mutual_edges(lists), gamma=2.0)),
        compress(affinity(lists, gamma=2.0)),
        strict=True,
    ):
        if expected is not None:
            np.testing.assert_array_equal(got, expected)


@both_paths
@pytest.mark.usefixtures("switched", "x64")
def test_double_precision_is_kept(collection):
    got = affinity(mutual_edges(knn(collection.vectors, 7)), gamma=1.0)
    np.testing.assert_allclose(
        got.to_scipy().toarray(),
        oracle.affinity(collection.vectors, 7, 1.0),
        atol=1e-14,
    )


def test_blocks_of_any_size_give_the_same_edges(monkeypatch):
    lists = [*map(np.asarray, random_lists(3, 50, 6))]
    one_block = _reciprocal._mutual_edges_in_blocks(*lists)
    monkeypatch.setattr(_reciprocal, "_COMPARISONS_PER_BLOCK", 6 * 6 * 7)
    blocks = _reciprocal._mutual_edges_in_blocks(*lists)
    for a, b in zip(one_block, blocks, strict=True):
        if a is not None:
            np.testing.assert_array_equal(a, b)


@kernels.needed
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.sampled_from([1, 17, 90]))
def test_slots_are_those_of_the_binary_search(seed, n):
    indices = random_lists(seed, n, min(n, 40)).indices
    expected = jax.jit(mutual_slots_jax)(indices)
    np.testing.assert_array_equal(mutual_slots(indices), expected)


@both_paths
@pytest.mark.usefixtures("switched")
def test_empty_lists_give_a_graph_without_edges():
    got = mutual_edges(
        Neighbors(jnp.full((4, 3), -1, jnp.int32), jnp.zeros((4, 3), jnp.float32))
    )
    assert got.weights.shape == (0,)
    assert got.num_nodes == 4


@both_paths
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
    neighbors = Neighbors(jnp.array([[0], [bad], [1], [2]]), jnp.ones((4, 1)))
    with pytest.raises(
        ValueError,
        match=rf"neighbors must have indices in -1\.\.n-1, got {bad} in row 1",
    ):
        mutual_edges(neighbors)


@pytest.fixture(params=["padded", "compressed"])
def graph(request, collection, x64) -> Graph:
    padded = affinity(knn(collection.vectors, 6))
    return padded if request.param == "padded" else compress(padded)


@pytest.mark.parametrize(
    ("numbers", "transform"),
    [
        (12 * 5, jax.jit),
        pytest.param(2**22, jax.jit, marks=pytest.mark.full),
        pytest.param(12 * 5, lambda f: f, marks=pytest.mark.full),
        (2**22, lambda f: f),
    ],
)
def test_the_kernel_of_edge_similarities_is_the_affinity(
    collection, graph, transform, numbers, monkeypatch
):
    monkeypatch.setattr(_reciprocal, "_NUMBERS_PER_BLOCK", numbers)
    # The number is read when the program is compiled.
    operator.methodcaller("clear_cache")(_reciprocal._edge_similarities)
    raw = transform(edge_similarities)(graph, jnp.asarray(collection.vectors))
    np.testing.assert_allclose(affinity(raw).weights, graph.weights, atol=1e-14)
    dense = raw.to_scipy().toarray()
    np.testing.assert_array_equal(dense, dense.T)


def test_an_edge_whose_similarity_turns_negative_is_removed(collection, graph):
    flipped = jnp.asarray(collection.vectors).at[3].multiply(-1.0)
    raw = edge_similarities(graph, flipped)
    assert (raw.weights < 0).any()
    got = affinity(raw).to_scipy().toarray()
    assert not got[3].any()
    assert (got >= 0).all()


def test_gradients_match_finite_differences(collection, graph):
    def weights(vectors):
        return affinity(edge_similarities(graph, jnp.asarray(vectors))).weights

    vectors = jnp.asarray(collection.vectors)
    check_gradient(weights, (vectors,))


def test_refuses_vectors_of_another_number(collection, graph):
    with pytest.raises(ValueError, match="vectors must have one row per node"):
        edge_similarities(graph, jnp.asarray(collection.vectors[1:]))
