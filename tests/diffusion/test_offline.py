import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from diffjax.diffusion import combine_offline_rows, diffuse, solve_offline_rows
from diffjax.graph import affinity, compress, knn, normalize
from diffjax.types import Graph

LONG = {"alpha": 0.9, "rtol": 1e-13, "max_steps": 500}

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture(params=["padded", "compressed"])
def graph(request, collection, x64) -> Graph:
    padded = affinity(knn(collection.vectors, 6))
    return normalize(padded if request.param == "padded" else compress(padded))


@pytest.fixture
def near(collection, x64):
    return knn(collection.vectors, 15).indices


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_each_row_is_the_one_hot_solution_on_its_part(graph, near, transform):
    run = functools.partial(solve_offline_rows, max_degree=20, **LONG)
    rows = transform(run)(graph, near)
    dense = graph.to_scipy().toarray()
    for node in range(0, graph.num_nodes, 7):
        part = np.asarray(rows.indices[node])
        expected = oracle.diffusion(dense[np.ix_(part, part)], part == node, 0.9)
        np.testing.assert_allclose(rows.values[node], expected, atol=1e-11)


def test_rows_on_all_nodes_give_the_whole_diffusion(graph):
    n = graph.num_nodes
    everything = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[None, :], (n, n))
    rows = solve_offline_rows(graph, everything, **LONG)
    y = jnp.asarray(np.random.default_rng(1).uniform(size=(n, 3)))
    np.testing.assert_allclose(
        combine_offline_rows(rows, y, k=n), diffuse(graph, y, **LONG).value, rtol=1e-9
    )


def test_a_node_that_its_row_leaves_out_takes_the_last_place(graph):
    n = graph.num_nodes
    others = (np.arange(n)[:, None] + np.arange(1, 4)) % n
    rows = solve_offline_rows(graph, jnp.asarray(others, jnp.int32), **LONG)
    np.testing.assert_array_equal(rows.indices[:, -1], np.arange(n))
    assert (rows.values[:, -1] >= 1).all()


def test_combining_adds_the_rows_of_the_largest_entries(graph, near):
    rows = solve_offline_rows(graph, near, **LONG)
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


def test_empty_places_add_nothing(graph, near):
    holes = np.asarray(near).copy()
    holes[:, 7:] = -1
    rows = solve_offline_rows(graph, jnp.asarray(holes), **LONG)
    short = solve_offline_rows(graph, near[:, :7], **LONG)
    y = jnp.eye(graph.num_nodes)[:, :4]
    np.testing.assert_allclose(
        combine_offline_rows(rows, y, k=1),
        combine_offline_rows(short, y, k=1),
        atol=1e-12,
    )


def test_rejects_bad_arguments(graph, near):
    with pytest.raises(ValueError, match="nodes must have one row per node"):
        solve_offline_rows(graph, near[1:])
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\), got 1.0"):
        solve_offline_rows(graph, near, alpha=1.0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        solve_offline_rows(graph, near, batch_size=0)
    rows = solve_offline_rows(graph, near)
    y = jnp.zeros((graph.num_nodes, 1))
    with pytest.raises(ValueError, match="y must have one row per node"):
        combine_offline_rows(rows, y[1:], k=1)
    with pytest.raises(ValueError, match=r"k must be in 1\.\.\d+ \(n\), got 0"):
        combine_offline_rows(rows, y, k=0)
