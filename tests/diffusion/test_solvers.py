import functools
import re

import jax
import jax.numpy as jnp
import kernels
import numpy as np
import oracle
import pytest
from jax.test_util import check_grads

from diffjax.diffusion import SolverName, diffuse
from diffjax.diffusion._cg import StopCriterion
from diffjax.diffusion._solve import diffuse_until
from diffjax.graph import affinity, compress, knn, normalize
from diffjax.types import Graph

SOLVERS: tuple[SolverName, ...] = (
    "cg",
    "cg-bcoo",
    "chebyshev",
    "iterate",
    "unnormalized",
    "unnormalized-jacobi",
    "direct",
)
# Solvers that iterate in this package's code.
OWN = tuple(s for s in SOLVERS if s not in {"cg-bcoo", "direct"})
LONG = {"alpha": 0.9, "max_steps": 2000}


def make_graph(collection, form, dtype) -> Graph:
    """S of a graph with isolated nodes, in a form and a dtype."""
    padded = affinity(knn(collection.vectors.astype(dtype), 4))
    return normalize(padded if form == "padded" else compress(padded))


full = pytest.mark.full


@pytest.fixture(params=["padded", "compressed"])
def graph(request, collection, x64) -> Graph:
    return make_graph(collection, request.param, np.float64)


@pytest.fixture
def y(graph) -> jax.Array:
    return make_y(graph, np.float64)


def make_y(graph, dtype) -> jax.Array:
    y = np.random.default_rng(3).uniform(size=(graph.num_nodes, 4))
    return jnp.asarray(y.astype(dtype))


def solve(graph, alpha, y, **settings):
    return diffuse(graph, y, alpha=alpha, **settings).value


# One shape per form and precision, so that tests share their compiled programs.
@pytest.mark.parametrize(
    ("form", "dtype", "transform"),
    [
        ("padded", np.float64, lambda f: f),
        ("compressed", np.float32, jax.jit),
        pytest.param("compressed", np.float64, lambda f: f, marks=full),
        pytest.param("padded", np.float32, jax.jit, marks=full),
        pytest.param("padded", np.float32, lambda f: f, marks=full),
    ],
)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_gives_the_dense_solution(
    request, collection, solver, form, dtype, transform
):
    if dtype == np.float64:
        request.getfixturevalue("x64")
    graph = make_graph(collection, form, dtype)
    y = make_y(graph, dtype)
    rtol = 1e-6 if dtype == np.float32 else 1e-12
    run = functools.partial(diffuse, solver=solver, rtol=rtol, **LONG)
    got = transform(run)(graph, y)
    dense = graph.to_scipy().toarray().astype(np.float64)
    expected = oracle.diffusion(dense, np.asarray(y, np.float64), LONG["alpha"])
    assert got.value.dtype == dtype
    # The condition number is 19.
    tolerance = 3e-5 if dtype == np.float32 else 1e-10
    np.testing.assert_allclose(got.value, expected, rtol=tolerance)
    assert (got.residual < 10 * rtol).all()


def test_jacobi_preconditioned_eq_18_has_the_iterates_of_eq_17(graph, y):
    for steps in (1, 2, 3, 5, 8, 13, 20):
        settings = {"rtol": 0.0, "max_steps": steps}
        plain = diffuse(graph, y, solver="cg", **settings)
        jacobi = diffuse(graph, y, solver="unnormalized-jacobi", **settings)
        np.testing.assert_allclose(jacobi.value, plain.value, rtol=1e-9)
        np.testing.assert_allclose(jacobi.residual, plain.residual, rtol=1e-6)
        # Negative control: without it the iterates differ until both have converged.
        without = diffuse(graph, y, solver="unnormalized", **settings)
        assert steps > 10 or np.abs(without.value - plain.value).max() > 1e-5


