"""Sparse right-hand sides by nodes and values, and checks of graphs and settings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.diffusion import (
    densify,
    diffuse,
    diffuse_local,
    leading_eigenvectors,
    spectral_scores,
)
from diffjax.graph import affinity, compress, knn, normalize
from diffjax.types import Graph

NODES = np.array([[3, 5, 7, -1], [10, 10, 2, 4]], np.int32)
VALUES = np.array([[1, 0.5, 0.2, 0], [0.3, 0.2, 0.1, 0.7]], np.float32)


@pytest.fixture
def graph(collection) -> Graph:
    vectors = collection.vectors.astype(np.float32)
    return compress(normalize(affinity(knn(vectors, 8))))


@pytest.fixture
def basis(graph):
    return leading_eigenvectors(graph, 10)


local = functools.partial(diffuse_local, size=16, max_degree=8)


def test_constants_of_a_compiled_function_are_checked(graph, basis):
    nodes, values = jnp.asarray(NODES), jnp.asarray(VALUES)

    def both(nodes, values):
        return local(graph, nodes, values).values, spectral_scores(basis, nodes, values)

    closed_over = jax.jit(lambda: both(nodes, values))()
    for got, expected in zip(closed_over, both(nodes, values), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    for score in (
        lambda nodes: local(graph, nodes, values),
        lambda nodes: spectral_scores(basis, nodes, values),
    ):
        with pytest.raises(ValueError, match=r"nodes must be in -1\.\.85, got 79"):
            jax.jit(functools.partial(score, jnp.asarray(NODES + 80)))()
    negative = -values
    with pytest.raises(ValueError, match="values must be at least 0"):
        jax.jit(lambda: local(graph, nodes, negative))()


def test_traced_nodes_outside_the_graph_are_ignored(graph, basis):
    n = graph.num_nodes
    outside = np.where(NODES < 0, n, NODES).astype(np.int32)
    score = jax.jit(lambda nodes, values: spectral_scores(basis, nodes, values))
    values = np.where(NODES < 0, 7, VALUES).astype(np.float32)
    np.testing.assert_array_equal(score(outside, values), score(NODES, VALUES))


def test_rows_wider_than_max_degree_give_nan_and_no_wrong_score(graph):
    widest = int(np.diff(np.asarray(graph.starts)).max())
    solve = jax.jit(local, static_argnames="max_degree")
    good = solve(graph, NODES, VALUES, max_degree=widest)
    assert np.isfinite(good.values).all()
    bad = solve(graph, NODES, VALUES, max_degree=widest - 1)
    degrees = np.diff(np.asarray(graph.starts))[np.maximum(good.nodes, 0)]
    hit = ((degrees == widest) & (np.asarray(good.nodes) >= 0)).any(axis=1)
    assert hit.any()
    for name in ("values", "background", "unreached_mass", "residual"):
        got = np.asarray(getattr(bad, name)).reshape(2, -1)
        np.testing.assert_array_equal(np.isnan(got).all(axis=1), hit, name)
        np.testing.assert_array_equal(np.isnan(got).any(axis=1), hit, name)
    assert not np.asarray(bad.converged)[hit].any()
    scores = np.asarray(densify(bad, graph))
    connected = np.asarray(densify(good, graph)) > 0
    assert np.isnan(scores[:, hit][connected[:, hit]]).all()


@pytest.mark.full
def test_sizes_beyond_n_reach_all_nodes(graph):
    got = diffuse_local(graph, NODES, VALUES, size=10**10, max_steps=60)
    assert got.nodes.shape == (2, graph.num_nodes)
    # A query may have more columns than the graph has nodes.
    nodes = np.full((1, 2 * graph.num_nodes), -1, np.int32)
    nodes[0, 5] = 3
    values = (nodes >= 0).astype(np.float32)
    got = diffuse_local(graph, nodes, values, size=nodes.size)
    assert got.nodes.shape == nodes.shape
    assert got.nodes[0, 0] == 3


@pytest.mark.usefixtures("unchecked")
def test_densify_refuses_a_graph_that_is_not_normalised(graph):
    got = local(graph, NODES, VALUES)
    with pytest.raises(ValueError, match="graph must be normalised"):
        densify(got, graph._replace(degrees=None))


@pytest.mark.usefixtures("unchecked")
def test_known_degree_sums_are_used_and_checked(graph):
    got = local(graph, NODES, VALUES)
    # The components of the queries are the nodes with a score.
    root = np.sqrt(np.asarray(graph.degrees))
    exact = np.zeros((graph.num_nodes, 2), np.float32)
    np.add.at(exact, (np.maximum(NODES, 0).T, np.arange(2)[None]), VALUES.T)
    y = jnp.asarray(exact)
    scores = np.asarray(diffuse(graph, y, alpha=0.5, max_steps=500, rtol=0).value)
    degree_sums = ((scores > 0) * (root**2)[:, None]).sum(axis=0)
    known = jax.jit(local)(graph, NODES, VALUES, degree_sums=degree_sums)
    for name in ("nodes", "values", "background", "unreached_mass"):
        np.testing.assert_allclose(
            getattr(known, name), getattr(got, name), rtol=1e-4, atol=1e-6
        )
    with pytest.raises(
        ValueError, match=r"degree_sums must have one entry per query, 2, got \[1\]"
    ):
        local(graph, NODES, VALUES, degree_sums=degree_sums[:1])
    for bad in (-degree_sums, degree_sums * np.nan):
        with pytest.raises(
            ValueError, match="degree_sums must be finite and at least 0"
        ):
            local(graph, NODES, VALUES, degree_sums=bad)
    # Without them all degrees are summed.
    summed = f"(tensor<{graph.num_nodes}xf32>, tensor<f32>) -> tensor<f32>"
    lowered = jax.jit(local).lower
    assert summed in lowered(graph, NODES, VALUES).as_text()
    assert (
        summed not in lowered(graph, NODES, VALUES, degree_sums=degree_sums).as_text()
    )


def test_a_graph_with_replaced_arrays_is_checked_again(graph):
    got = local(graph, NODES, VALUES)
    ones = graph._replace(degrees=jnp.ones_like(graph.degrees))
    with pytest.raises(ValueError, match="whole as normalize returns it"):
        local(ones, NODES, VALUES)
    for indices, complaint in (
        (jnp.roll(graph.indices, 1), "symmetric"),
        (graph.indices + 80, r"indices in 0\.\.85"),
    ):
        with pytest.raises(ValueError, match=complaint):
            local(graph._replace(indices=indices), NODES, VALUES)
    again = local(graph, NODES, VALUES)
    np.testing.assert_array_equal(again.values, got.values)
