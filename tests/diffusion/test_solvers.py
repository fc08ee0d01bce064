import functools
import itertools
import re

import jax
import jax.numpy as jnp
import kernels
import numpy as np
import oracle
import pytest
from jax.test_util import check_grads

from diffjax.diffusion import SolverName, diffuse
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
# Those that iterate in code of ours.
OWN = tuple(s for s in SOLVERS if s not in {"cg-bcoo", "direct"})
LONG = {"alpha": 0.9, "max_steps": 2000}


def make_graph(collection, form, dtype) -> Graph:
    """S of a graph with isolated nodes, in the form and the dtype asked for."""
    padded = affinity(knn(collection.vectors.astype(dtype), 4))
    return normalize(padded if form == "padded" else compress(padded))


@pytest.fixture(params=["padded", "compressed"])
def graph(request, collection, x64) -> Graph:
    return make_graph(collection, request.param, np.float64)


@pytest.fixture
def y(graph) -> jax.Array:
    return jnp.asarray(np.random.default_rng(3).uniform(size=(graph.num_nodes, 4)))


def solve(graph, alpha, y, **settings):
    return diffuse(graph, y, alpha=alpha, **settings).value


@pytest.mark.parametrize(
    ("batch", "form"), [(1, "padded"), (5, "compressed")], ids=["alone", "batch"]
)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_gives_the_dense_solution(
    request, collection, solver, dtype, transform, batch, form
):
    if dtype == np.float64:
        request.getfixturevalue("x64")
    graph = make_graph(collection, form, dtype)
    rng = np.random.default_rng(batch)
    y = rng.uniform(size=(graph.num_nodes, batch)).astype(dtype)
    rtol = 1e-6 if dtype == np.float32 else 1e-12
    run = functools.partial(diffuse, solver=solver, rtol=rtol, **LONG)
    got = transform(run)(graph, jnp.asarray(y))
    dense = graph.to_scipy().toarray().astype(np.float64)
    expected = oracle.diffusion(dense, y.astype(np.float64), LONG["alpha"])
    assert got.value.dtype == dtype
    tolerance = 1e-5 if dtype == np.float32 else 1e-10
    np.testing.assert_allclose(got.value, expected, rtol=tolerance)
    assert (got.residual < 10 * rtol).all()


def test_jacobis_preconditioner_makes_of_eq_18_the_iterates_of_eq_17(graph, y):
    for steps in range(1, 21):
        settings = {"rtol": 0.0, "max_steps": steps}
        plain = diffuse(graph, y, solver="cg", **settings)
        jacobi = diffuse(graph, y, solver="unnormalized-jacobi", **settings)
        np.testing.assert_allclose(jacobi.value, plain.value, rtol=1e-9)
        np.testing.assert_allclose(jacobi.residual, plain.residual, rtol=1e-6)
        # A negative control: without it they are others, until both have converged.
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
    rest = y - (got.value - 0.99 * graph.to_scipy().toarray() @ got.value)
    true = np.linalg.norm(rest, axis=0) / np.linalg.norm(y, axis=0)
    np.testing.assert_allclose(got.residual, true, rtol=1e-8)
    assert not got.converged.any()


def test_the_best_iterate_is_the_one_of_smallest_residual(graph, y):
    each = [diffuse(graph, y, rtol=0.0, max_steps=t, alpha=0.999) for t in range(1, 31)]
    # As in MATLAB, the start is one of them: 0, with residual 1.
    values = [np.zeros_like(y), *(solution.value for solution in each)]
    residuals = np.stack([np.ones(4), *(solution.residual for solution in each)])
    up = (np.diff(residuals, axis=0) > 0).any(0)
    assert up.all(), "residuals must go up and down to tell the two apart"
    for steps in (3, 8, 30):
        got = diffuse(graph, y, rtol=0.0, max_steps=steps, alpha=0.999, keep_best=True)
        best = residuals[: steps + 1].argmin(0)
        least = residuals[: steps + 1].min(0)
        np.testing.assert_allclose(got.residual, least, rtol=1e-9)
        for column, step in enumerate(best):
            np.testing.assert_allclose(
                got.value[:, column], values[step][:, column], rtol=1e-9
            )


@pytest.mark.parametrize("solver", SOLVERS)
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
    """How many columns kernels are called with, for every call in a program."""
    text = jax.jit(function).lower(*arguments).as_text()
    lines = [x for x in text.splitlines() if re.search("@(diffjax|cpu)_csr_", x)]
    return [re.findall(r"-> \(?tensor<\d+x(\d+)xf32>", line)[0] for line in lines]


