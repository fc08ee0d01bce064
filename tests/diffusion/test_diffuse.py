import itertools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import scipy.sparse
from finite_differences import check_gradient

from diffjax.diffusion import SolverName, _solve, diffuse
from diffjax.graph import affinity, compress, knn, normalize
from diffjax.types import Graph

SOLVERS: tuple[SolverName, ...] = ("cg", "cg-bcoo")
LONG = {"rtol": 1e-13, "max_steps": 500}


@pytest.fixture(params=["padded", "compressed"])
def raw(request, collection, x64) -> Graph:
    """Raw similarities of the mutual neighbours, in both forms."""
    padded = affinity(knn(collection.vectors, 5), gamma=1.0)
    return padded if request.param == "padded" else compress(padded)


@pytest.fixture
def graph(raw) -> Graph:
    return normalize(affinity(raw))


@pytest.fixture
def y(graph) -> jax.Array:
    return jnp.asarray(np.random.default_rng(3).uniform(size=(graph.num_nodes, 4)))


@pytest.mark.parametrize(
    ("solver", "alpha"), list(itertools.product(SOLVERS, [0, 0.5, 0.99]))
)
def test_agrees_with_the_dense_solve(graph, y, solver, alpha):
    got = diffuse(graph, y, alpha=alpha, solver=solver, **LONG)
    dense = graph.to_scipy().toarray()
    np.testing.assert_allclose(
        got.value, oracle.diffusion(dense, np.asarray(y), alpha), rtol=1e-9
    )
    # The reference reports the true residual, a rounding above the one it stops at.
    assert (got.residual < 1e-12).all()


@pytest.mark.parametrize(
    ("solver", "raw"),
    [
        ("cg", "compressed"),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in [
                ("cg", "padded"),
                ("cg-bcoo", "padded"),
                ("cg-bcoo", "compressed"),
            ]
        ),
    ],
    indirect=["raw"],
)
def test_float32_keeps_the_order_of_float64(graph, y, solver):
    double = diffuse(graph, y, solver=solver, max_steps=100)
    single = diffuse(
        graph._replace(
            weights=graph.weights.astype(jnp.float32),
            degrees=graph.degrees.astype(jnp.float32),
        ),
        y.astype(jnp.float32),
        solver=solver,
        max_steps=100,
    )
    assert single.value.dtype == jnp.float32
    np.testing.assert_allclose(single.value, double.value, rtol=2e-4)
    # The order may only differ where scores are closer than that.
    ranked = np.take_along_axis(
        np.asarray(double.value), np.argsort(-np.asarray(single.value), axis=0), axis=0
    )
    assert (np.diff(ranked, axis=0) <= 2e-4 * ranked[:-1]).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_seven_steps_of_both_solvers_agree(graph, y, solver):
    got = diffuse(graph, y, max_steps=7, rtol=0.0, solver=solver)
    reference = diffuse(graph, y, max_steps=7, rtol=0.0)
    np.testing.assert_allclose(got.value, reference.value, rtol=1e-9)
    np.testing.assert_allclose(got.residual, reference.residual, rtol=1e-6)
    assert not got.converged.any()
    assert (got.num_steps == (7 if solver == "cg" else -1)).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_query_gets_the_same_scores_alone_and_among_others(graph, y, solver):
    together = diffuse(graph, y, solver=solver)
    for i in range(y.shape[1]):
        alone = diffuse(graph, y[:, i : i + 1], solver=solver)
        np.testing.assert_allclose(alone.value[:, 0], together.value[:, i], rtol=1e-9)
        np.testing.assert_array_equal(alone.num_steps[0], together.num_steps[i])


