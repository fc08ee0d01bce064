"""What is known before a solve: where to start, and leading eigenvectors."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import kernels
import numpy as np
import oracle
import pytest
from jax.test_util import check_grads

from diffjax.diffusion import SolverName, diffuse, leading_eigenvectors
from diffjax.graph import affinity, compress, knn, normalize
from diffjax.types import Graph

SOLVERS: tuple[SolverName, ...] = (
    "cg",
    "chebyshev",
    "iterate",
    "unnormalized-jacobi",
)
KNOWN = ("basis", "start", "both")
LONG: dict[str, Any] = {"rtol": 1e-13, "max_steps": 3000}


@pytest.fixture(params=["padded", "compressed"])
def graph(request, collection, x64) -> Graph:
    padded = affinity(knn(collection.vectors, 4))
    return normalize(padded if request.param == "padded" else compress(padded))


@pytest.fixture
def y(graph) -> jax.Array:
    return jnp.asarray(np.random.default_rng(3).uniform(size=(graph.num_nodes, 3)))


def make_known(graph, y, what) -> dict[str, Any]:
    """Inexact eigenvectors, and scores that have little to do with the answer."""
    known: dict[str, Any] = {}
    if what in {"basis", "both"}:
        known["basis"] = leading_eigenvectors(graph, 10, tol=0.1)
    if what in {"start", "both"}:
        known["start"] = 3 * jnp.flip(y, axis=0)
    return known


def true_residual(graph, y, value, alpha):
    rest = y - (value - alpha * graph.to_scipy().toarray() @ np.asarray(value))
    return np.linalg.norm(rest, axis=0) / np.linalg.norm(y, axis=0)


@pytest.mark.parametrize("what", KNOWN)
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_answer_is_the_dense_one_whatever_was_known(graph, y, solver, what):
    known = make_known(graph, y, what)
    run = functools.partial(diffuse, alpha=0.9, solver=solver, **LONG)
    got = run(graph, y, **known)
    expected = oracle.diffusion(graph.to_scipy().toarray(), np.asarray(y), 0.9)
    # With a basis the steps of Chebyshev's iteration are those of exact eigenvectors.
    inexact = solver == "chebyshev" and what != "start"
    np.testing.assert_allclose(got.value, expected, rtol=1e-3 if inexact else 1e-11)
    assert (got.residual < (1e-3 if inexact else 2e-13)).all()
    assert inexact or got.converged.all()


@pytest.mark.parametrize("what", KNOWN)
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_residual_is_the_true_one_and_relative_to_y(graph, y, solver, what):
    known = make_known(graph, y, what)
    for steps in (0, 4):
        got = diffuse(graph, y, rtol=0.0, max_steps=steps, solver=solver, **known)
        true = true_residual(graph, y, got.value, 0.99)
        np.testing.assert_allclose(got.residual, true, rtol=1e-8)
        assert (got.num_steps == steps).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_start_saves_what_its_residual_is_better_than_that_of_0(graph, y, solver):
    settings: dict[str, Any] = {"rtol": 1e-8, "max_steps": 3000, "solver": solver}
    cold = diffuse(graph, y, **settings)
    near = diffuse(graph, y, rtol=1e-4, max_steps=3000, solver=solver)
    warm = diffuse(graph, y, start=near.value, **settings)
    assert cold.converged.all()
    assert warm.converged.all()
    assert (10 * warm.num_steps < 8 * cold.num_steps).all()
    # From the answer there is nothing to do, and it is not touched.
    again = diffuse(graph, y, start=warm.value, rtol=1e-7, solver=solver)
    np.testing.assert_array_equal(again.num_steps, 0)
    np.testing.assert_array_equal(again.value, warm.value)
    assert again.converged.all()


def test_the_best_of_iterates_may_be_the_start(graph, y):
    start = diffuse(graph, y, rtol=1e-6, max_steps=300).value
    settings: dict[str, Any] = {
        "rtol": 0.0,
        "max_steps": 1,
        "start": start,
        "alpha": 0.99,
    }
    best = diffuse(graph, y, keep_best=True, **settings)
    last = diffuse(graph, y, **settings)
    settings["max_steps"] = 0
    given = diffuse(graph, y, **settings)
    least = np.minimum(last.residual, given.residual)
    np.testing.assert_allclose(best.residual, least, rtol=1e-9)


def exact_basis(graph, rank):
    return leading_eigenvectors(graph, rank, tol=1e-10, max_rounds=300)


def steps_of_bound(condition, rtol):
    """Steps that conjugate gradient takes at most: 2 g^t <= rtol, for residuals."""
    root = np.sqrt(condition)
    return np.log(2 * root / rtol) / np.log((root + 1) / (root - 1))


@pytest.mark.parametrize("rank", [13, 18, 30])
def test_exact_eigenvectors_leave_the_condition_of_the_rest(graph, y, rank):
    values = np.linalg.eigvalsh(graph.to_scipy().toarray())[::-1]
    condition = (1 - 0.99 * values[-1]) / (1 - 0.99 * values[rank])
    settings: dict[str, Any] = {"rtol": 1e-8, "max_steps": 500}
    got = diffuse(graph, y, basis=exact_basis(graph, rank), **settings)
    assert got.converged.all()
    assert got.num_steps.max() <= int(np.ceil(steps_of_bound(condition, 1e-8)))
    assert (got.num_steps < diffuse(graph, y, **settings).num_steps).all()


def test_more_eigenvectors_leave_fewer_steps_and_all_of_them_none(graph, y):
    steps = [
        np.max(
            diffuse(
                graph, y, basis=exact_basis(graph, rank), rtol=1e-8, max_steps=500
            ).num_steps
        )
        for rank in (13, 18, 30, graph.num_nodes)
    ]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] > steps[2]
    assert steps[-1] == 0


def test_the_classic_iteration_falls_by_the_next_eigenvalue(graph, y):
    values = np.linalg.eigvalsh(graph.to_scipy().toarray())[::-1]
    rate = 0.99 * max(values[18], -values[-1])
    basis = exact_basis(graph, 18)
    settings: dict[str, Any] = {"rtol": 0.0, "solver": "iterate", "basis": basis}
    residuals = [diffuse(graph, y, max_steps=t, **settings).residual for t in range(6)]
    for before, after in itertools.pairwise(residuals):
        assert (after <= rate * before * (1 + 1e-9)).all()


def test_chebyshevs_bound_is_that_of_the_rest(graph, y):
    basis = exact_basis(graph, 18)
    low, high = 1 - 0.99 * float(basis.values[-1]), 1.99
    centre, width = (low + high) / 2, (high - low) / 2
    rho = (1 + np.sqrt(1 - (width / centre) ** 2)) / (width / centre)
    given = diffuse(graph, y, basis=basis, max_steps=0).residual
    for steps in (3, 10):
        got = diffuse(
            graph, y, basis=basis, rtol=0.0, max_steps=steps, solver="chebyshev"
        )
        most = given * 2 / (rho**steps + rho**-steps)
        assert (got.residual <= most * (1 + 1e-9)).all()


def test_queries_of_nothing_and_no_queries(graph, y):
    some = y.at[:, 1].set(0)
    for what, solver in itertools.product(KNOWN, SOLVERS):
        known = make_known(graph, y, what)
        got = diffuse(graph, some, solver=solver, rtol=1e-3, max_steps=900, **known)
        np.testing.assert_array_equal(got.value[:, 1], 0)
        assert got.num_steps[1] == 0
        assert got.residual[1] == 0
    known = make_known(graph, y[:, :0], "both")
    assert diffuse(graph, y[:, :0], **known).value.shape == (graph.num_nodes, 0)


def test_of_the_size_of_single_precision(collection):
    graph = normalize(compress(affinity(knn(collection.vectors.astype("f4"), 5))))
    y = jnp.asarray(np.random.default_rng(3).uniform(size=(86, 2)), jnp.float32)
    basis = leading_eigenvectors(graph, 10)
    near = diffuse(graph, y, max_steps=10).value
    for size in (1e-30, 1e30):
        settings: dict[str, Any] = {"basis": basis, "max_steps": 200, "rtol": 1e-5}
        got = diffuse(graph, size * y, start=size * near, **settings)
        assert got.value.dtype == jnp.float32
        assert got.converged.all()
        one = diffuse(graph, y, start=near, **settings)
        np.testing.assert_allclose(got.value, size * one.value, rtol=1e-4)


@pytest.mark.parametrize("graph", ["compressed"], indirect=True)
@pytest.mark.parametrize("what", KNOWN)
@pytest.mark.parametrize("solver", SOLVERS)
def test_derivatives_are_those_of_the_answer(graph, y, solver, what):
    known = make_known(graph, y, what)
    if solver == "chebyshev" and what != "start":
        known["basis"] = exact_basis(graph, 18)

    def total(weights, alpha, y, known):
        system = graph._replace(weights=weights)
        f = diffuse(system, y, alpha=alpha, solver=solver, **LONG, **known)
        return (f.value**2).sum()

    arguments = graph.weights, jnp.asarray(0.8), y
    slope = jax.jit(jax.grad(total, (0, 1, 2)))
    pairs = zip(slope(*arguments, known), slope(*arguments, {}), strict=True)
    for got, plain in pairs:
        np.testing.assert_allclose(got, plain, rtol=1e-9, atol=1e-9)
    # From the answer itself, where nothing is left to solve for but derivatives.
    answer = diffuse(graph, y, alpha=0.8, **LONG).value
    pairs = zip(
        slope(*arguments, {"start": answer}), slope(*arguments, {}), strict=True
    )
    for got, plain in pairs:
        np.testing.assert_allclose(got, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("graph", ["compressed"], indirect=True)
def test_derivatives_are_solved_for_to_a_tolerance_of_their_own(graph, y):
    # Of a large y: one that is relative to it would be met by no derivative at all.
    large, start = 1e12 * y, jnp.zeros_like(y)

    def total(y, **known):
        return diffuse(graph, y, rtol=1e-9, max_steps=500, **known).value.sum()

    got, plain = jax.grad(total)(large, start=start), jax.grad(total)(large)
    np.testing.assert_allclose(got, plain, rtol=1e-7)


@pytest.mark.parametrize("graph", ["compressed"], indirect=True)
def test_second_derivatives_match_finite_differences(graph, y):
    known = make_known(graph, y[:, :2], "both")

    def scores(alpha, y):
        return diffuse(graph, jnp.asarray(y), alpha=alpha, **LONG, **known).value

    arguments = jnp.asarray(0.7), y[:, :2]
    check_grads(jax.jit(scores), arguments, order=2, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("what", KNOWN)
@pytest.mark.parametrize("solver", ["cg", "chebyshev"])
def test_vmap_and_a_query_alone_give_what_it_gets_among_others(graph, y, solver, what):
    known = make_known(graph, y, what)
    settings: dict[str, Any] = {"solver": solver, "rtol": 1e-5, "max_steps": 900}
    together = diffuse(graph, y, **settings, **known)

    def alone(column, start):
        own = known | ({"start": start[:, None]} if "start" in known else {})
        return diffuse(graph, column[:, None], **settings, **own)

    starts = known.get("start", y)
    batch = jax.jit(jax.vmap(alone, in_axes=1))(y, starts)
    for i in range(y.shape[1]):
        single = alone(y[:, i], starts[:, i])
        for got in (batch.value[i, :, 0], together.value[:, i]):
            np.testing.assert_allclose(got, single.value[:, 0], rtol=1e-9)
        assert batch.num_steps[i, 0] == single.num_steps[0] == together.num_steps[i]


def test_vmap_over_graphs_and_over_starts_is_a_loop(graph, y):
    basis = leading_eigenvectors(graph, 6)
    weights = jnp.stack([graph.weights, 0.5 * graph.weights])
    starts = jnp.stack([y, 2 * y])

    def of_both(weights, start):
        system = graph._replace(weights=weights)
        return diffuse(system, y, basis=basis, start=start, **LONG).value

    got = jax.vmap(of_both)(weights, starts)
    for i in range(2):
        np.testing.assert_allclose(got[i], of_both(weights[i], starts[i]), rtol=1e-9)


@kernels.needed
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("what", KNOWN)
def test_the_kernel_and_jax_agree(monkeypatch, collection, what, queries):
    graph = normalize(compress(affinity(knn(collection.vectors.astype("f4"), 5))))
    y = jnp.asarray(np.random.default_rng(3).uniform(size=(86, queries)), jnp.float32)
    known = make_known(graph, y, what)
    found = []
    for usable in (True, False):
        kernels.switch(monkeypatch, usable)
        found.append(diffuse(graph, y, rtol=1e-4, max_steps=90, **known))

        def solve(y):
            return diffuse(graph, y, **known).value

        # One call for all steps, where there is one tolerance.
        one = "diffjax_csr_cg_float32" in kernels.calls(solve, y)
        assert one == (usable and queries == 1)
    native, own = found
    np.testing.assert_array_equal(native.num_steps, own.num_steps)
    np.testing.assert_allclose(native.residual, own.residual, rtol=0.1)
    np.testing.assert_allclose(native.value, own.value, rtol=1e-3)


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_refused(graph, y):
    basis = leading_eigenvectors(graph, 3)
    others: tuple[SolverName, ...] = "direct", "cg-bcoo"
    given: list[dict[str, Any]] = [{"basis": basis}, {"start": y}]
    for solver, known in itertools.product(others, given):
        name = next(iter(known))
        with pytest.raises(
            ValueError, match=f"{name} must be None for solver '{solver}"
        ):
            diffuse(graph, y, solver=solver, **known)
    with pytest.raises(
        ValueError, match=r"start must be like y, float64 \[86, 3\], go"
    ):
        diffuse(graph, y, start=y[:, :1])
    with pytest.raises(ValueError, match=r"start must be like y, float64 .* float32"):
        diffuse(graph, y, start=y.astype(jnp.float32))
    with pytest.raises(ValueError, match="basis must have one row per node, 86, got 5"):
        diffuse(graph, y, basis=basis._replace(vectors=basis.vectors[:5]))
    with pytest.raises(ValueError, match="max_steps must be at least 0, got -1"):
        diffuse(graph, y, basis=basis, max_steps=-1)
    with pytest.raises(ValueError, match="max_steps must be at least 1, got 0"):
        diffuse(graph, y, max_steps=0)
