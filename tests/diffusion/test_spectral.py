import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import scipy.sparse
from finite_differences import check_gradient

from diffjax.diffusion import (
    SpectralBasis,
    _spectral,
    diffuse,
    leading_eigenvectors,
    multiply,
    spectral_scores,
)
from diffjax.graph import affinity, compress, knn, normalize
from diffjax.types import Graph


@pytest.fixture(params=["compressed", pytest.param("padded", marks=pytest.mark.full)])
def graph(request, collection, x64) -> Graph:
    """S of a graph with isolated nodes and several components."""
    padded = affinity(knn(collection.vectors, 4))
    return normalize(padded if request.param == "padded" else compress(padded))


@pytest.fixture
def seeds(graph):
    draw = np.random.default_rng(3)
    nodes = np.stack([draw.permutation(graph.num_nodes)[:6] for _ in range(3)])
    values = draw.uniform(size=nodes.shape)
    nodes[1, 4:] = -1  # Padding, with values that must not count.
    return jnp.asarray(nodes), jnp.asarray(values)


def dense_of(graph, nodes, values):
    y = np.zeros((graph.num_nodes, len(nodes)))
    for column, (row_nodes, row_values) in enumerate(zip(nodes, values, strict=True)):
        for node, value in zip(row_nodes, row_values, strict=True):
            if node >= 0:
                y[node, column] += value
    return y


def truncated(graph, y, alpha, rank):
    """(I - alpha S)^-1 y with all but the leading eigenvalues replaced by 0."""
    values, vectors = np.linalg.eigh(graph.to_scipy().toarray())
    leading = np.where(np.arange(len(values)) >= len(values) - rank, values, 0)
    return vectors @ ((1 / (1 - alpha * leading))[:, None] * (vectors.T @ y))


@pytest.mark.parametrize(
    "rank", [5, 86, *(pytest.param(r, marks=pytest.mark.full) for r in (1, 12))]
)
def test_eigenvectors_are_those_of_the_dense_matrix(graph, rank):
    got = leading_eigenvectors(graph, rank, tol=1e-9, max_rounds=200)
    dense = graph.to_scipy().toarray()
    values = np.linalg.eigvalsh(dense)[::-1][:rank]
    np.testing.assert_allclose(got.values, values, atol=1e-12)
    inner = got.vectors.T @ got.vectors
    np.testing.assert_allclose(inner, np.eye(rank), atol=1e-12)
    error = dense @ np.asarray(got.vectors) - got.vectors * got.values[None, :]
    # Smaller residuals are rounding.
    np.testing.assert_allclose(
        got.residual, np.linalg.norm(error, axis=0), rtol=1e-4, atol=1e-14
    )
    assert (got.residual < 1e-9).all()


@pytest.mark.full
def test_every_component_has_its_eigenvalue_1(graph):
    matrix = graph.to_scipy()
    count, labels = scipy.sparse.csgraph.connected_components(matrix, directed=False)
    sizes = np.bincount(labels)
    linked = int((sizes > 1).sum())
    assert linked > 1
    assert count > linked, "the graph must also have nodes without edges"
    got = leading_eigenvectors(graph, linked + 1, tol=1e-6, max_rounds=100)
    np.testing.assert_allclose(got.values[:linked], 1, atol=1e-12)
    assert got.values[linked] < 1 - 1e-3
    roots = np.sqrt(np.asarray(graph.degrees))[:, None] * (
        labels[:, None] == np.flatnonzero(sizes > 1)
    )
    roots /= np.linalg.norm(roots, axis=0)
    leading = np.asarray(got.vectors[:, :linked])
    np.testing.assert_allclose(leading @ (leading.T @ roots), roots, atol=1e-6)
    # Fewer columns than components are eigenvectors as well.
    few = leading_eigenvectors(graph, linked - 1)
    np.testing.assert_allclose(few.values, 1, atol=1e-6)


def test_a_graph_without_edges_has_eigenvalues_of_0(x64):
    empty = Graph(jnp.full((7, 2), -1), jnp.zeros((7, 2)), degrees=jnp.zeros(7))
    got = leading_eigenvectors(empty, 3)
    np.testing.assert_array_equal(got.values, 0)
    np.testing.assert_array_equal(got.residual, 0)
    one = Graph(jnp.full((1, 1), -1), jnp.zeros((1, 1)), degrees=jnp.zeros(1))
    np.testing.assert_allclose(abs(leading_eigenvectors(one, 1).vectors), 1)


