import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.graph import _recall, knn, recall
from diffjax.types import Neighbors


def listed(indices):
    """Neighbour lists without similarities, which are not used."""
    return Neighbors(jnp.asarray(indices), jnp.zeros(indices.shape))


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def vectors(request, collection):
    if request.param == np.float64:
        request.getfixturevalue("x64")
    return collection.vectors.astype(request.param)


@pytest.mark.parametrize("k", [1, 6, 30])
def test_is_one_for_the_exact_lists(vectors, k):
    assert recall(knn(vectors, k), vectors) == 1.0


def test_counts_what_is_missing_wrong_or_empty(vectors):
    # Of 4 neighbours, row by row: all; 3 and an empty slot; 2 and the two farthest.
    indices = np.array(knn(vectors, 4).indices)
    farthest = np.argsort(vectors @ vectors.T, axis=1)
    indices[1::3, 3] = -1
    indices[2::3, 2:] = farthest[2::3, :2]
    lists = listed(indices)
    n = len(vectors)
    counts = [len(range(start, n, 3)) for start in range(3)]
    expected = np.dot(counts, [4, 3, 2]) / (4 * n)
    np.testing.assert_allclose(recall(lists, vectors), expected, rtol=1e-12)


def test_any_of_several_equal_neighbours_counts():
    # Each direction four times: any of the three other copies is equally near.
    vectors = np.tile(np.eye(3, dtype=np.float32), (4, 1))
    indices = np.stack([np.arange(12), (np.arange(12) + 9) % 12], axis=1)
    assert recall(listed(indices), vectors) == 1.0


def test_a_neighbour_that_is_nearly_as_similar_does_not_count():
    # From 0, vector 1 is nearer than 2 by 1e-4: far above rounding.
    angles = np.array([0.0, 0.5, 0.5 + 2e-4])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    indices = np.array([[0, 2], [1, 2], [2, 1]])
    got = recall(listed(indices), vectors)
    np.testing.assert_allclose(got, 5 / 6)


def test_a_sample_is_drawn_by_its_seed_and_is_near_the_whole(vectors):
    indices = np.array(knn(vectors, 4).indices)
    indices[::2, 3] = -1
    lists = listed(indices)
    drawn = [recall(lists, vectors, sample=20, seed=s) for s in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    assert abs(np.mean(drawn) - recall(lists, vectors)) < 0.05
    assert {4 * 20 * d for d in drawn} == {round(4 * 20 * d) for d in drawn}


def test_blocks_of_any_size_give_the_same(vectors, monkeypatch):
    indices = np.array(knn(vectors, 4).indices)
    indices[::3, 2] = -1
    lists = listed(indices)
    whole = recall(lists, vectors)
    monkeypatch.setattr(_recall, "_PRODUCT_ROWS", 7)
    assert recall(lists, vectors) == whole


def test_lists_longer_than_there_are_vectors_can_be_complete():
    vectors = np.eye(2, dtype=np.float32)
    lists = listed(np.array([[0, 1, -1], [1, 0, -1]]))
    assert recall(lists, vectors) == 1.0


def test_rejects_an_empty_sample(vectors):
    with pytest.raises(ValueError, match="sample must be at least 1, got 0"):
        recall(knn(vectors, 2), vectors, sample=0)


def test_rejects_lists_of_other_vectors(vectors):
    lists = knn(vectors, 2)
    with pytest.raises(ValueError, match="neighbors must have indices"):
        recall(lists, vectors[:-1])
