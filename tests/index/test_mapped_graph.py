import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from diffjax.graph import affinity, compress, knn, mutual_rows, normalize
from diffjax.index import _mapped_graph
from diffjax.index._mapped_files import map_array
from diffjax.index._mapped_graph import GraphFiles, build_graph, components
from diffjax.types import Neighbors


def lists(n=120, k=9):
    """Lists of vectors in tight clusters, some slots of them empty."""
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(14, 6))[rng.integers(14, size=n)]
    vectors = (vectors + 0.5 * rng.normal(size=(n, 6))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = knn(vectors, k)
    indices = np.array(found.indices)
    similarities = np.array(found.similarities)
    empty = rng.random(indices.shape) < 0.1
    indices[empty], similarities[empty] = -1, 0
    # The two directions of a pair may differ by rounding.
    similarities *= 1 + rng.choice([0, 1e-7], size=similarities.shape).astype(
        np.float32
    )
    return indices, similarities


def built(folder, indices, similarities, **settings):
    files = GraphFiles(*(folder / f"{name}.npy" for name in GraphFiles._fields))
    build_graph(indices, similarities, files, progress=lambda *_: None, **settings)
    return {name: map_array(path) for name, path in files._asdict().items()}


@pytest.mark.parametrize(("gamma", "bias"), [(3.0, 0.0), (1.5, 0.4), (3.0, -0.2)])
@pytest.mark.parametrize("rows", [7, 1000])
def test_is_the_graph_of_the_library(tmp_path, monkeypatch, gamma, bias, rows):
    monkeypatch.setattr(_mapped_graph, "EDGE_ROWS", rows)
    monkeypatch.setattr(_mapped_graph, "_EDGES", 3 * rows)
    indices, similarities = lists()
    got = built(tmp_path, indices, similarities, gamma=gamma, bias=bias)
    given = Neighbors(jnp.asarray(indices), jnp.asarray(similarities))
    expected = normalize(compress(affinity(given, gamma=gamma, bias=bias)))
    np.testing.assert_array_equal(got["columns"], expected.indices)
    np.testing.assert_array_equal(got["bounds"], expected.starts)
    np.testing.assert_allclose(got["edges"], expected.weights, rtol=2e-6)
    assert expected.degrees is not None
    np.testing.assert_allclose(got["degrees"], expected.degrees, rtol=2e-6)
    shape = (len(indices),) * 2
    matrix = scipy.sparse.csr_array(
        tuple(got[name] for name in ("edges", "columns", "bounds")), shape=shape
    )
    assert (matrix != matrix.T).nnz == 0
    assert not list(tmp_path.glob("*.affinity*"))


def test_mutual_rows_by_hand():
    # 0 and 1 list each other; 2 lists 1, which does not list it; 3 lists nobody.
    indices = np.array([[0, 1], [1, 0], [2, 1], [3, -1]], np.int32)
    similarities = np.array([[1, 0.5], [1, 0.25], [1, 0.75], [1, 0]], np.float32)
    found = mutual_rows(indices, similarities, 0, 4)
    np.testing.assert_array_equal(found.counts, [1, 1, 0, 0])
    np.testing.assert_array_equal(found.columns, [1, 0])
    np.testing.assert_array_equal(found.similarities, [0.25, 0.25])


@pytest.mark.parametrize("edges", [0, 40, 150, 1000])
@pytest.mark.parametrize("block", [16, 2**22])
def test_components_are_those_of_scipy(monkeypatch, edges, block):
    monkeypatch.setattr(_mapped_graph, "_EDGES", block)
    rng = np.random.default_rng(edges)
    ends = rng.integers(200, size=(2, edges))
    weights = rng.random(edges)
    matrix = scipy.sparse.coo_array((weights, tuple(ends)), shape=(200, 200)).tocsr()
    matrix = (matrix + matrix.T).tocsr()
    matrix.sort_indices()
    degrees = np.asarray(matrix.sum(axis=1)).astype(np.float32)
    bounds = matrix.indptr.astype(np.int64)
    labels, totals = components(matrix.indices.astype(np.int32), bounds, degrees)
    count, expected = scipy.sparse.csgraph.connected_components(matrix)
    assert len(totals) == count
    # The same partition, whatever the parts are called.
    pairs = np.unique(np.stack([labels, expected]), axis=1)
    assert pairs.shape[1] == count
    np.testing.assert_allclose(totals, np.bincount(labels, degrees))


def test_a_long_path_is_one_component():
    n = 3000
    places = np.random.default_rng(0).permutation(n)
    path = scipy.sparse.coo_array(
        (np.ones(n - 1), (places[:-1], places[1:])), shape=(n, n)
    ).tocsr()
    path = (path + path.T).tocsr()
    labels, totals = components(
        path.indices.astype(np.int32),
        path.indptr.astype(np.int64),
        np.ones(n, np.float32),
    )
    assert labels.max() == 0
    np.testing.assert_allclose(totals, [n])


def test_too_many_edges_are_refused_while_they_are_found(tmp_path, monkeypatch):
    counted = []

    def check(edges):
        counted.append(edges)
        if edges > 50:
            raise ValueError("too many")

    monkeypatch.setattr(_mapped_graph, "EDGE_ROWS", 20)
    monkeypatch.setattr(_mapped_graph, "check_countable", check)
    with pytest.raises(ValueError, match="too many"):
        built(tmp_path, *lists(), gamma=3.0, bias=0.0)
    assert counted == sorted(counted)
    assert len(counted) < 6  # Of as many blocks.
    assert not list(tmp_path.glob("*.npy"))
