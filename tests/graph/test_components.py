import numpy as np
import pytest
import scipy.sparse

from diffjax.graph import _components, find_components, row_blocks


def compressed(matrix):
    """Columns and row starts of a symmetric matrix, its columns in order."""
    matrix = (matrix + matrix.T).tocsr()
    matrix.sort_indices()
    return matrix, matrix.indices.astype(np.int32), matrix.indptr.astype(np.int64)


@pytest.mark.parametrize("edges", [0, 40, 150, 1000])
@pytest.mark.parametrize("block", [16, 2**22])
def test_components_are_those_of_scipy(monkeypatch, edges, block):
    monkeypatch.setattr(_components, "_EDGES_PER_BLOCK", block)
    rng = np.random.default_rng(edges)
    ends = rng.integers(200, size=(2, edges))
    weights = rng.random(edges)
    matrix, columns, starts = compressed(
        scipy.sparse.coo_array((weights, tuple(ends)), shape=(200, 200))
    )
    degrees = np.asarray(matrix.sum(axis=1)).astype(np.float32)
    components = find_components(columns, starts, degrees)
    count, expected = scipy.sparse.csgraph.connected_components(matrix)
    # The same partition, numbered by the lowest node of each component.
    pairs = np.unique(np.stack([components.labels, expected]), axis=1)
    assert pairs.shape[1] == count == len(components.degree_sums)
    _, lowest = np.unique(components.labels, return_index=True)
    assert (np.diff(lowest) > 0).all()
    sums = np.bincount(components.labels, degrees)
    np.testing.assert_allclose(components.degree_sums, sums)
    for number in range(count):
        nodes = components.nodes_of(np.array([number]), limit=200)
        np.testing.assert_array_equal(
            nodes, np.flatnonzero(components.labels == number)
        )


def test_nodes_of_several_components_are_listed_up_to_a_limit():
    # 0 - 1, 2 alone, 3 - 4.
    components = find_components(
        np.array([1, 0, 4, 3], np.int32),
        np.array([0, 1, 2, 2, 3, 4]),
        np.ones(5, np.float32),
    )
    np.testing.assert_array_equal(components.labels, [0, 0, 1, 2, 2])
    np.testing.assert_array_equal(components.degree_sums, [2, 1, 2])
    both = np.array([0, 2])
    np.testing.assert_array_equal(components.nodes_of(both, limit=4), [0, 1, 3, 4])
    assert components.nodes_of(both, limit=3) is None
    none = components.nodes_of(np.zeros(0, int), limit=3)
    assert none is not None
    assert none.shape == (0,)


def test_a_long_path_is_one_component():
    n = 3000
    nodes = np.random.default_rng(0).permutation(n)
    path = scipy.sparse.coo_array(
        (np.ones(n - 1), (nodes[:-1], nodes[1:])), shape=(n, n)
    )
    _, columns, starts = compressed(path)
    components = find_components(columns, starts, np.ones(n, np.float32))
    assert components.labels.max() == 0
    np.testing.assert_allclose(components.degree_sums, [n])


def test_blocks_are_of_whole_rows(monkeypatch):
    monkeypatch.setattr(_components, "_EDGES_PER_BLOCK", 5)
    starts = np.array([0, 2, 2, 5, 20, 21, 21])
    blocks = list(row_blocks(starts))
    # A row larger than a block is a block of its own.
    assert blocks == [
        (slice(0, 5), 0, 3),
        (slice(5, 20), 3, 4),
        (slice(20, 21), 4, 6),
    ]
    assert list(row_blocks(np.array([0]))) == []
