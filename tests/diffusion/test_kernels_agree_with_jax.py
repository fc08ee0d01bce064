"""Native kernels agree with JAX's own products under every transformation."""

import functools

import jax
import jax.numpy as jnp
import kernels
import numpy as np
import pytest

from diffjax.diffusion import diffuse, multiply
from diffjax.graph import affinity, compress, knn, normalize
from diffjax.types import Graph

pytestmark = kernels.needed

# Sums are taken in another order: some roundings of float32, as many of float64.
TOLERANCES = {"float32": 3e-6, "float64": 1e-14}


float32_by_default, float64_by_default = (
    pytest.mark.parametrize(
        "graph", [dtype, pytest.param(other, marks=pytest.mark.full)], indirect=True
    )
    for dtype, other in (("float32", "float64"), ("float64", "float32"))
)


@pytest.fixture(params=TOLERANCES)
def graph(request, collection) -> Graph:
    if request.param == "float64":
        request.getfixturevalue("x64")
    lists = knn(collection.vectors.astype(request.param), 6)
    return normalize(compress(affinity(lists)))


def both_paths(monkeypatch, make) -> list:
    """Results of a function by native kernels, and by JAX's own products."""
    results = []
    for usable in (True, False):
        kernels.switch(monkeypatch, usable)
        results.append(jax.tree.map(np.asarray, make()))
    return results


def agree(one, other, tolerance):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(
            a, b, rtol=tolerance, atol=tolerance * np.abs(b).max(initial=0)
        )


@pytest.mark.full
@float32_by_default
def test_products_and_their_derivatives(monkeypatch, graph):
    dtype = graph.weights.dtype
    draw = np.random.default_rng(0)
    x, factors = (jnp.asarray(draw.normal(size=(4, 86, 3)), dtype) for _ in range(2))
    columns = jnp.moveaxis(x, 0, 1)
    more = jnp.stack([graph.weights, 2 * graph.weights, 0 * graph.weights])

    def product(weights, x):
        return multiply(graph._replace(weights=weights), x)

    def total(weights, x):
        return jnp.sum(jnp.sin(product(weights, x)) * factors[0])

    gradient = jax.grad(total, (0, 1))

    def slope(weights, x):
        return jnp.sum(gradient(weights, x)[1] * factors[1])

    def make():
        weights = graph.weights
        return {
            "alone": product(weights, x[0]),
            "vmap": jax.vmap(product, (None, 0))(weights, x),
            "vmap of columns": jax.vmap(product, (None, 1), 2)(weights, columns),
            "vmap of vmap": jax.vmap(jax.vmap(product, (None, 0)), (None, 0))(
                weights, jnp.stack([x, factors])
            ),
            "vmap of graphs": jax.vmap(product, (0, None))(more, x[0]),
            "vmap of both": jax.vmap(product)(more, x[:3]),
            "jvp": jax.jvp(product, (weights, x[0]), (weights, factors[0])),
            "grad": gradient(weights, x[0]),
            "vmap of grad": jax.vmap(gradient, (None, 0))(weights, x),
            "grad of vmap": jax.grad(
                lambda w: jnp.sum(jax.vmap(total, (None, 0))(w, x))
            )(weights),
            "grad of grad": jax.grad(slope, (0, 1))(weights, x[0]),
        }

    def compiled_together():
        return jax.jit(functools.partial(make))()

    native, plain = both_paths(monkeypatch, compiled_together)
    tolerance = TOLERANCES[dtype.name]
    for name, got in native.items():
        agree(got, plain[name], tolerance)


@pytest.mark.full
def test_eager_products(monkeypatch, graph):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(86, 3)), graph.weights.dtype)
    native, plain = both_paths(monkeypatch, lambda: multiply(graph, x))
    agree(native, plain, TOLERANCES[x.dtype.name])