def test_rounds_end_at_the_tolerance_or_at_max_rounds(monkeypatch, graph):
    rounds = []
    once = _spectral._chebyshev_filter
    monkeypatch.setattr(
        _spectral, "_chebyshev_filter", lambda *a: (rounds.append(1), once(*a))[1]
    )
    loose = leading_eigenvectors(graph, 10, tol=1e-2)
    assert (loose.residual <= 1e-2).all()
    used = len(rounds)
    assert 0 < used < 30
    del rounds[:]
    tight = leading_eigenvectors(graph, 10, tol=1e-9, max_rounds=200)
    assert (tight.residual <= 1e-9).all()
    assert used < len(rounds) < 200
    del rounds[:]
    short = leading_eigenvectors(graph, 10, tol=1e-9, max_rounds=1)
    assert len(rounds) == 1
    assert short.residual.max() > 1e-9
    del rounds[:]
    # A complete basis needs no round.
    leading_eigenvectors(graph, graph.num_nodes, tol=1e-9)
    assert not rounds


def test_the_filter_is_a_polynomial_of_s_that_is_1_at_1(graph):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(graph.num_nodes, 4)))
    values, vectors = np.linalg.eigh(graph.to_scipy().toarray())
    t = np.polynomial.chebyshev.Chebyshev.basis(20)
    gain = t((values + 0.2) / 0.8) / t(1.2 / 0.8)  # [-1, 0.6] becomes [-1, 1].
    got = _spectral._chebyshev_filter(graph, x, jnp.asarray(0.6))
    expected = vectors @ (gain[:, None] * (vectors.T @ x))
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_single_precision_and_the_same_seed(collection):
    graph = normalize(compress(affinity(knn(collection.vectors.astype("f4"), 5))))
    got = leading_eigenvectors(graph, 8)
    assert got.vectors.dtype == jnp.float32
    values = np.linalg.eigvalsh(graph.to_scipy().toarray().astype(float))[::-1][:8]
    # Symmetric: an error of the vectors counts squared.
    np.testing.assert_allclose(got.values, values, atol=1e-5)
    assert got.values.max() <= 1
    again = leading_eigenvectors(graph, 8)
    np.testing.assert_array_equal(got.vectors, again.vectors)


@pytest.mark.parametrize(
    # 13 components, a gap after the 18th eigenvalue, and all of them.
    ("rank", "alpha"),
    [
        (13, 0.99),
        (86, 0.99),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in [(13, 0.0), (18, 0.5), (18, 0.99)]
        ),
    ],
)
def test_scores_are_those_of_the_truncated_spectrum(graph, seeds, rank, alpha):
    basis = leading_eigenvectors(graph, rank, tol=1e-10, max_rounds=300)
    run = functools.partial(spectral_scores, alpha=alpha)
    got = run(basis, *seeds)
    np.testing.assert_allclose(jax.jit(run)(basis, *seeds), got, rtol=1e-12, atol=1e-12)
    y = dense_of(graph, *seeds)
    if rank == graph.num_nodes:
        expected = oracle.diffusion(graph.to_scipy().toarray(), y, alpha)
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(got, truncated(graph, y, alpha, rank), atol=1e-9)


@pytest.mark.parametrize(
    ("rank", "alpha"),
    [
        (20, 0.99),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in [(3, 0.5), (60, 0.99)]
        ),
    ],
)
def test_errors_are_within_the_bound_and_smaller_than_without_y(graph, rank, alpha):
    y = np.random.default_rng(0).normal(size=(graph.num_nodes, 20))
    nodes = jnp.broadcast_to(jnp.arange(graph.num_nodes), (20, graph.num_nodes))
    basis = leading_eigenvectors(graph, rank, tol=1e-10, max_rounds=300)
    exact = oracle.diffusion(graph.to_scipy().toarray(), y, alpha)
    got = spectral_scores(basis, nodes, jnp.asarray(y.T), alpha=alpha)
    last = alpha * float(basis.values[-1])
    bound = max(last / (1 - last), alpha / (1 + alpha))
    error = np.linalg.norm(got - exact, axis=0)
    assert (error <= bound * np.linalg.norm(y, axis=0)).all()
    vectors = np.asarray(basis.vectors)
    gain = 1 / (1 - alpha * np.asarray(basis.values))
    without = vectors @ (gain[:, None] * (vectors.T @ y))
    assert (error < np.linalg.norm(without - exact, axis=0)).all()


