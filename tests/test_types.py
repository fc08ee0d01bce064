from typing import Any, get_type_hints

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.sparse

from diffjax.diffusion import diffuse, query_vectors
from diffjax.graph import affinity, compress, knn, normalize
from diffjax.pooling import pool
from diffjax.ranking import rank
from diffjax.types import Graph, Neighbors, SearchResult, row_starts


@pytest.fixture
def vectors(collection):
    return jnp.asarray(collection.vectors.astype(np.float32))


@pytest.fixture
def neighbors(vectors):
    return knn(vectors, 6)


@pytest.fixture
def graph(neighbors):
    return normalize(affinity(neighbors))


@pytest.fixture
def solution(vectors, graph, collection):
    queries = jnp.asarray(collection.queries.astype(np.float32))
    return diffuse(graph, query_vectors(vectors, queries, collection.query_ids, k=6))


@pytest.fixture
def result(solution, collection):
    scores = pool(solution.value, collection.image_ids)
    images = rank(scores)[:7]
    best = jnp.take_along_axis(scores, images, axis=0)
    return SearchResult(images.T, best.T, solution, images.T)


def misfits(value):
    """Fields whose values do not match their annotations.

    The type checker of the test run takes a NamedTuple for a tuple; this checks its
    fields. Letters stand for one size throughout, as in the signature of a function.
    """
    with jaxtyping.jaxtyped("context"):
        return _misfits(value)


def _misfits(value):
    hints = get_type_hints(type(value))
    # From the last, since `n+1` of `starts` needs the n of `degrees`.
    return [
        f"{type(value).__name__}.{name}"
        for name, field in reversed(value._asdict().items())
        if hints[name] is not Any and not isinstance(field, hints[name])
    ] + [got for field in value if hasattr(field, "_fields") for got in _misfits(field)]


def assert_round_trip(value):
    leaves, structure = jax.tree.flatten(value)
    back = jax.tree.unflatten(structure, leaves)
    assert type(back) is type(value)
    assert jax.tree.structure(back) == structure
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    jax.tree.map(np.testing.assert_array_equal, value, back)
    jax.tree.map(
        np.testing.assert_array_equal, value, jax.jit(lambda tree: tree)(value)
    )


def test_neighbors_have_the_annotated_shapes(neighbors):
    assert misfits(neighbors) == []
    shorter = neighbors._replace(similarities=neighbors.similarities[:, 1:])
    assert misfits(shorter) == ["Neighbors.indices"]
    assert misfits(Neighbors(*reversed(neighbors)))
    assert_round_trip(neighbors)


def test_a_padded_graph_has_the_annotated_shapes(graph):
    assert misfits(graph) == []
    assert misfits(graph._replace(degrees=None)) == []
    assert misfits(graph._replace(weights=graph.weights[:, 1:])) == ["Graph.indices"]
    assert misfits(graph._replace(degrees=graph.degrees[1:]))
    assert_round_trip(graph)
    assert_round_trip(graph._replace(degrees=None))


def test_a_compressed_graph_has_the_annotated_shapes(graph):
    compressed = compress(graph)
    assert misfits(compressed) == []
    starts = jnp.asarray(compressed.starts)[1:]
    assert misfits(compressed._replace(starts=starts)) == ["Graph.starts"]
    weights = compressed.weights[1:]
    assert misfits(compressed._replace(weights=weights)) == ["Graph.indices"]
    assert_round_trip(compressed)


def test_a_solution_has_the_annotated_shapes(solution):
    assert misfits(solution) == []
    swapped = solution._replace(converged=solution.residual)
    assert misfits(swapped) == ["Solution.converged"]
    assert misfits(solution._replace(value=solution.value[:, 1:]))
    assert_round_trip(solution)


def test_a_search_result_has_the_annotated_shapes(result):
    assert misfits(result) == []
    assert result.images.shape == (5, 7)
    other = result.solution._replace(residual=result.solution.residual[1:])
    assert misfits(result._replace(solution=other))
    assert misfits(result._replace(scores=result.scores[:, 1:])) == [
        "SearchResult.scores"
    ]
    assert_round_trip(result)


