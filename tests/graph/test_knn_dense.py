import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import check_gradient

from diffjax.graph import affinity, compress, knn, knn_dense, normalize
from diffjax.types import Neighbors


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def vectors(request, collection):
    """The collection's vectors; double precision with x64 turned on."""
    if request.param == np.float64:
        request.getfixturevalue("x64")
    return jnp.asarray(collection.vectors.astype(request.param))


@pytest.mark.parametrize(
    ("n", "block", "jitted"),
    [
        (40, 16, True),
        (40, 1000, True),
        pytest.param(40, 1, True, marks=pytest.mark.full),
        pytest.param(9, 4, False, marks=pytest.mark.full),
    ],
)
def test_agrees_with_the_search_on_the_host(vectors, n, block, jitted):
    with jax.disable_jit(not jitted):
        got = knn_dense(vectors[:n], 6, block=block)
    expected = knn(vectors[:n], 6)
    np.testing.assert_array_equal(got.indices, expected.indices)
    tolerance = 1e-6 if vectors.dtype == np.float32 else 1e-14
    np.testing.assert_allclose(got.similarities, expected.similarities, atol=tolerance)
    assert got.similarities.dtype == vectors.dtype
    assert got.indices.dtype == jnp.int32


def test_ties_go_by_lower_index():
    got = knn_dense(jnp.tile(jnp.eye(3), (4, 1)), 4)
    np.testing.assert_array_equal(
        got.indices, np.arange(12)[:, None] % 3 + 3 * np.arange(4)
    )


def test_padding_changes_no_list_and_has_no_neighbours(vectors):
    # Between the vectors, not only after them, and full of NaN.
    few, mask = np.asarray(vectors[:40]), np.ones(49, np.bool_)
    mask[[0, 3, 4, 20, 21, 30, 46, 47, 48]] = False
    padded = np.full((49, few.shape[1]), np.nan, few.dtype)
    padded[mask] = few
    got = knn_dense(jnp.asarray(padded), 6, where=jnp.asarray(mask))
    indices, similarities = np.asarray(got.indices), np.asarray(got.similarities)
    expected = knn(few, 6)
    numbers = np.flatnonzero(mask)
    np.testing.assert_array_equal(indices[mask], numbers[np.asarray(expected.indices)])
    np.testing.assert_allclose(similarities[mask], expected.similarities, atol=1e-6)
    np.testing.assert_array_equal(indices[~mask], -1)
    np.testing.assert_array_equal(similarities[~mask], 0.0)


def test_fewer_vectors_than_neighbours_leave_empty_slots():
    vectors = jnp.array([[1.0, 0.0], [5.0, 5.0], [0.6, 0.8], [5.0, 5.0]])
    got = knn_dense(vectors, 3, where=jnp.array([True, False, True, False]))
    np.testing.assert_array_equal(
        got.indices, [[0, 2, -1], [-1, -1, -1], [2, 0, -1], [-1, -1, -1]]
    )
    np.testing.assert_allclose(
        got.similarities, [[1, 0.6, 0], [0, 0, 0], [1, 0.6, 0], [0, 0, 0]], rtol=1e-6
    )


def test_padding_alone_has_no_neighbours():
    got = knn_dense(jnp.ones((4, 2)), 2, where=jnp.zeros(4, jnp.bool_))
    np.testing.assert_array_equal(got.indices, -1)
    np.testing.assert_array_equal(got.similarities, 0.0)


def test_a_batch_of_short_lists_gives_the_graph_of_each(collection):
    lists = collection.vectors[:80].astype(np.float32).reshape(4, 20, -1)
    batch = jax.jit(jax.vmap(lambda v: normalize(affinity(knn_dense(v, 6)))))
    got = batch(jnp.asarray(lists))
    for member, vectors in enumerate(lists):
        graph = jax.tree.map(lambda leaf, member=member: leaf[member], got)
        expected = normalize(compress(affinity(knn(vectors, 6))))
        np.testing.assert_allclose(
            compress(graph).to_scipy().toarray(),
            expected.to_scipy().toarray(),
            atol=1e-6,
        )


def test_members_of_a_batch_may_have_different_padding(collection):
    lists = jnp.asarray(collection.vectors[:60].astype(np.float32).reshape(3, 20, -1))
    counts = jnp.array([20, 11, 3])
    where = jnp.arange(20)[None, :] < counts[:, None]
    got = jax.jit(jax.vmap(lambda v, w: knn_dense(v, 5, where=w)))(lists, where)
    for member, count in enumerate([20, 11, 3]):
        expected = knn(np.asarray(lists)[member, :count], min(5, count))
        listed = got.indices[member, :count, : min(5, count)]
        np.testing.assert_array_equal(listed, expected.indices)
        assert (np.asarray(got.indices[member, count:]) == -1).all()


@pytest.mark.usefixtures("x64")
def test_gradient_of_the_similarities_agrees_with_finite_differences(collection):
    vectors = jnp.asarray(collection.vectors[:15])
    where = jnp.arange(15) != 4

    def similarities(v):
        return knn_dense(jnp.asarray(v), 4, where=where, block=4).similarities

    check_gradient(similarities, (vectors,), tolerance=1e-6)


def test_gradient_is_finite_where_the_padding_is_nan():
    vectors = jnp.array([[1.0, 0.0], [jnp.nan, jnp.inf], [0.6, 0.8]])
    where = jnp.array([True, False, True])
    slope = jax.grad(lambda v: knn_dense(v, 3, where=where).similarities.sum())(vectors)
    # Twice x'x and twice x'z: slopes are 2x + 2z in both.
    np.testing.assert_allclose(slope, [[3.2, 1.6], [0, 0], [3.2, 1.6]], rtol=1e-6)


def test_compiles_for_every_kind_of_device():
    search = jax.jit(lambda v, w: knn_dense(v, 5, where=w))
    shapes = (
        jax.ShapeDtypeStruct((70, 8), jnp.float32),
        jax.ShapeDtypeStruct((70,), "?"),
    )
    exported = jax.export.export(search, platforms=["cpu", "cuda", "tpu"])(*shapes)
    assert isinstance(
        jax.tree.unflatten(exported.out_tree, exported.out_avals), Neighbors
    )


@pytest.mark.parametrize("k", [0, 5])
def test_rejects_a_k_outside_one_to_n(k):
    with pytest.raises(ValueError, match=rf"k must be in 1\.\.4 \(n\), got {k}"):
        knn_dense(jnp.ones((4, 2)), k)


def test_rejects_an_empty_block():
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        knn_dense(jnp.ones((4, 2)), 1, block=0)


@pytest.mark.usefixtures("unchecked")
def test_rejects_a_mask_of_another_length():
    with pytest.raises(ValueError, match=r"where must have .* 4, got \(3,\)"):
        knn_dense(jnp.ones((4, 2)), 1, where=jnp.ones(3, jnp.bool_))


@pytest.mark.usefixtures("unchecked")
def test_refuses_doubles_that_jax_would_halve(collection):
    with pytest.raises(ValueError, match="vectors must be float32 here"):
        knn_dense(collection.vectors, 3)