@pytest.mark.full
def test_diffuse_with_0_steps_has_the_same_scores_and_their_residual(graph, seeds):
    basis = leading_eigenvectors(graph, 9)
    y = jnp.asarray(dense_of(graph, *seeds))
    for solver in ("cg", "chebyshev", "iterate", "unnormalized-jacobi"):
        got = diffuse(graph, y, basis=basis, max_steps=0, solver=solver)
        np.testing.assert_allclose(
            got.value, spectral_scores(basis, *seeds), rtol=1e-12, atol=1e-14
        )
        error = y - (got.value - 0.99 * multiply(graph, got.value))
        true = jnp.linalg.norm(error, axis=0) / jnp.linalg.norm(y, axis=0)
        np.testing.assert_allclose(got.residual, true, rtol=1e-10)
        assert not got.num_steps.any()
        assert not got.converged.any()


@pytest.mark.full
def test_scores_of_no_query_of_an_empty_query_and_of_a_repeated_node(graph):
    basis = leading_eigenvectors(graph, 4)
    none = spectral_scores(basis, jnp.zeros((0, 3), int), jnp.zeros((0, 3)))
    assert none.shape == (graph.num_nodes, 0)
    empty = spectral_scores(basis, jnp.full((2, 3), -1), jnp.ones((2, 3)))
    np.testing.assert_array_equal(empty, 0)
    twice = spectral_scores(basis, jnp.array([[5, 5]]), jnp.array([[1.0, 2.0]]))
    once = spectral_scores(basis, jnp.array([[5]]), jnp.array([[3.0]]))
    np.testing.assert_allclose(twice, once, rtol=1e-12)


def test_derivatives_of_the_scores_match_finite_differences(graph, seeds):
    basis = leading_eigenvectors(graph, 9)
    nodes, values = seeds

    def scores(alpha, values):
        return spectral_scores(basis, nodes, jnp.asarray(values), alpha=alpha)

    check_gradient(scores, (jnp.asarray(0.8), values), order=2, tolerance=1e-5)


def test_vmap_of_queries_is_a_loop(graph, seeds):
    basis = leading_eigenvectors(graph, 9)
    together = spectral_scores(basis, *seeds)
    batch = jax.vmap(lambda n, v: spectral_scores(basis, n[None], v[None])[:, 0])(
        *seeds
    )
    np.testing.assert_allclose(batch.T, together, rtol=1e-12)


@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_refused(graph):
    for rank in (0, graph.num_nodes + 1):
        with pytest.raises(
            ValueError, match=rf"rank must be in 1\.\.86 \(n\), got {rank}"
        ):
            leading_eigenvectors(graph, rank)
    with pytest.raises(ValueError, match=r"tol must be in \(0, 1\), got 0"):
        leading_eigenvectors(graph, 3, tol=0)
    with pytest.raises(ValueError, match="max_rounds must be at least 1, got 0"):
        leading_eigenvectors(graph, 3, max_rounds=0)
    with pytest.raises(ValueError, match="graph must be normalised, got one without"):
        leading_eigenvectors(graph._replace(degrees=None), 3)
    with pytest.raises(ValueError, match="graph must be concrete, got a traced one"):
        jax.jit(lambda g: leading_eigenvectors(g, 3))(graph)
    basis = SpectralBasis(jnp.ones(1), jnp.ones((86, 1)), jnp.zeros(1))
    with pytest.raises(ValueError, match=r"nodes and values must be .* \[1, 2\] and"):
        spectral_scores(basis, jnp.ones((1, 2), int), jnp.ones((1, 3)))
    with pytest.raises(ValueError, match=r"nodes must be in -1\.\.85, got 86\.\.86"):
        spectral_scores(basis, jnp.full((1, 1), 86), jnp.ones((1, 1)))
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\), got 1"):
        spectral_scores(basis, jnp.ones((1, 1), int), jnp.ones((1, 1)), alpha=1.0)
