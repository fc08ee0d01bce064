import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from diffjax.graph import affinity, insert, knn
from diffjax.types import Neighbors


@pytest.fixture
def lists(collection, x64) -> Neighbors:
    return knn(collection.vectors, 6)


@pytest.mark.parametrize(
    ("r", "transform"),
    [
        (0, lambda f: f),
        (4, lambda f: f),
        *(
            pytest.param(r, transform, marks=pytest.mark.full)
            for r, transform in [(1, lambda f: f), (0, jax.jit), (1, jax.jit)]
        ),
        (4, jax.jit),
    ],
)
def test_agrees_with_a_new_search_of_all_vectors(collection, lists, transform, r):
    added = collection.queries[:r]
    got = transform(insert)(lists, jnp.asarray(collection.vectors), jnp.asarray(added))
    all_vectors = np.concatenate([collection.vectors, added])
    expected = knn(all_vectors, 6)
    np.testing.assert_array_equal(got.indices, expected.indices)
    np.testing.assert_allclose(got.similarities, expected.similarities, atol=1e-14)
    np.testing.assert_allclose(
        affinity(got).to_scipy().toarray(),
        oracle.affinity(all_vectors, 6, 3.0),
        atol=1e-14,
    )


def test_reciprocity_changes_in_both_directions():
    # On a line 0, 1, 2 with k = 2, vector 1 lists 0; a new one nearer to 1 displaces 0.
    angles = np.array([0.0, 0.3, 1.2])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    new = np.array([[np.cos(0.35), np.sin(0.35)]], np.float32)
    lists = knn(vectors, 2)
    assert affinity(lists).to_scipy().toarray()[0, 1] > 0
    grown = affinity(insert(lists, jnp.asarray(vectors), jnp.asarray(new)))
    dense = grown.to_scipy().toarray()
    assert dense[0, 1] == 0
    assert dense[1, 3] > 0


def test_padding_is_never_a_neighbour(collection, lists):
    vectors, added = jnp.asarray(collection.vectors), jnp.asarray(collection.queries)
    mask = np.arange(len(added)) < 3
    got = insert(lists, vectors, added, where=jnp.asarray(mask))
    alone = insert(lists, vectors, added[:3])
    n = len(vectors) + 3
    np.testing.assert_array_equal(got.indices[:n], alone.indices)
    np.testing.assert_array_equal(got.indices[n:], -1)
    np.testing.assert_array_equal(got.similarities[n:], 0)


def test_empty_slots_are_filled_before_a_neighbour_is_displaced():
    lists = Neighbors(jnp.array([[0, -1], [1, -1]], jnp.int32), jnp.eye(2)[:, ::-1] * 0)
    got = insert(lists, jnp.eye(2), jnp.array([[0.6, 0.8]]))
    np.testing.assert_array_equal(np.asarray(got.indices)[:, 1] != -1, True)


@pytest.mark.usefixtures("unchecked")
def test_refuses_sizes_that_do_not_match(collection, lists):
    vectors = jnp.asarray(collection.vectors)
    with pytest.raises(ValueError, match="neighbors must have one row per vector"):
        insert(lists, vectors[1:], vectors[:2])
    with pytest.raises(ValueError, match="added must have the collection's 12"):
        insert(lists, vectors, vectors[:2, :5])
