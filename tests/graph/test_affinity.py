import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.graph import affinity, compress, kernel, knn, mutual_edges
from diffjax.types import Graph, Neighbors

eager_or_jit = pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("gamma", [1.0, 3.0, 0.5])
@pytest.mark.parametrize("k", [1, 2, 7, 30])
def test_agrees_with_comparing_neighbour_sets(collection, k, gamma):
    got = affinity(knn(collection.vectors, k), gamma=gamma)
    np.testing.assert_allclose(
        got.to_scipy().toarray(),
        oracle.affinity(collection.vectors, k, gamma),
        atol=1e-14,
    )


@eager_or_jit
def test_needs_both_directions_and_takes_the_smaller_similarity(jitted):
    # 0 and 1 list each other; 2 lists 1, but 1 does not list 2; 3 lists nobody.
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


def test_duplicates_are_linked_with_weight_one_wherever_they_stand_in_their_lists():
    vectors = np.repeat(np.eye(3, dtype=np.float32), 2, axis=0)
    got = affinity(knn(vectors, 2)).to_scipy().toarray()
    np.testing.assert_array_equal(got, np.kron(np.eye(3), [[0, 1], [1, 0]]))


def random_neighbors(seed, n, k):
    """Neighbour lists without structure, with empty slots and one-sided numbers."""
    rng = np.random.default_rng(seed)
    indices = np.stack([rng.permutation(n)[:k] for _ in range(n)]).astype(np.int32)
    indices[rng.random((n, k)) < 0.2] = -1
    similarities = rng.uniform(-0.2, 1, size=(n, k)).astype(np.float32)
    return Neighbors(jnp.asarray(indices), jnp.asarray(similarities))


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000), n=st.sampled_from([2, 9]), k=st.sampled_from([1, 2])
)
def test_is_exactly_symmetric_whatever_the_lists_say(seed, n, k):
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


@pytest.mark.parametrize("bias", [-2.0, -0.1, 0.3])
def test_a_bias_is_taken_off_before_the_power_and_makes_or_removes_edges(
    collection, x64, bias
):
    lists = knn(collection.vectors, 40)
    got = affinity(lists, gamma=2.0, bias=bias).to_scipy().toarray()
    similarity = collection.vectors @ collection.vectors.T
    near = np.zeros_like(similarity, bool)
    np.put_along_axis(near, np.asarray(lists.indices), values=True, axis=1)
    np.fill_diagonal(near, val=False)
    expected = np.where(near & near.T, np.maximum(similarity - bias, 0) ** 2, 0)
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


def test_what_is_no_number_stays_none(x64):
    assert np.isnan(kernel(jnp.array(jnp.nan), 3.0))
    indices = random_neighbors(0, 9, 4).indices
    bad = Neighbors(indices, jnp.full(indices.shape, jnp.nan))
    # Compiled lists are not looked at.
    got, graph = (
        jax.jit(affinity)(bad),
        affinity(Neighbors(indices, jnp.ones(indices.shape))),
    )
    np.testing.assert_array_equal(got.indices, graph.indices)
    np.testing.assert_array_equal(np.isnan(got.weights), graph.indices >= 0)
