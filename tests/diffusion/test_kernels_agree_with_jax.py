"""Native kernels and JAX's own products give one answer, however they are used."""

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


@pytest.fixture(params=TOLERANCES)
def graph(request, collection) -> Graph:
    if request.param == "float64":
        request.getfixturevalue("x64")
    lists = knn(collection.vectors.astype(request.param), 6)
    return normalize(compress(affinity(lists)))


def both_paths(monkeypatch, make) -> list:
    """What a function gives by native kernels, and by JAX's own."""
    found = []
    for usable in (True, False):
        kernels.switch(monkeypatch, usable)
        found.append(jax.tree.map(np.asarray, make()))
    return found


def agree(one, other, tolerance):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(
            a, b, rtol=tolerance, atol=tolerance * np.abs(b).max(initial=0)
        )


def test_products_and_their_derivatives(monkeypatch, graph):
    dtype = graph.weights.dtype
    draw = np.random.default_rng(0)
    x, turn = (jnp.asarray(draw.normal(size=(4, 86, 3)), dtype) for _ in range(2))
    columns = jnp.moveaxis(x, 0, 1)
    more = jnp.stack([graph.weights, 2 * graph.weights, 0 * graph.weights])

    def product(weights, x):
        return multiply(graph._replace(weights=weights), x)

    def total(weights, x):
        return jnp.sum(jnp.sin(product(weights, x)) * turn[0])

    gradient = jax.grad(total, (0, 1))

    def slope(weights, x):
        return jnp.sum(gradient(weights, x)[1] * turn[1])

    def make():
        weights = graph.weights
        return {
            "alone": product(weights, x[0]),
            "vmap": jax.vmap(product, (None, 0))(weights, x),
            "vmap of columns": jax.vmap(product, (None, 1), 2)(weights, columns),
            "vmap of vmap": jax.vmap(jax.vmap(product, (None, 0)), (None, 0))(
                weights, jnp.stack([x, turn])
            ),
            "vmap of graphs": jax.vmap(product, (0, None))(more, x[0]),
            "vmap of both": jax.vmap(product)(more, x[:3]),
            "jvp": jax.jvp(product, (weights, x[0]), (weights, turn[0])),
            "grad": gradient(weights, x[0]),
            "jit of grad": jax.jit(gradient)(weights, x[0]),
            "vmap of grad": jax.vmap(gradient, (None, 0))(weights, x),
            "grad of vmap": jax.grad(
                lambda w: jnp.sum(jax.vmap(total, (None, 0))(w, x))
            )(weights),
            "grad of grad": jax.grad(slope, (0, 1))(weights, x[0]),
        }

    def compiled_together():
        return jax.jit(functools.partial(make))()

    native, own = both_paths(monkeypatch, compiled_together)
    tolerance = TOLERANCES[dtype.name]
    for name, got in native.items():
        agree(got, own[name], tolerance)


def test_eager_products(monkeypatch, graph):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(86, 3)), graph.weights.dtype)
    native, own = both_paths(monkeypatch, lambda: multiply(graph, x))
    agree(native, own, TOLERANCES[x.dtype.name])


@pytest.mark.parametrize("keep_best", [False, True], ids=["last", "best"])
def test_solutions_and_what_is_told_of_them(monkeypatch, graph, keep_best):
    # Usual columns, one that is zero, one that is done at once, tiny and large ones,
    # and some that are not finite.
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
    for rtol, max_steps in ((0.0, 7), (1e-2, 40), (1e-5, 15)):

        def make(rtol=rtol, max_steps=max_steps):
            return diffuse(graph, y, rtol=rtol, max_steps=max_steps, **settings)

        native, own = both_paths(monkeypatch, make)
        np.testing.assert_array_equal(native.num_steps, own.num_steps)
        np.testing.assert_array_equal(native.converged, own.converged)
        # What was rounded differently is amplified by as much as the system is.
        tolerance = 1e-3 if y.dtype == jnp.float32 else 1e-9
        np.testing.assert_allclose(native.residual, own.residual, rtol=tolerance)
        for i in range(y.shape[1]):
            agree(native.value[:, i], own.value[:, i], tolerance)


def test_a_solve_without_end(monkeypatch, graph):
    # Until products are too small to divide by: no 0 / 0, by either path.
    y = jnp.asarray(np.random.default_rng(3).uniform(size=(86, 3)), graph.weights.dtype)
    native, own = both_paths(
        monkeypatch, lambda: diffuse(graph, y, rtol=0.0, alpha=0.9, max_steps=1000)
    )
    agree(native.value, own.value, 100 * TOLERANCES[y.dtype.name])
    assert (native.residual < 1e-15).all()


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

    native, own = both_paths(monkeypatch, make)
    agree(native, own, 1e-4 if dtype == jnp.float32 else 1e-11)


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


def test_other_types_than_the_kernels_go_another_way(monkeypatch, graph):
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
