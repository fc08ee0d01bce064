"""Properties of the diffusion on random graphs."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.diffusion import diffuse
from diffjax.graph import affinity, knn, normalize, truncate
from diffjax.pooling import gmp_weights, pool
from diffjax.types import Graph

N = 14
LONG = {"rtol": 1e-7, "max_steps": 400}

drawn = settings(deadline=None, max_examples=8)
seeds = st.integers(0, 10_000)
alphas = st.sampled_from([0.0, 0.3, 0.9, 0.99])


def draw_matrix(rng) -> scipy.sparse.csr_array:
    """A sparse affinity with isolated nodes and several components."""
    dense = rng.uniform(size=(N, N)) * (rng.random((N, N)) < 0.15)
    dense = np.triu(dense, 1).astype(np.float32)
    return scipy.sparse.csr_array(dense + dense.T)


def make_graph(matrix) -> Graph:
    """S in the padded form, whose one shape is compiled once."""
    dense = matrix.toarray()
    columns = np.broadcast_to(np.arange(len(dense), dtype=np.int32), dense.shape)
    indices = jnp.asarray(np.where(dense > 0, columns, -1))
    return normalize(Graph(indices, jnp.asarray(dense)))


def draw(seed) -> tuple[Graph, np.ndarray]:
    """A normalised graph and two right-hand sides, zeros among them."""
    rng = np.random.default_rng(seed)
    graph = make_graph(draw_matrix(rng))
    y = rng.uniform(size=(N, 2)) * (rng.random((N, 2)) < 0.4)
    return graph, y.astype(np.float32)


def solve(graph, y, alpha):
    return np.asarray(diffuse(graph, jnp.asarray(y), alpha=alpha, **LONG).value)


@drawn
@given(seed=seeds, alpha=alphas)
def test_scores_of_a_non_negative_query_are_not_negative(seed, alpha):
    graph, y = draw(seed)
    f = solve(graph, y, alpha)
    # (I - alpha S)^-1 is the sum of powers of alpha S, which has no negative entry.
    assert (f >= -1e-5 * f.max(initial=0)).all()
    assert (f - y >= -1e-5 * f.max(initial=0)).all()


@drawn
@given(seed=seeds)
def test_permuting_the_nodes_permutes_the_scores(seed):
    rng = np.random.default_rng(seed)
    matrix, order = draw_matrix(rng), rng.permutation(N)
    y = rng.uniform(size=(N, 2)).astype(np.float32)
    f = solve(make_graph(matrix), y, 0.9)
    moved = make_graph(matrix[order][:, order])
    np.testing.assert_allclose(solve(moved, y[order], 0.9), f[order], rtol=1e-4)


@drawn
@given(seed=seeds, alpha=alphas)
def test_a_component_without_query_nodes_has_scores_of_0(seed, alpha):
    graph, y = draw(seed)
    _, labels = scipy.sparse.csgraph.connected_components(graph.to_scipy())
    f = solve(graph, y, alpha)
    for column in range(2):
        untouched = ~np.isin(labels, labels[y[:, column] > 0])
        np.testing.assert_array_equal(f[untouched, column], 0)


@drawn
@given(seed=seeds, scale=st.sampled_from([1e-12, 0.5, 3.0, 1e12]))
def test_scaling_the_query_scales_the_scores(seed, scale):
    graph, y = draw(seed)
    scaled = solve(graph, np.float32(scale) * y, 0.9) / np.float32(scale)
    np.testing.assert_allclose(scaled, solve(graph, y, 0.9), rtol=1e-5, atol=1e-30)


@drawn
@given(seed=seeds)
def test_with_alpha_0_scores_are_the_query(seed):
    graph, y = draw(seed)
    np.testing.assert_allclose(solve(graph, y, 0.0), y, rtol=1e-6)
    near = solve(graph, y, 1e-4)
    assert np.abs(near - y).max() <= 2e-4 * max(y.max(), 1e-6) * np.sqrt(N)


@drawn
@given(first=seeds, second=seeds)
def test_disjoint_graphs_are_solved_independently(first, second):
    matrices = [draw_matrix(np.random.default_rng(s)) for s in (first, second)]
    both = scipy.sparse.csr_array(scipy.sparse.block_diag(matrices))
    y = np.random.default_rng(first).uniform(size=(2 * N, 2)).astype(np.float32)
    f = solve(make_graph(both), y, 0.9)
    for i, matrix in enumerate(matrices):
        rows = slice(i * N, (i + 1) * N)
        alone = solve(make_graph(matrix), y[rows], 0.9)
        np.testing.assert_allclose(f[rows], alone, rtol=1e-4)


@drawn
@given(seed=seeds, alpha=st.sampled_from([0.3, 0.9]))
def test_scores_minimise_the_functional_of_smoothness_and_fit(seed, alpha):
    # alpha f'(I - S)f + (1 - alpha)|f - y|^2 is least at (1 - alpha) times our f.
    graph, y = draw(seed)
    s = graph.to_scipy().toarray().astype(np.float64)
    query = y[:, 0].astype(np.float64)

    def cost(f):
        misfit = f - query
        return alpha * f @ (f - s @ f) + (1 - alpha) * misfit @ misfit

    f = (1 - alpha) * solve(graph, y, alpha)[:, 0].astype(np.float64)
    rng = np.random.default_rng(seed)
    for size in (1e-1, 1e-2):
        for _ in range(5):
            moved = f + size * rng.normal(size=N)
            assert cost(moved) > cost(f)


@drawn
@given(seed=seeds)
def test_the_spectral_radius_of_s_is_at_most_one(seed):
    graph, _ = draw(seed)
    values = np.linalg.eigvalsh(graph.to_scipy().toarray().astype(np.float64))
    assert np.abs(values).max(initial=0) <= 1 + 1e-6


@pytest.mark.full
@drawn
@given(seed=seeds)
def test_truncation_to_everything_changes_no_score(seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(N, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    a = affinity(knn(vectors, 5))
    y = rng.uniform(size=(N, 2)).astype(np.float32)
    expected = solve(normalize(a), y, 0.9)
    everything = np.arange(N)
    early = solve(normalize(truncate(a, everything)), y, 0.9)
    late = solve(truncate(normalize(a), everything), y, 0.9)
    np.testing.assert_allclose(early, expected, rtol=1e-5)
    np.testing.assert_allclose(late, expected, rtol=1e-5)


@drawn
@given(
    seed=seeds,
    regions=st.sampled_from([1, 2, 5]),
    lam=st.sampled_from([1e-3, 0.5, 1.0, 1e4]),
)
def test_identical_regions_share_one_vote(seed, regions, lam):
    rng = np.random.default_rng(seed)
    vector = rng.normal(size=(1, 6))
    vectors = np.repeat(vector / np.linalg.norm(vector), regions, axis=0)
    ids = np.zeros(regions, np.int32)
    x = jnp.asarray(vectors.astype(np.float32))
    score = jnp.full((regions, 1), 2.5)
    got = pool(score, ids, weights=gmp_weights(x, ids, lam=lam))
    # (1 1' + lambda I) w = 1 has w = 1 / (r + lambda): r of them make r / (r + lambda).
    np.testing.assert_allclose(got, 2.5 * regions / (regions + lam), rtol=2e-3)
    if lam > 1e3:
        np.testing.assert_allclose(lam * got, pool(score, ids), rtol=1e-3)


@pytest.mark.parametrize("num_others", [9, pytest.param(40, marks=pytest.mark.full)])
def test_other_columns_change_scores_by_rounding_only(num_others):
    graph, y = draw(5)
    others = np.random.default_rng(0).uniform(size=(N, num_others)).astype(np.float32)
    alone = solve(graph, y[:, :1], 0.99)
    beside = solve(graph, np.concatenate([y[:, :1], others], axis=1), 0.99)
    np.testing.assert_allclose(beside[:, :1], alone, rtol=1e-5)
