import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from diffjax.diffusion import diffuse
from diffjax.diffusion._chebyshev import Interval, chebyshev_loop
from diffjax.diffusion._loop import Stop
from diffjax.graph import affinity, compress, knn, normalize
from diffjax.types import Graph


@pytest.fixture(params=["padded", "compressed"])
def graph(request, collection, x64) -> Graph:
    padded = affinity(knn(collection.vectors, 5))
    return normalize(padded if request.param == "padded" else compress(padded))


@pytest.fixture
def y(graph) -> jax.Array:
    return jnp.asarray(np.random.default_rng(3).uniform(size=(graph.num_nodes, 3)))


chebyshev = functools.partial(diffuse, solver="chebyshev")


def growth(alpha):
    """rho of the bound, for eigenvalues of S in [-1, 1]."""
    return (1 + np.sqrt(1 - alpha**2)) / alpha


def bound(alpha, steps):
    rho = growth(alpha)
    return 2 / (rho**steps + rho**-steps)


@pytest.mark.parametrize("alpha", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 5, 30])
def test_residuals_are_within_the_bound_and_reach_it(graph, y, alpha, steps):
    got = chebyshev(graph, y, alpha=alpha, rtol=0.0, max_steps=steps)
    assert (got.residual <= bound(alpha, steps) * (1 + 1e-9)).all()
    # The leading eigenvector, the roots of the degrees, is at the end of the interval.
    worst = jnp.sqrt(graph.degrees)[:, None]
    got = chebyshev(graph, worst, alpha=alpha, rtol=0.0, max_steps=steps)
    np.testing.assert_allclose(got.residual, bound(alpha, steps), rtol=1e-7)


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


def test_nothing_is_summed_over_nodes_in_a_step():
    eigenvalues = jnp.linspace(0.1, 1.9, 7)[:, None]
    within = Interval(jnp.full((1, 2), 0.1), jnp.full((1, 2), 1.9))

    def solve(b):
        return chebyshev_loop(
            lambda x: eigenvalues * x, b, Stop(1e-6, 50), within=within
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

    within = Interval(jnp.full((1, 1), 0.1), jnp.full((1, 1), 1.9))
    found = chebyshev_loop(matvec, jnp.ones((7, 1)), Stop(0.0, 9), within=within)
    jax.block_until_ready(found.value)
    jax.effects_barrier()
    assert len(products) == operator.index(found.num_steps[0]) == 9


def test_alpha_of_0_takes_one_step(graph, y):
    for rtol in (0.0, 1e-6):
        got = chebyshev(graph, y, alpha=0.0, rtol=rtol, max_steps=5)
        np.testing.assert_allclose(got.value, y, rtol=1e-15)
        assert (got.num_steps == 1).all()
        np.testing.assert_array_equal(got.residual, 0)


def test_a_zero_column_takes_no_step_and_others_do_not_mind(graph, y):
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
    y = jnp.full((graph.num_nodes, 1), 1e-30)
    got = chebyshev(graph, y, alpha=0.9, max_steps=200)
    assert got.converged.all()
    large = chebyshev(graph, 1e30 * y, alpha=0.9, max_steps=200)
    np.testing.assert_allclose(got.value, 1e-30 * large.value, rtol=1e-5)


def test_the_smallest_residual_is_not_looked_for(graph, y):
    with pytest.raises(ValueError, match="keep_best must be False for solver 'cheby"):
        chebyshev(graph, y, keep_best=True)