@pytest.mark.parametrize("keep_best", [False, True], ids=["last", "best"])
def test_solutions_and_their_diagnostics(monkeypatch, graph, keep_best):
    # Usual columns, a zero, a tiny and a large one, and some that are not finite.
    draw = np.random.default_rng(2).uniform(size=(86, 10))
    y = draw * (draw > 0.7)
    y[:, 3] = 0
    y[:, 5] *= 1e-30
    y[:, 6] *= 1e30
    y[4, 7] = np.nan
    y[4, 8] = np.inf
    y[4, 9] = -np.inf
    y = jnp.asarray(y, graph.weights.dtype)
    settings = {"keep_best": keep_best, "alpha": 0.999}
    # Solved at once, because a switch of the path forgets compiled programs.
    cases = ((0.0, 7), (1e-2, 40), (1e-5, 15))

    def make():
        return [
            diffuse(graph, y, rtol=rtol, max_steps=max_steps, **settings)
            for rtol, max_steps in cases
        ]

    for native, plain in zip(*both_paths(monkeypatch, make), strict=True):
        np.testing.assert_array_equal(native.num_steps, plain.num_steps)
        np.testing.assert_array_equal(native.converged, plain.converged)
        # The condition number of the system amplifies differences of rounding.
        tolerance = 1e-3 if y.dtype == jnp.float32 else 1e-9
        np.testing.assert_allclose(native.residual, plain.residual, rtol=tolerance)
        for i in range(y.shape[1]):
            agree(native.value[:, i], plain.value[:, i], tolerance)


@float32_by_default
def test_a_solve_with_a_tolerance_of_0(monkeypatch, graph):
    # Until products are too small to divide by: no 0 / 0, by either path.
    y = jnp.asarray(np.random.default_rng(3).uniform(size=(86, 3)), graph.weights.dtype)
    native, plain = both_paths(
        monkeypatch, lambda: diffuse(graph, y, rtol=0.0, alpha=0.9, max_steps=1000)
    )
    agree(native.value, plain.value, 100 * TOLERANCES[y.dtype.name])
    for solution in (native, plain):
        assert (solution.residual < 1e-15).all()


@pytest.mark.full
@float64_by_default
def test_gradients_of_a_solve(monkeypatch, graph):
    dtype = graph.weights.dtype
    y = jnp.asarray(np.random.default_rng(4).uniform(size=(86, 2)), dtype)
    settings = {"rtol": 1e-6 if dtype == jnp.float32 else 1e-13, "max_steps": 500}

    def total(weights, alpha, y):
        system = graph._replace(weights=weights)
        return (diffuse(system, y, alpha=alpha, **settings).value ** 2).sum()

    def make():
        gradient = jax.jit(jax.grad(total, (0, 1, 2)))
        return gradient(graph.weights, jnp.asarray(0.8, dtype), y)

    native, plain = both_paths(monkeypatch, make)
    agree(native, plain, 1e-4 if dtype == jnp.float32 else 1e-11)


def test_a_solve_is_one_call_and_its_gradient_another(monkeypatch, graph):
    kernels.switch(monkeypatch, usable=True)
    dtype = graph.weights.dtype
    y = jnp.ones((86, 2), dtype)

    def scores(y):
        return diffuse(graph, y).value

    name = f"diffjax_csr_cg_{dtype.name}"
    assert kernels.calls(scores, y) == [name]
    gradient = jax.grad(lambda y: (scores(y) ** 2).sum())
    assert kernels.calls(gradient, y) == [name, name]
    kernels.switch(monkeypatch, usable=False)
    assert set(kernels.calls(scores, y)) == {kernels.XLA_KERNEL}


def test_other_types_than_those_of_the_kernels_use_jax(monkeypatch, graph):
    kernels.switch(monkeypatch, usable=True)
    x = jnp.ones((86, 2), graph.weights.dtype)
    assert kernels.calls(multiply, graph, x)
    half = graph._replace(weights=graph.weights.astype(jnp.bfloat16))
    assert not kernels.calls(multiply, half, x.astype(jnp.bfloat16))
    if graph.weights.dtype == jnp.float64:
        wide = graph._replace(indices=graph.indices.astype(jnp.int64))
        assert "diffjax" not in "".join(kernels.calls(multiply, wide, x))
        counted = graph._replace(starts=graph.starts.astype(jnp.int64))
        assert kernels.calls(multiply, counted, x) == ["diffjax_csr_product_float64"]
        np.testing.assert_array_equal(multiply(counted, x), multiply(graph, x))
        solved = diffuse(counted, x).value
        np.testing.assert_array_equal(solved, diffuse(graph, x).value)
        kernels.switch(monkeypatch, usable=False)
        agree(np.asarray(multiply(counted, x)), np.asarray(multiply(graph, x)), 1e-14)