def test_the_classic_iteration_is_the_sum_of_powers(graph, y):
    dense, total, power = graph.to_scipy().toarray(), 0.0, np.asarray(y)
    for steps in range(1, 6):
        total, power = total + power, 0.9 * dense @ power
        got = diffuse(graph, y, alpha=0.9, rtol=0.0, max_steps=steps, solver="iterate")
        np.testing.assert_allclose(got.value, total, rtol=1e-12)
        residual = np.linalg.norm(power, axis=0) / np.linalg.norm(y, axis=0)
        np.testing.assert_allclose(got.residual, residual, rtol=1e-12)
        np.testing.assert_array_equal(got.num_steps, steps)


def test_the_classic_iteration_takes_several_times_the_steps(graph, y):
    steps = {
        solver: diffuse(graph, y, solver=solver, max_steps=5000).num_steps
        for solver in ("cg", "iterate")
    }
    assert (steps["iterate"] > 4 * steps["cg"]).all()


@pytest.mark.parametrize("solver", OWN)
def test_the_residual_is_that_of_eq_17_for_every_solver(graph, y, solver):
    got = diffuse(graph, y, rtol=0.0, max_steps=6, solver=solver)
    error = y - (got.value - 0.99 * graph.to_scipy().toarray() @ got.value)
    true = np.linalg.norm(error, axis=0) / np.linalg.norm(y, axis=0)
    np.testing.assert_allclose(got.residual, true, rtol=1e-8)
    assert not got.converged.any()


def test_the_best_iterate_is_the_one_of_smallest_residual(graph, y):
    solutions = [
        diffuse(graph, y, rtol=0.0, max_steps=t, alpha=0.999) for t in range(1, 31)
    ]
    # As in MATLAB, the start is one of them: 0, with residual 1.
    values = [np.zeros_like(y), *(solution.value for solution in solutions)]
    residuals = np.stack([np.ones(4), *(solution.residual for solution in solutions)])
    up = (np.diff(residuals, axis=0) > 0).any(0)
    assert up.all(), "residuals must not be monotone, or best and last are the same"
    for steps in (3, 8, 30):
        got = diffuse(graph, y, rtol=0.0, max_steps=steps, alpha=0.999, keep_best=True)
        best = residuals[: steps + 1].argmin(0)
        smallest = residuals[: steps + 1].min(0)
        np.testing.assert_allclose(got.residual, smallest, rtol=1e-9)
        for column, step in enumerate(best):
            np.testing.assert_allclose(
                got.value[:, column], values[step][:, column], rtol=1e-9
            )


@pytest.mark.parametrize(
    ("solver", "graph"),
    [
        pytest.param("cg", "padded", marks=full),
        ("cg", "compressed"),
        pytest.param("cg-bcoo", "compressed", marks=full),
        *(
            pytest.param(solver, form, marks=full)
            for solver in SOLVERS
            for form in ("padded", "compressed")
            if solver != "cg" and (solver, form) != ("cg-bcoo", "compressed")
        ),
    ],
    indirect=["graph"],
)
def test_vmap_over_one_query_is_a_loop_and_a_matrix_of_queries(graph, y, solver):
    settings = {"solver": solver, "rtol": 1e-13, **LONG}
    del settings["alpha"]

    def alone(column):
        return diffuse(graph, column[:, None], alpha=0.9, **settings)

    batch = jax.jit(jax.vmap(alone, in_axes=1))(y)
    matrix = diffuse(graph, y, alpha=0.9, **settings)
    for i in range(y.shape[1]):
        single = alone(y[:, i])
        np.testing.assert_allclose(batch.value[i], single.value, rtol=1e-10)
        np.testing.assert_allclose(batch.value[i, :, 0], matrix.value[:, i], rtol=1e-10)
        np.testing.assert_array_equal(batch.num_steps[i], single.num_steps)


def columns_of_calls(function, *arguments) -> list[str]:
    """Number of columns of every kernel call in a program."""
    text = jax.jit(function).lower(*arguments).as_text()
    lines = [x for x in text.splitlines() if re.search("@(diffjax|cpu)_csr_", x)]
    return [re.findall(r"-> \(?tensor<\d+x(\d+)xf32>", line)[0] for line in lines]


