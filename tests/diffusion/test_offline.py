import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from diffjax.diffusion import (
    OfflineRows,
    combine_offline_rows,
    diffuse,
    solve_offline_rows,
)
from diffjax.graph import affinity, compress, knn, normalize
from diffjax.types import Graph

LONG = {"alpha": 0.9, "rtol": 1e-13, "max_steps": 500}
# The same static arguments everywhere: tests share one compiled program.
solve_rows = functools.partial(solve_offline_rows, max_degree=20, **LONG)

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture(params=["compressed", pytest.param("padded", marks=pytest.mark.full)])
def graph(request, collection, x64) -> Graph:
    padded = affinity(knn(collection.vectors, 6))
    return normalize(padded if request.param == "padded" else compress(padded))


@pytest.fixture
def near(collection, x64):
    return knn(collection.vectors, 15).indices


def check_rows(rows, graph):
    """Compares some rows with dense solves on the nodes of each."""
    dense = graph.to_scipy().toarray()
    for node in range(0, graph.num_nodes, 7):
        is_node = np.asarray(rows.indices[node]) >= 0
        nodes = np.asarray(rows.indices[node])[is_node]
        expected = oracle.diffusion(dense[np.ix_(nodes, nodes)], nodes == node, 0.9)
        values = np.asarray(rows.values[node])
        np.testing.assert_allclose(values[is_node], expected, atol=1e-11)
        np.testing.assert_array_equal(values[~is_node], 0)


@pytest.mark.full
@pytest.mark.parametrize("graph", ["padded", "compressed"], indirect=True)
def test_rows_are_the_one_hot_solutions_on_their_nodes(graph, near):
    check_rows(solve_rows(graph, near), graph)


@pytest.mark.full
@pytest.mark.parametrize("graph", ["padded", "compressed"], indirect=True)
def test_rows_under_jit_are_the_one_hot_solutions_on_their_nodes(graph, near):
    check_rows(jax.jit(solve_rows)(graph, near), graph)


def test_a_traced_graph_needs_the_width_of_its_rows(graph, near):
    if graph.starts is not None:
        with pytest.raises(ValueError, match="max_degree must be given under jit"):
            jax.eval_shape(functools.partial(solve_offline_rows, **LONG), graph, near)
    shapes = jax.eval_shape(solve_rows, graph, near)
    assert shapes.values.shape == near.shape


def test_rows_on_all_nodes_give_the_whole_diffusion(graph):
    n = graph.num_nodes
    everything = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[None, :], (n, n))
    rows = solve_rows(graph, everything)
    y = jnp.asarray(np.random.default_rng(1).uniform(size=(n, 3)))
    np.testing.assert_allclose(
        combine_offline_rows(rows, y, k=n), diffuse(graph, y, **LONG).value, rtol=1e-9
    )


def test_a_node_that_its_row_leaves_out_replaces_the_last_entry(graph, near):
    n = graph.num_nodes
    others = (np.arange(n)[:, None] + np.arange(1, 1 + near.shape[1])) % n
    rows = solve_rows(graph, jnp.asarray(others, near.dtype))
    np.testing.assert_array_equal(rows.indices[:, -1], np.arange(n))
    assert (rows.values[:, -1] >= 1).all()


def test_combining_adds_the_rows_of_the_largest_entries(graph, near):
    rows = solve_rows(graph, near)
    n = graph.num_nodes
    y = np.zeros((n, 2))
    y[[3, 8, 20], 0] = 0.5, 2.0, 1.0
    y[5, 1] = 1.0
    expected = np.zeros((n, 2))
    for node, weight in ((8, 2.0), (20, 1.0)):
        expected[rows.indices[node], 0] += weight * np.asarray(rows.values[node])
    expected[rows.indices[5], 1] += np.asarray(rows.values[5])
    got = combine_offline_rows(rows, jnp.asarray(y), k=2)
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_padding_of_rows_adds_nothing(graph, near):
    n = graph.num_nodes
    rows = solve_rows(graph, near.at[:, 7:].set(-1))
    check_rows(rows, graph)
    got = np.asarray(combine_offline_rows(rows, jnp.eye(n)[:, :4], k=1))
    for node in range(4):
        expected = np.zeros(n)
        expected[rows.indices[node, :7]] = rows.values[node, :7]
        np.testing.assert_allclose(got[:, node], expected, atol=1e-12)


def test_rejects_bad_arguments(graph, near):
    with pytest.raises(ValueError, match="nodes must have one row per node"):
        solve_offline_rows(graph, near[1:])
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\), got 1.0"):
        solve_offline_rows(graph, near, alpha=1.0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        solve_offline_rows(graph, near, batch_size=0)
    n = graph.num_nodes
    rows = OfflineRows(near, jnp.zeros(near.shape), jnp.zeros(n))
    y = jnp.zeros((n, 1))
    with pytest.raises(ValueError, match="y must have one row per node"):
        combine_offline_rows(rows, y[1:], k=1)
    with pytest.raises(ValueError, match=r"k must be in 1\.\.\d+ \(n\), got 0"):
        combine_offline_rows(rows, y, k=0)