@pytest.mark.parametrize("form", [lambda g: g, compress], ids=["padded", "compressed"])
def test_a_graph_is_an_argument_of_compiled_code(graph, form):
    graph = form(graph)
    traces = []

    @jax.jit
    def row_sums(graph):
        traces.append(graph.num_nodes)
        return jnp.zeros(graph.num_nodes).at[graph.rows].add(graph.weights)

    dense = graph.to_scipy().toarray()
    np.testing.assert_allclose(row_sums(graph), dense.sum(1), rtol=1e-5)
    # Other weights of the same shape: weights are not constants of the program.
    doubled = graph._replace(weights=2 * graph.weights)
    np.testing.assert_allclose(row_sums(doubled), 2 * dense.sum(1), rtol=1e-5)
    assert traces == [len(dense)]


def test_padded_compressed_and_raw_graphs_have_different_structures(graph):
    forms = [graph, graph._replace(degrees=None), compress(graph)]
    assert len({jax.tree.structure(form) for form in forms}) == 3


def test_many_padded_graphs_of_one_shape_are_a_batch(neighbors):
    def scaled_affinity(scale):
        return affinity(neighbors._replace(similarities=scale * neighbors.similarities))

    batch = jax.vmap(lambda x: normalize(scaled_affinity(x)))(jnp.array([1.0, 0.5]))
    for i, scale in enumerate([1.0, 0.5]):
        alone = normalize(scaled_affinity(scale))
        one = jax.tree.map(lambda leaf, i=i: leaf[i], batch)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5), one, alone)


def test_a_graph_without_nodes_is_a_graph():
    padded = Graph(jnp.zeros((0, 3), jnp.int32), jnp.zeros((0, 3)))
    compressed = compress(padded)
    for graph in padded, compressed:
        assert graph.num_nodes == 0
        assert graph.to_scipy().shape == (0, 0)
        assert graph.rows.shape == graph.indices.shape


def test_from_scipy_does_not_modify_the_matrix():
    # Entries of weight 0 and repeated ones are merged in a copy.
    rows, columns = [0, 1, 0, 1, 0, 2], [1, 0, 1, 0, 2, 0]
    weights = np.array([1, 1, 2, 2, 0, 0], np.float32)
    starts = np.array([0, 3, 5, 6])
    order = np.argsort(rows, kind="stable")
    matrix = scipy.sparse.csr_array(
        (weights[order], np.array(columns)[order], starts), shape=(3, 3)
    )
    before = matrix.data.copy(), matrix.indices.copy(), matrix.indptr.copy()
    graph = Graph.from_scipy(matrix)
    np.testing.assert_array_equal(graph.weights, [3, 3])
    for old, new in zip(
        before, (matrix.data, matrix.indices, matrix.indptr), strict=True
    ):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("dtype", "complaint"),
    [
        (np.int64, "floating point, got int64"),
        (np.float64, "float32 here, got float64"),
    ],
)
def test_a_scipy_matrix_of_another_precision_is_refused(dtype, complaint):
    matrix = scipy.sparse.csr_array(np.array([[0, 1], [1, 0]], dtype))
    with pytest.raises(ValueError, match=f"matrix must be .*{complaint}"):
        Graph.from_scipy(matrix)


@pytest.mark.usefixtures("x64")
def test_a_scipy_matrix_keeps_double_precision_where_jax_does():
    third = np.array([[0, 1 / 3], [1 / 3, 0]])
    graph = Graph.from_scipy(scipy.sparse.csr_array(third))
    np.testing.assert_array_equal(graph.weights, [1 / 3, 1 / 3])


def test_row_starts_have_the_narrowest_type_that_fits(x64):
    assert row_starts(np.array([0, 2, 2**31 - 1])).dtype == jnp.int32
    wide = row_starts(np.array([0, 2, 2**31]))
    assert wide.dtype == jnp.int64
    np.testing.assert_array_equal(wide, [0, 2, 2**31])


def test_row_starts_that_would_be_halved_are_refused():
    with pytest.raises(
        ValueError, match=r"fewer than 2\^31 stored edges here, got 214"
    ):
        row_starts(np.array([0, 2**31]))