@pytest.mark.parametrize(
    "solver",
    [
        "cg",
        "iterate",
        pytest.param("chebyshev", marks=full),
        pytest.param("unnormalized-jacobi", marks=full),
    ],
)
@pytest.mark.parametrize(
    "usable", [pytest.param(True, marks=kernels.needed), False], ids=["native", "jax"]
)
def test_vmap_calls_kernels_with_all_queries_as_columns(
    monkeypatch, collection, usable, solver
):
    kernels.switch(monkeypatch, usable)
    graph = make_graph(collection, "compressed", np.float32)
    y = jnp.ones((graph.num_nodes, 16))

    def matrix(graph, y):
        return diffuse(graph, y, solver=solver).value

    def batch(graph, y):
        return jax.vmap(lambda c: matrix(graph, c[:, None]), in_axes=1)(y)

    assert columns_of_calls(batch, graph, y) == ["16"]
    assert columns_of_calls(matrix, graph, y) == ["16"]


@pytest.mark.parametrize(
    ("solver", "graph"),
    [
        pytest.param("cg", "padded", marks=full),
        ("cg", "compressed"),
        *(pytest.param(s, "compressed", marks=full) for s in OWN if s != "cg"),
    ],
    indirect=["graph"],
)
def test_vmap_over_alpha_and_over_graphs_is_a_loop(graph, y, solver):
    settings = {"solver": solver, "rtol": 1e-13, "max_steps": 2000}
    alphas = jnp.array([0.3, 0.9])
    batch = jax.vmap(lambda a: solve(graph, a, y, **settings))(alphas)
    weights = jnp.stack([graph.weights, 0.5 * graph.weights])

    def scores_of_weights(weights):
        return solve(graph._replace(weights=weights), 0.9, y, **settings)

    graphs = jax.vmap(scores_of_weights)(weights)
    for i in range(2):
        np.testing.assert_allclose(
            batch[i], solve(graph, alphas[i], y, **settings), rtol=1e-9
        )
        np.testing.assert_allclose(graphs[i], scores_of_weights(weights[i]), rtol=1e-9)


def total(graph, weights, alpha, y, solver):
    graph = graph._replace(weights=weights)
    scores = solve(graph, alpha, y[:, None], solver=solver, rtol=1e-13, max_steps=2000)
    return (scores**2).sum()