def test_scores_stay_in_the_components_of_the_query():
    # Two components, 0-1 and 2-3, and an isolated node 4.
    dense = np.zeros((5, 5), np.float32)
    dense[0, 1] = dense[1, 0] = dense[2, 3] = dense[3, 2] = 1
    graph = normalize(Graph.from_scipy(scipy.sparse.csr_array(dense)))
    y = jnp.eye(5)[:, jnp.array([0, 4])]
    got = diffuse(graph, y, alpha=0.5, max_steps=50)
    # On one edge f = (I - a S)^-1 e1 = (1, a) / (1 - a^2); alone f = y.
    np.testing.assert_allclose(
        got.value[:, 0], np.array([1, 0.5, 0, 0, 0]) / 0.75, rtol=1e-6
    )
    np.testing.assert_array_equal(got.value[:, 1], [0, 0, 0, 0, 1])


def test_a_zero_query_gets_zero_scores(graph, y):
    for solver in SOLVERS:
        got = diffuse(graph, jnp.zeros_like(y), solver=solver)
        np.testing.assert_array_equal(got.value, 0.0)
        np.testing.assert_array_equal(got.residual, 0.0)
        assert got.converged.all()


def test_zero_queries_are_accepted(graph):
    got = diffuse(graph, jnp.zeros((graph.num_nodes, 0)))
    assert got.value.shape == (graph.num_nodes, 0)


@pytest.mark.parametrize(
    ("solver", "raw"),
    [
        ("cg", "compressed"),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in [
                ("cg", "padded"),
                ("cg-bcoo", "padded"),
                ("cg-bcoo", "compressed"),
            ]
        ),
    ],
    indirect=["raw"],
)
def test_gradients_match_finite_differences_through_the_whole_graph(raw, y, solver):
    def scores(alpha, gamma, y):
        graph = normalize(affinity(raw, gamma=gamma))
        return diffuse(graph, jnp.asarray(y), alpha=alpha, solver=solver, **LONG).value

    arguments = jnp.asarray(0.9), jnp.asarray(3.0), y[:, :2]
    # The reference is JAX's own and goes to second order at three times the cost.
    order = 2 if solver == "cg" else 1
    check_gradient(scores, arguments, order=order, tolerance=1e-4)


@pytest.mark.parametrize("raw", ["compressed"], indirect=True)
def test_gradient_to_the_similarity_of_an_edge_matches_finite_differences(raw, y):
    rows, columns = np.asarray(raw.rows).ravel(), np.asarray(raw.indices).ravel()
    pair = next(p for p in range(rows.size) if columns[p] >= 0)
    both = [
        p
        for p in range(rows.size)
        if (rows[p], columns[p])
        in {(rows[pair], columns[pair]), (columns[pair], rows[pair])}
    ]
    assert len(both) == 2

    def total(change):
        moved = raw.weights.reshape(-1).at[np.array(both)].add(change)
        graph = raw._replace(weights=moved.reshape(raw.weights.shape))
        f = diffuse(normalize(affinity(graph)), y, alpha=0.9, **LONG).value
        return (f**2).sum()

    change = jnp.asarray(0.0)
    check_gradient(total, (change,), tolerance=1e-4)


def test_compiles_once_for_all_values_of_alpha(graph, y):
    diffuse(graph, y, alpha=0.5)
    count = operator.attrgetter("_cache_size")(_solve.diffuse_until)
    before = count()
    for alpha in (0.6, 0.7):
        diffuse(graph, y, alpha=alpha)
    assert count() == before


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ({"alpha": 1.0}, r"alpha must be in \[0, 1\), got 1.0"),
        ({"alpha": -0.1}, r"alpha must be in \[0, 1\), got -0.1"),
        ({"alpha": float("nan")}, "alpha must be"),
        ({"rtol": 1.0}, "rtol must be"),
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ({"solver": "oracle"}, "solver must be one of .* got 'oracle'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_rejects_bad_arguments(graph, y, bad, complaint):
    with pytest.raises(ValueError, match=complaint):
        diffuse(graph, y, **bad)


def test_rejects_a_right_hand_side_of_another_size(graph, y):
    with pytest.raises(ValueError, match="y must have one row per node"):
        diffuse(graph, y[1:])
