"""Initial guesses of a solve: scores to start from, and leading eigenvectors."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import kernels
import numpy as np
import oracle
import pytest
from finite_differences import check_gradient

from diffjax.diffusion import SolverName, diffuse, leading_eigenvectors
from diffjax.graph import affinity, compress, knn, normalize
from diffjax.types import Graph

SOLVERS: tuple[SolverName, ...] = (
    "cg",
    "chebyshev",
    "iterate",
    "unnormalized-jacobi",
)
GUESSES = ("basis", "start", "both")
# Every solver with both guesses, and every guess alone with some solver.
PAIRS = [
    ("cg", "basis"),
    ("cg", "start"),
    ("chebyshev", "basis"),
    *((solver, "both") for solver in SOLVERS),
]
PAIRS += [
    pytest.param(*pair, marks=pytest.mark.full)
    for pair in itertools.product(SOLVERS, GUESSES)
    if pair not in PAIRS
]
LONG: dict[str, Any] = {"rtol": 1e-13, "max_steps": 3000}


@pytest.fixture(params=["compressed", pytest.param("padded", marks=pytest.mark.full)])
def graph(request, collection, x64) -> Graph:
    padded = affinity(knn(collection.vectors, 4))
    return normalize(padded if request.param == "padded" else compress(padded))


@pytest.fixture
def y(graph) -> jax.Array:
    return jnp.asarray(np.random.default_rng(3).uniform(size=(graph.num_nodes, 3)))


def make_guess(graph, y, kind) -> dict[str, Any]:
    """Inexact eigenvectors, and scores that are far from the solution."""
    guess: dict[str, Any] = {}
    if kind in {"basis", "both"}:
        guess["basis"] = leading_eigenvectors(graph, 10, tol=0.1)
    if kind in {"start", "both"}:
        guess["start"] = 3 * jnp.flip(y, axis=0)
    return guess


def true_residual(graph, y, value, alpha):
    error = y - (value - alpha * graph.to_scipy().toarray() @ np.asarray(value))
    return np.linalg.norm(error, axis=0) / np.linalg.norm(y, axis=0)


@pytest.mark.parametrize(("solver", "kind"), PAIRS)
def test_the_solution_is_the_dense_one_from_any_guess(graph, y, solver, kind):
    guess = make_guess(graph, y, kind)
    run = functools.partial(diffuse, alpha=0.9, solver=solver, **LONG)
    got = run(graph, y, **guess)
    expected = oracle.diffusion(graph.to_scipy().toarray(), np.asarray(y), 0.9)
    # With a basis the steps of Chebyshev's iteration are those of exact eigenvectors.
    inexact = solver == "chebyshev" and kind != "start"
    np.testing.assert_allclose(got.value, expected, rtol=1e-3 if inexact else 1e-11)
    assert (got.residual < (1e-3 if inexact else 2e-13)).all()
    assert inexact or got.converged.all()


@pytest.mark.parametrize(("solver", "kind"), PAIRS)
def test_the_residual_is_the_true_one_and_relative_to_y(graph, y, solver, kind):
    guess = make_guess(graph, y, kind)
    for steps in (0, 4):
        got = diffuse(graph, y, rtol=0.0, max_steps=steps, solver=solver, **guess)
        true = true_residual(graph, y, got.value, 0.99)
        np.testing.assert_allclose(got.residual, true, rtol=1e-8)
        assert (got.num_steps == steps).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_start_saves_steps_as_its_residual_is_smaller(graph, y, solver):
    settings: dict[str, Any] = {"rtol": 1e-8, "max_steps": 3000, "solver": solver}
    cold = diffuse(graph, y, **settings)
    near = diffuse(graph, y, rtol=1e-4, max_steps=3000, solver=solver)
    warm = diffuse(graph, y, start=near.value, **settings)
    assert cold.converged.all()
    assert warm.converged.all()
    assert (10 * warm.num_steps < 8 * cold.num_steps).all()
    # Starting from the solution takes no step and changes nothing.
    again = diffuse(graph, y, start=warm.value, rtol=1e-7, solver=solver)
    np.testing.assert_array_equal(again.num_steps, 0)
    np.testing.assert_array_equal(again.value, warm.value)
    assert again.converged.all()


def test_the_best_iterate_may_be_the_start(graph, y):
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
    at_start = diffuse(graph, y, **settings)
    smallest = np.minimum(last.residual, at_start.residual)
    np.testing.assert_allclose(best.residual, smallest, rtol=1e-9)


def exact_basis(graph, rank):
    return leading_eigenvectors(graph, rank, tol=1e-10, max_rounds=300)


def steps_of_bound(condition, rtol):
    """Bound on the steps of conjugate gradient: 2 g^t <= rtol, for residuals."""
    root = np.sqrt(condition)
    return np.log(2 * root / rtol) / np.log((root + 1) / (root - 1))


@pytest.mark.parametrize(
    "rank", [18, *(pytest.param(r, marks=pytest.mark.full) for r in (13, 30))]
)
def test_exact_eigenvectors_leave_the_condition_number_of_the_others(graph, y, rank):
    values = np.linalg.eigvalsh(graph.to_scipy().toarray())[::-1]
    condition = (1 - 0.99 * values[-1]) / (1 - 0.99 * values[rank])
    settings: dict[str, Any] = {"rtol": 1e-8, "max_steps": 500}
    got = diffuse(graph, y, basis=exact_basis(graph, rank), **settings)
    assert got.converged.all()
    assert got.num_steps.max() <= int(np.ceil(steps_of_bound(condition, 1e-8)))
    assert (got.num_steps < diffuse(graph, y, **settings).num_steps).all()


@pytest.mark.full
def test_more_eigenvectors_leave_fewer_steps_and_a_complete_basis_none(graph, y):
    steps = [
        np.max(
            diffuse(
                graph, y, basis=exact_basis(graph, rank), rtol=1e-8, max_steps=500
            ).num_steps
        )
        for rank in (18, 30, graph.num_nodes)
    ]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] > steps[1]
    assert steps[-1] == 0


def test_the_classic_iteration_converges_by_the_next_eigenvalue(graph, y):
    values = np.linalg.eigvalsh(graph.to_scipy().toarray())[::-1]
    rate = 0.99 * max(values[18], -values[-1])
    basis = exact_basis(graph, 18)
    settings: dict[str, Any] = {"rtol": 0.0, "solver": "iterate", "basis": basis}
    residuals = [diffuse(graph, y, max_steps=t, **settings).residual for t in range(6)]
    for before, after in itertools.pairwise(residuals):
        assert (after <= rate * before * (1 + 1e-9)).all()


def test_the_bound_of_chebyshev_is_that_of_the_other_eigenvalues(graph, y):
    basis = exact_basis(graph, 18)
    low, high = 1 - 0.99 * float(basis.values[-1]), 1.99
    centre, width = (low + high) / 2, (high - low) / 2
    rho = (1 + np.sqrt(1 - (width / centre) ** 2)) / (width / centre)
    initial = diffuse(graph, y, basis=basis, max_steps=0).residual
    for steps in (3, 10):
        got = diffuse(
            graph, y, basis=basis, rtol=0.0, max_steps=steps, solver="chebyshev"
        )
        bound = initial * 2 / (rho**steps + rho**-steps)
        assert (got.residual <= bound * (1 + 1e-9)).all()


@pytest.mark.parametrize(("solver", "kind"), PAIRS)
def test_a_zero_query_has_the_solution_0(graph, y, solver, kind):
    guess = make_guess(graph, y, kind)
    y = y.at[:, 1].set(0)
    got = diffuse(graph, y, solver=solver, rtol=1e-3, max_steps=900, **guess)
    np.testing.assert_array_equal(got.value[:, 1], 0)
    assert got.num_steps[1] == 0
    assert got.residual[1] == 0


def test_zero_queries_are_accepted(graph, y):
    guess = make_guess(graph, y[:, :0], "both")
    assert diffuse(graph, y[:, :0], **guess).value.shape == (graph.num_nodes, 0)


@pytest.mark.full
def test_right_hand_sides_at_the_ends_of_single_precision(collection):
    graph = normalize(compress(affinity(knn(collection.vectors.astype("f4"), 5))))
    y = jnp.asarray(np.random.default_rng(3).uniform(size=(86, 2)), jnp.float32)
    basis = leading_eigenvectors(graph, 10)
    near = diffuse(graph, y, max_steps=10).value
    settings: dict[str, Any] = {"basis": basis, "max_steps": 200, "rtol": 1e-5}
    expected = diffuse(graph, y, start=near, **settings).value
    for size in (1e-30, 1e30):
        got = diffuse(graph, size * y, start=size * near, **settings)
        assert got.value.dtype == jnp.float32
        assert got.converged.all()
        np.testing.assert_allclose(got.value, size * expected, rtol=1e-4)


@pytest.mark.parametrize("graph", ["compressed"], indirect=True)
@pytest.mark.parametrize(
    ("solver", "kind"),
    [
        ("cg", "both"),
        ("chebyshev", "basis"),
        *(
            pytest.param(*pair, marks=pytest.mark.full)
            for pair in itertools.product(SOLVERS, GUESSES)
            if pair not in {("cg", "both"), ("chebyshev", "basis")}
        ),
    ],
)
def test_derivatives_do_not_depend_on_the_guess(graph, y, solver, kind):
    guess = make_guess(graph, y, kind)
    if solver == "chebyshev" and kind != "start":
        guess["basis"] = exact_basis(graph, 18)

    def total(weights, alpha, y, guess):
        system = graph._replace(weights=weights)
        f = diffuse(system, y, alpha=alpha, solver=solver, **LONG, **guess)
        return (f.value**2).sum()

    arguments = graph.weights, jnp.asarray(0.8), y
    slope = jax.jit(jax.grad(total, (0, 1, 2)))
    expected = slope(*arguments, {})
    # Starting from the solution itself leaves only the derivatives to solve for.
    solution = diffuse(graph, y, alpha=0.8, **LONG).value
    starts = [guess | {"start": solution}] if "start" in guess else []
    for other in (guess, *starts):
        for got, plain in zip(slope(*arguments, other), expected, strict=True):
            np.testing.assert_allclose(got, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("graph", ["compressed"], indirect=True)
def test_derivatives_are_solved_to_a_tolerance_relative_to_themselves(graph, y):
    # With a large y: every derivative is 0 within a tolerance that is relative to it.
    large, start = 1e12 * y, jnp.zeros_like(y)

    def total(y, **guess):
        return diffuse(graph, y, rtol=1e-9, max_steps=500, **guess).value.sum()

    got, plain = jax.grad(total)(large, start=start), jax.grad(total)(large)
    np.testing.assert_allclose(got, plain, rtol=1e-7)


@pytest.mark.full
@pytest.mark.parametrize("graph", ["compressed"], indirect=True)
def test_second_derivatives_match_finite_differences(graph, y):
    guess = make_guess(graph, y[:, :2], "both")

    def scores(alpha, y):
        return diffuse(graph, jnp.asarray(y), alpha=alpha, **LONG, **guess).value

    arguments = jnp.asarray(0.7), y[:, :2]
    check_gradient(scores, arguments, order=2, tolerance=1e-4)


@pytest.mark.parametrize(
    ("solver", "kind"),
    [
        ("cg", "both"),
        ("chebyshev", "start"),
        *(
            pytest.param(*pair, marks=pytest.mark.full)
            for pair in (
                ("cg", "basis"),
                ("cg", "start"),
                ("chebyshev", "basis"),
                ("chebyshev", "both"),
            )
        ),
    ],
)
def test_a_query_gets_the_same_scores_alone_in_vmap_and_in_a_matrix(
    graph, y, solver, kind
):
    guess = make_guess(graph, y, kind)
    settings: dict[str, Any] = {"solver": solver, "rtol": 1e-5, "max_steps": 900}
    together = diffuse(graph, y, **settings, **guess)

    def alone(column, start):
        column_guess = dict(guess)
        if "start" in guess:
            column_guess["start"] = start[:, None]
        return diffuse(graph, column[:, None], **settings, **column_guess)

    starts = guess.get("start", y)
    batch = jax.jit(jax.vmap(alone, in_axes=1))(y, starts)
    for i in range(y.shape[1]):
        single = alone(y[:, i], starts[:, i])
        for got in (batch.value[i, :, 0], together.value[:, i]):
            np.testing.assert_allclose(got, single.value[:, 0], rtol=1e-9)
        assert batch.num_steps[i, 0] == single.num_steps[0] == together.num_steps[i]


@pytest.mark.full
def test_vmap_over_graphs_and_over_starts_is_a_loop(graph, y):
    basis = leading_eigenvectors(graph, 6)
    weights = jnp.stack([graph.weights, 0.5 * graph.weights])
    starts = jnp.stack([y, 2 * y])

    def scores(weights, start):
        system = graph._replace(weights=weights)
        return diffuse(system, y, basis=basis, start=start, **LONG).value

    got = jax.vmap(scores)(weights, starts)
    for i in range(2):
        np.testing.assert_allclose(got[i], scores(weights[i], starts[i]), rtol=1e-9)


@pytest.mark.full
@kernels.needed
@pytest.mark.parametrize(
    ("kind", "queries"),
    [
        ("both", 1),
        ("basis", 3),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in [("basis", 1), ("start", 1), ("start", 3), ("both", 3)]
        ),
    ],
)
def test_the_kernel_and_jax_agree(monkeypatch, collection, kind, queries):
    graph = normalize(compress(affinity(knn(collection.vectors.astype("f4"), 5))))
    y = jnp.asarray(np.random.default_rng(3).uniform(size=(86, queries)), jnp.float32)
    guess = make_guess(graph, y, kind)
    solutions = []
    for usable in (True, False):
        kernels.switch(monkeypatch, usable)
        solutions.append(diffuse(graph, y, rtol=1e-4, max_steps=90, **guess))

        def solve(y):
            return diffuse(graph, y, **guess).value

        # One call does all steps, if there is one tolerance.
        has_cg_call = "diffjax_csr_cg_float32" in kernels.calls(solve, y)
        assert has_cg_call == (usable and queries == 1)
    native, plain = solutions
    np.testing.assert_array_equal(native.num_steps, plain.num_steps)
    # Rounding in another order, which each of some 60 steps carries on, is as large for
    # a small residual as for one at the tolerance.
    np.testing.assert_allclose(native.residual, plain.residual, rtol=0, atol=0.1 * 1e-4)
    np.testing.assert_allclose(native.value, plain.value, rtol=1e-3)


@pytest.mark.usefixtures("unchecked")
def test_guesses_that_do_not_fit_are_refused(graph, y):
    basis = leading_eigenvectors(graph, 3)
    others: tuple[SolverName, ...] = "direct", "cg-bcoo"
    guesses: list[dict[str, Any]] = [{"basis": basis}, {"start": y}]
    for solver, guess in itertools.product(others, guesses):
        name = next(iter(guess))
        with pytest.raises(
            ValueError, match=f"{name} must be None for solver '{solver}"
        ):
            diffuse(graph, y, solver=solver, **guess)
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