@pytest.mark.parametrize("solver", OWN)
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
    [("cg", "padded"), *((solver, "compressed") for solver in OWN)],
    indirect=["graph"],
)
def test_vmap_over_alpha_and_over_graphs_is_a_loop(graph, y, solver):
    settings = {"solver": solver, "rtol": 1e-13, "max_steps": 2000}
    alphas = jnp.array([0.3, 0.9])
    batch = jax.vmap(lambda a: solve(graph, a, y, **settings))(alphas)
    weights = jnp.stack([graph.weights, 0.5 * graph.weights])

    def of_weights(weights):
        return solve(graph._replace(weights=weights), 0.9, y, **settings)

    graphs = jax.vmap(of_weights)(weights)
    for i in range(2):
        np.testing.assert_allclose(
            batch[i], solve(graph, alphas[i], y, **settings), rtol=1e-9
        )
        np.testing.assert_allclose(graphs[i], of_weights(weights[i]), rtol=1e-9)


def total(graph, weights, alpha, y, solver):
    graph = graph._replace(weights=weights)
    found = diffuse(
        graph, y[:, None], alpha=alpha, solver=solver, rtol=1e-13, max_steps=2000
    )
    return (found.value**2).sum()


@pytest.mark.parametrize("graph", ["compressed"], indirect=True)
@pytest.mark.parametrize("solver", OWN)
def test_vmap_of_grad_is_grad_of_vmap_is_a_loop(graph, y, solver):
    f = functools.partial(total, graph, solver=solver)
    where = (0, 1, 2)
    axes = (None, None, 1)
    arguments = graph.weights, jnp.asarray(0.8), y
    each = jax.vmap(jax.grad(f, where), in_axes=axes)(*arguments)
    summed = jax.grad(lambda *a: jax.vmap(f, in_axes=axes)(*a).sum(), where)(*arguments)
    loop = [jax.grad(f, where)(*arguments[:2], column) for column in y.T]
    for got, *singles in zip(each, *loop, strict=True):
        np.testing.assert_allclose(got, np.stack(singles), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(summed[0], each[0].sum(0), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(summed[1], each[1].sum(), rtol=1e-8)
    np.testing.assert_allclose(summed[2], each[2].T, rtol=1e-8)


@pytest.mark.parametrize("graph", ["compressed"], indirect=True)
@pytest.mark.parametrize("solver", ["cg", "iterate", "unnormalized-jacobi", "direct"])
def test_forward_and_reverse_mode_match_finite_differences_twice(graph, y, solver):
    def scores(alpha, y):
        return solve(
            graph, alpha, jnp.asarray(y), solver=solver, rtol=1e-13, max_steps=2000
        )

    check_grads(
        jax.jit(scores),
        (jnp.asarray(0.7), y[:, :2]),
        order=2,
        modes=("fwd", "rev"),
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize("graph", ["compressed"], indirect=True)
@pytest.mark.parametrize("solver", [*OWN, "direct"])
@pytest.mark.parametrize("alpha", [0.0, 1e-8, 1 - 1e-6])
def test_gradients_are_finite_at_the_ends_of_alpha(graph, y, solver, alpha):
    def f(weights, alpha, y):
        graph_ = graph._replace(weights=weights)
        return diffuse(graph_, y, alpha=alpha, solver=solver, max_steps=30).value.sum()

    for gradient in jax.grad(f, (0, 1, 2))(graph.weights, jnp.asarray(alpha), y):
        assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_weight_that_is_not_a_number_is_flagged_inside_compiled_code(graph, solver):
    bad = graph._replace(weights=graph.weights.at[0].set(jnp.nan))
    if graph.starts is None:  # The first slot of a row may be an empty one.
        bad = graph._replace(weights=jnp.full_like(graph.weights, jnp.nan))
    y = jnp.ones((graph.num_nodes, 1))
    got = jax.jit(lambda g: diffuse(g, y, solver=solver))(bad)
    assert not got.converged.any()


@pytest.mark.parametrize(
    ("solver", "bad"), list(itertools.product(OWN, [jnp.nan, jnp.inf]))
)
def test_a_query_that_is_not_finite_spoils_itself_only(graph, y, solver, bad):
    spoilt = y.at[0, 1].set(bad)
    got = jax.jit(lambda y: diffuse(graph, y, solver=solver, **LONG))(spoilt)
    assert not got.converged[1]
    assert jnp.isnan(got.value[:, 1]).all()
    assert got.converged[jnp.array([0, 2, 3])].all()
    good = diffuse(graph, y, solver=solver, **LONG)
    np.testing.assert_allclose(got.value[:, 0], good.value[:, 0], rtol=1e-10)


def test_what_a_solver_can_not_do_is_said_before_it_starts(graph, y):
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
    monkeypatch.setattr("diffjax.diffusion._solve.MAX_DIRECT_NODES", 5)
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
def test_a_graph_that_is_no_affinity_is_refused(graph, y, change, complaint):
    if graph.starts is None:
        graph = compress(graph)
    with pytest.raises(ValueError, match=complaint):
        diffuse(graph._replace(weights=change(graph.weights)), y)
