import functools
import itertools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from diffjax.diffusion import diffuse
from diffjax.diffusion._cg import (
    SpectralInterval,
    StopCriterion,
    cg_loop,
    chebyshev_loop,
)
from diffjax.graph import affinity, compress, knn, normalize
from diffjax.types import Graph

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture
def system(x64):
    """A well-conditioned SPD matrix [6, 6] and right-hand sides [6, 3]."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    return jnp.asarray(root @ root.T + 6 * np.eye(6)), jnp.asarray(
        rng.normal(size=(6, 3))
    )


def cg(a, b, *, rtol=1e-6, max_steps=20):
    """Conjugate gradient on a dense matrix, or on a diagonal one [n, 1]."""
    product = operator.mul if a.shape[1] == 1 else operator.matmul
    return cg_loop(lambda x: product(a, x), b, StopCriterion(rtol, max_steps))


jitted_cg = jax.jit(cg)


@pytest.mark.parametrize(
    "solve", [jitted_cg, pytest.param(cg, marks=pytest.mark.full)], ids=["jit", "eager"]
)
def test_agrees_with_dense_solve(system, solve):
    a, b = system
    got = solve(a, b, rtol=1e-12, max_steps=50)
    np.testing.assert_allclose(got.value, np.linalg.solve(a, b), rtol=1e-9)
    assert (got.residual <= 1e-12).all()


def test_each_column_stops_after_as_many_steps_as_it_has_eigenvalues():
    # Krylov theory: exact in d steps if b touches d distinct eigenvalues. Steepest
    # descent, or columns that wait for each other, would give other counts.
    eigenvalues = jnp.arange(1.0, 7.0)[:, None]
    b = jnp.eye(6)[:, 0], jnp.eye(6)[:, :2].sum(1), jnp.ones(6)
    got = jitted_cg(eigenvalues, jnp.stack(b, 1), rtol=1e-10)
    np.testing.assert_array_equal(got.num_steps, [1, 2, 6])


def test_a_finished_column_does_not_move_while_others_go_on(system):
    a, b = system
    easy = jnp.linalg.eigh(a)[1][:, :1]  # One eigenvector: done after one step.
    alone = jitted_cg(a, easy, rtol=1e-10)
    beside = jitted_cg(a, jnp.concatenate([easy, b[:, :2]], 1), rtol=1e-10)
    np.testing.assert_allclose(beside.value[:, 0], alone.value[:, 0], rtol=1e-13)
    assert beside.num_steps[0] == alone.num_steps[0] < beside.num_steps[1]


def test_a_tolerance_of_0_ends_without_a_division_by_0():
    # Without a tolerance the residual falls until its products are 0 in float32.
    eigenvalues = jnp.linspace(0.5, 2.0, 40, dtype=jnp.float32)[:, None]
    b = jnp.asarray(np.random.default_rng(0).normal(size=(40, 20)), jnp.float32)
    got = jitted_cg(eigenvalues, b, rtol=0.0, max_steps=100)
    np.testing.assert_allclose(got.value, b / eigenvalues, rtol=1e-4)
    assert (got.residual < 1e-15).all()


def test_nan_in_the_matrix_shows_in_the_solution(system):
    a, b = system
    got = jitted_cg(a.at[2, 2].set(jnp.nan), b)
    assert np.isnan(got.value).any(0).all()
    assert not (got.residual <= 1e-6).any()


def test_zero_right_hand_side_gives_zero_in_no_steps(system):
    a, b = system
    got = jitted_cg(a, jnp.zeros_like(b))
    np.testing.assert_array_equal(got.value, 0.0)
    np.testing.assert_array_equal(got.num_steps, 0)
    np.testing.assert_array_equal(got.residual, 0.0)


def test_zero_columns_are_accepted():
    assert cg(jnp.eye(6), jnp.zeros((6, 0))).value.shape == (6, 0)


def test_reports_when_it_stops_too_early(system):
    a, b = system
    got = jitted_cg(a, b, rtol=1e-12, max_steps=1)
    assert (got.residual > 1e-12).all()
    true = jnp.linalg.norm(b - a @ got.value, axis=0) / jnp.linalg.norm(b, axis=0)
    np.testing.assert_allclose(got.residual, true, rtol=1e-9)


def test_squares_of_a_tiny_float32_right_hand_side_do_not_vanish(system):
    a, b = (x.astype(jnp.float32) for x in system)
    tiny = jitted_cg(a, b * 1e-30)
    plain = jitted_cg(a, b)
    np.testing.assert_array_equal(tiny.num_steps, plain.num_steps)
    np.testing.assert_allclose(tiny.value * 1e30, plain.value, rtol=1e-4)


@pytest.fixture(params=["compressed", pytest.param("padded", marks=pytest.mark.full)])
def graph(request, collection, x64) -> Graph:
    padded = affinity(knn(collection.vectors, 5))
    return normalize(padded if request.param == "padded" else compress(padded))


@pytest.fixture
def y(graph) -> jax.Array:
    return jnp.asarray(np.random.default_rng(3).uniform(size=(graph.num_nodes, 3)))


chebyshev = functools.partial(diffuse, solver="chebyshev")


def growth(alpha):
    """The rate rho of the bound, for eigenvalues of S in [-1, 1]."""
    return (1 + np.sqrt(1 - alpha**2)) / alpha


def bound(alpha, steps):
    rho = growth(alpha)
    return 2 / (rho**steps + rho**-steps)


def test_residuals_are_within_the_bound_and_reach_it(graph, y):
    # The leading eigenvector, the roots of the degrees, is at the end of the interval.
    y = y.at[:, 0].set(jnp.sqrt(graph.degrees))
    for alpha, steps in itertools.product([0.3, 0.9, 0.99], [1, 2, 5, 30]):
        got = chebyshev(graph, y, alpha=alpha, rtol=0.0, max_steps=steps)
        assert (got.residual <= bound(alpha, steps) * (1 + 1e-7)).all()
        np.testing.assert_allclose(got.residual[0], bound(alpha, steps), rtol=1e-7)


def test_the_residual_is_chebyshevs_polynomial_of_s(graph, y):
    dense = graph.to_scipy().toarray()
    values, vectors = np.linalg.eigh(dense)
    for steps in range(1, 8):
        t = np.polynomial.chebyshev.Chebyshev.basis(steps)
        expected = vectors @ ((t(values) / t(1 / 0.9))[:, None] * (vectors.T @ y))
        value = chebyshev(graph, y, alpha=0.9, rtol=0.0, max_steps=steps).value
        rest = y - (value - 0.9 * dense @ np.asarray(value))
        np.testing.assert_allclose(rest, expected, atol=1e-12)


@pytest.mark.parametrize(("alpha", "rtol"), [(0.5, 1e-3), (0.99, 1e-6), (0.9, 1e-9)])
def test_steps_are_those_that_the_bound_takes(graph, y, alpha, rtol):
    got = chebyshev(graph, y, alpha=alpha, rtol=rtol, max_steps=500)
    steps = int(got.num_steps[0])
    assert bound(alpha, steps) <= rtol < bound(alpha, steps - 1)
    assert (got.num_steps == steps).all()
    assert got.converged.all()
    short = chebyshev(graph, y, alpha=alpha, rtol=rtol, max_steps=steps // 2)
    assert (short.num_steps == steps // 2).all()
    assert not short.converged.any()


def test_steps_are_not_many_more_than_those_of_conjugate_gradient(graph, y):
    settings: dict[str, Any] = {"alpha": 0.99, "rtol": 1e-8, "max_steps": 500}
    ours, best = chebyshev(graph, y, **settings), diffuse(graph, y, **settings)
    settings["max_steps"] = 5000
    classic = diffuse(graph, y, solver="iterate", **settings)
    assert (ours.num_steps < 3 * best.num_steps).all()
    assert (5 * ours.num_steps < classic.num_steps).all()


def test_no_step_sums_over_nodes():
    eigenvalues = jnp.linspace(0.1, 1.9, 7)[:, None]
    interval = SpectralInterval(jnp.full((1, 2), 0.1), jnp.full((1, 2), 1.9))

    def solve(b):
        return chebyshev_loop(
            lambda x: eigenvalues * x, b, StopCriterion(1e-6, 50), interval=interval
        )

    program = jax.make_jaxpr(solve)(jnp.ones((7, 2)))
    (loop,) = (e for e in program.eqns if e.primitive.name == "while")
    inside = {e.primitive.name for e in loop.params["body_jaxpr"].eqns}
    assert "mul" in inside
    assert not any(name.startswith(("reduce", "dot")) for name in inside), inside
    assert any(e.primitive.name == "reduce_sum" for e in program.eqns)


def test_each_step_is_one_product():
    products = []

    def matvec(x):
        jax.debug.callback(lambda: products.append(1))
        return jnp.linspace(0.1, 1.9, 7)[:, None] * x

    interval = SpectralInterval(jnp.full((1, 1), 0.1), jnp.full((1, 1), 1.9))
    got = chebyshev_loop(
        matvec, jnp.ones((7, 1)), StopCriterion(0.0, 9), interval=interval
    )
    jax.block_until_ready(got.value)
    jax.effects_barrier()
    assert len(products) == operator.index(got.num_steps[0]) == 9


def test_alpha_of_0_takes_one_step(graph, y):
    for rtol in (0.0, 1e-6):
        got = chebyshev(graph, y, alpha=0.0, rtol=rtol, max_steps=5)
        np.testing.assert_allclose(got.value, y, rtol=1e-15)
        assert (got.num_steps == 1).all()
        np.testing.assert_array_equal(got.residual, 0)


def test_a_zero_column_takes_no_step_and_changes_no_other(graph, y):
    some = y.at[:, 1].set(0)
    got = chebyshev(graph, some, rtol=1e-9, max_steps=500)
    np.testing.assert_array_equal(got.value[:, 1], 0)
    assert got.num_steps[1] == 0
    assert got.converged.all()
    dense = graph.to_scipy().toarray()
    expected = oracle.diffusion(dense, np.asarray(some), 0.99)
    np.testing.assert_allclose(got.value, expected, atol=1e-6)
    assert chebyshev(graph, y[:, :0]).value.shape == (graph.num_nodes, 0)


def test_tiny_right_hand_sides_of_single_precision(collection):
    graph = normalize(affinity(knn(collection.vectors.astype(np.float32), 5)))
    y = jnp.full((graph.num_nodes, 1), 1e-30, jnp.float32)
    got = chebyshev(graph, y, alpha=0.9, max_steps=200)
    assert got.converged.all()
    large = chebyshev(graph, 1e30 * y, alpha=0.9, max_steps=200)
    np.testing.assert_allclose(got.value, 1e-30 * large.value, rtol=1e-5)


def test_keep_best_is_refused(graph, y):
    with pytest.raises(ValueError, match="keep_best must be False for solver 'cheby"):
        chebyshev(graph, y, keep_best=True)