@pytest.mark.full
@pytest.mark.parametrize("graph", ["compressed"], indirect=True)
@pytest.mark.parametrize(
    "solver", ["cg", *(pytest.param(s, marks=full) for s in OWN if s != "cg")]
)
def test_vmap_of_grad_is_grad_of_vmap_is_a_loop(graph, y, solver):
    f = functools.partial(total, graph, solver=solver)
    axes = (None, None, 1)
    arguments = graph.weights, jnp.asarray(0.8), y
    gradient = jax.jit(jax.grad(f, (0, 1, 2)))
    batch = jax.jit(jax.vmap(jax.grad(f, (0, 1, 2)), in_axes=axes))(*arguments)
    summed = jax.jit(
        jax.grad(lambda *a: jax.vmap(f, in_axes=axes)(*a).sum(), (0, 1, 2))
    )(*arguments)
    loop = [gradient(*arguments[:2], column) for column in y.T]
    for got, *singles in zip(batch, *loop, strict=True):
        np.testing.assert_allclose(got, np.stack(singles), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(summed[0], batch[0].sum(0), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(summed[1], batch[1].sum(), rtol=1e-8)
    np.testing.assert_allclose(summed[2], batch[2].T, rtol=1e-8)


@pytest.mark.parametrize("graph", ["compressed"], indirect=True)
@pytest.mark.parametrize(
    "solver",
    [
        "direct",
        *(
            pytest.param(s, marks=full)
            for s in ("cg", "iterate", "unnormalized-jacobi")
        ),
    ],
)
def test_forward_and_reverse_mode_match_finite_differences(graph, y, solver):
    def scores(alpha, y):
        return solve(
            graph, alpha, jnp.asarray(y), solver=solver, rtol=1e-13, max_steps=2000
        )

    check_grads(
        jax.jit(scores),
        (jnp.asarray(0.7), y[:, :2]),
        order=1 if solver == "direct" else 2,
        modes=("fwd", "rev"),
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize("graph", ["compressed"], indirect=True)
@pytest.mark.parametrize(
    "solver",
    [
        "cg",
        "unnormalized-jacobi",
        "direct",
        *(
            pytest.param(s, marks=full)
            for s in ("chebyshev", "iterate", "unnormalized")
        ),
    ],
)
def test_gradients_are_finite_at_the_ends_of_alpha(graph, y, solver):
    def f(weights, alpha, y):
        system = graph._replace(weights=weights)
        return solve(system, alpha, y, solver=solver, max_steps=30).sum()

    gradient = jax.jit(jax.grad(f, (0, 1, 2)))
    for alpha in (0.0, 1e-8, 1 - 1e-6):
        for slope in gradient(graph.weights, jnp.asarray(alpha), y):
            assert np.isfinite(slope).all()


def with_nan_weight(graph):
    if graph.starts is None:  # The first slot of a row may be an empty one.
        return graph._replace(weights=jnp.full_like(graph.weights, jnp.nan))
    return graph._replace(weights=graph.weights.at[0].set(jnp.nan))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_nan_weight_is_flagged_where_it_is_not_checked(graph, y, solver):
    stop = StopCriterion(1e-6, 20)
    got = diffuse_until(with_nan_weight(graph), y, 0.99, stop, solver=solver)
    assert not got.converged.any()


@pytest.mark.parametrize("graph", ["compressed"], indirect=True)
def test_a_nan_weight_is_flagged_inside_compiled_code(graph, y):
    got = jax.jit(lambda graph: diffuse(graph, y))(with_nan_weight(graph))
    assert not got.converged.any()


@pytest.mark.parametrize("solver", OWN)
def test_a_query_that_is_not_finite_spoils_itself_only(graph, y, solver):
    good = diffuse(graph, y, solver=solver, **LONG)
    for bad in (jnp.nan, jnp.inf):
        got = diffuse(graph, y.at[0, 1].set(bad), solver=solver, **LONG)
        assert not got.converged[1]
        assert np.isnan(got.value[:, 1]).all()
        assert np.asarray(got.converged)[[0, 2, 3]].all()
        np.testing.assert_allclose(got.value[:, 0], good.value[:, 0], rtol=1e-10)


@pytest.mark.parametrize("graph", ["compressed"], indirect=True)
def test_unsupported_options_are_refused_before_a_solve(graph, y):
    with pytest.raises(ValueError, match="keep_best must be False for solver 'cg-bcoo"):
        diffuse(graph, y, solver="cg-bcoo", keep_best=True)
    with pytest.raises(ValueError, match="graph must be normalised, got one without"):
        diffuse(graph._replace(degrees=None), y)
    with pytest.raises(ValueError, match="got one that is normalised already"):
        normalize(graph)
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    with pytest.raises(ValueError, match="mesh must be None for solver 'direct'"):
        diffuse(graph, y, solver="direct", mesh=mesh)


def test_a_dense_solve_has_a_limit(monkeypatch, graph, y):
    monkeypatch.setattr("diffjax.diffusion._reference.MAX_DIRECT_NODES", 5)
    with pytest.raises(ValueError, match="at most 5 nodes to be solved directly, got"):
        diffuse(graph, y[:, :3], solver="direct")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda w: w.at[-1].multiply(3.0), "graph must be symmetric, got weights that"),
        (lambda w: -w, "graph must have weights of at least 0, got -"),
        (lambda w: w.at[-1].set(jnp.nan), "graph must have finite weights, got nan in"),
        (lambda w: w.at[-1].set(jnp.inf), "graph must have finite weights, got inf in"),
    ],
)
@pytest.mark.parametrize("graph", ["compressed"], indirect=True)
def test_a_graph_that_is_no_affinity_is_refused(graph, y, change, complaint):
    with pytest.raises(ValueError, match=complaint):
        diffuse(graph._replace(weights=change(graph.weights)), y)
