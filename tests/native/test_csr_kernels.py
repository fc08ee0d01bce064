import functools
import itertools

import jax
import jax.numpy as jnp
import kernels
import numpy as np
import pytest
import scipy.sparse

from diffjax.native import csr_cg, csr_local, csr_product

pytestmark = kernels.needed

DTYPES = np.float32, np.float64
# Whole vectors, a fraction of one, several blocks; rows for several threads.
COLUMNS = 1, 2, 3, 8, 32, 64, 70


def make_matrix(dtype, n=700, share=0.04) -> scipy.sparse.csr_array:
    """A random matrix that is not symmetric, with some empty rows."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(n, n)) * (rng.random((n, n)) < share)
    dense[[0, n // 2, n - 1]] = 0
    return scipy.sparse.csr_array(dense.astype(dtype))


def arguments(matrix, starts: type = np.int32):
    return (
        jnp.asarray(matrix.data),
        jnp.asarray(matrix.indices.astype(np.int32)),
        jnp.asarray(matrix.indptr.astype(starts)),
    )


@functools.cache
def compiled(function, **settings):
    return jax.jit(functools.partial(function, **settings))


def agree(got, matrix, x, dtype):
    """Within a rounding of each of the terms of a sum."""
    exact = matrix.astype(np.float64) @ x.astype(np.float64)
    terms = abs(matrix).astype(np.float64) @ np.abs(x).astype(np.float64)
    assert got.dtype == dtype
    slack = 16 * np.finfo(dtype).eps
    assert (np.abs(np.asarray(got, np.float64) - exact) <= slack * terms).all()


@pytest.mark.parametrize(
    ("dtype", "best", "starts", "columns"),
    [
        (np.float32, True, np.int32, COLUMNS),
        (np.float64, True, np.int64, COLUMNS),
        (np.float32, False, np.int64, (1, 3, 70)),
        (np.float64, False, np.int32, (1, 3, 70)),
        *(
            pytest.param(*case, COLUMNS, marks=pytest.mark.full)
            for case in itertools.product(DTYPES, (True, False), (np.int32, np.int64))
        ),
    ],
)
@pytest.mark.usefixtures("x64")
def test_products_are_those_of_scipy(dtype, best, starts, columns):
    matrix = make_matrix(dtype)
    rng = np.random.default_rng(1)
    for q in columns:
        x = rng.normal(size=(700, q)).astype(dtype)
        operands = *arguments(matrix, starts), jnp.asarray(x)
        agree(compiled(csr_product, best=best)(*operands), matrix, x, dtype)
        transposed = compiled(csr_product, best=best, transposed=True)(*operands)
        agree(transposed, matrix.T.tocsr(), x, dtype)


@pytest.mark.parametrize("entries", [[], [2.0]], ids=["empty", "one"])
def test_a_matrix_of_one_row(entries):
    matrix = scipy.sparse.csr_array(np.array([[sum(entries)]], np.float32))
    x = jnp.full((1, 3), 5.0)
    for transposed in (False, True):
        got = csr_product(*arguments(matrix), x, transposed=transposed)
        np.testing.assert_array_equal(got, np.full((1, 3), 5 * sum(entries)))


def test_zero_columns_and_zero_rows_are_accepted():
    matrix = arguments(make_matrix(np.float32, 5))
    assert csr_product(*matrix, jnp.zeros((5, 0))).shape == (5, 0)
    empty = jnp.zeros(0), jnp.zeros(0, jnp.int32), jnp.zeros(1, jnp.int32)
    assert csr_product(*empty, jnp.zeros((0, 2))).shape == (0, 2)


@pytest.mark.parametrize("columns", [1, 32])
def test_products_are_reproducible_to_the_bit(columns):
    matrix = arguments(make_matrix(np.float32))
    x = jnp.asarray(np.random.default_rng(2).normal(size=(700, columns)), jnp.float32)
    first = compiled(csr_product, best=True)(*matrix, x)
    for _ in range(5):
        np.testing.assert_array_equal(
            compiled(csr_product, best=True)(*matrix, x), first
        )


def test_indices_and_starts_out_of_range_are_safe():
    weights, indices, starts = arguments(make_matrix(np.float32, 50))
    far = 2**30
    x = jnp.ones((50, 9))
    for bad in (indices.at[0].set(-1), indices.at[3].set(far)):
        assert jnp.isfinite(csr_product(weights, bad, starts, x)).all()
        back = csr_product(weights, bad, starts, x, transposed=True)
        assert jnp.isfinite(back).all()
    for bad in (starts.at[4].set(-far), starts.at[7].set(far)):
        assert csr_product(weights, indices, bad, x).shape == x.shape


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda w, i, s, x: (w, i, s, x[1:]), "x must have one row for every row"),
        (lambda w, i, s, x: (w[1:], i, s, x), "indices and weights must be of one"),
        (lambda w, i, s, x: (w, i, s[:0], x), "starts must have one entry more"),
        (lambda w, i, s, x: (w, i, s.astype(float), x), "starts must be int32 or"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_operands_that_do_not_fit_are_an_error_and_no_crash(change, complaint):
    operands = change(*arguments(make_matrix(np.float32, 50)), jnp.ones((50, 2)))
    with pytest.raises(jax.errors.JaxRuntimeError, match=complaint):
        jax.block_until_ready(csr_product(*operands))


@pytest.mark.parametrize("best", [True, False], ids=["best", "baseline"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("x64")
def test_conjugate_gradient_solves_the_dense_system(dtype, best):
    matrix = make_matrix(np.float64, 300, 0.05)
    both = abs(matrix) + abs(matrix).T
    scale = 1 / np.sqrt(np.maximum(both.sum(1), 1e-9))
    symmetric = scipy.sparse.csr_array(both * scale[:, None] * scale)
    rng = np.random.default_rng(3)
    solve = compiled(
        csr_cg, best=best, rtol=1e-6 if dtype == np.float32 else 1e-12, max_steps=200
    )
    for starts, columns in ((np.int32, 1), (np.int64, 3), (np.int32, 40)):
        y = rng.uniform(size=(300, columns)).astype(dtype)
        alpha = np.linspace(0.3, 0.9, columns)[None]
        operands = arguments(symmetric.astype(dtype), starts)
        got = solve(*operands, jnp.asarray(alpha, dtype), jnp.asarray(y))
        assert got.value.dtype == dtype
        for i in range(0, columns, 13):
            system = np.eye(300) - alpha[0, i] * symmetric.toarray()
            exact = np.linalg.solve(system, y[:, i])
            tolerance = 2e-5 if dtype == np.float32 else 1e-10
            np.testing.assert_allclose(got.value[:, i], exact, rtol=tolerance)
        assert (got.num_steps > 3).all()
        assert (got.residual < 1e-5).all()


def solve_around(matrix, nodes, **changes):
    """Local solutions around some nodes, with right-hand sides of 1."""
    nodes = jnp.asarray(nodes, jnp.int32)
    settings = {
        "alpha": jnp.full(nodes.shape[:1], 0.01),
        "size": 8,
        "steps_per_expansion": 2,
        "rtol": 0.0,
        "max_steps": 3,
    }
    weights, indices, starts = matrix
    ones = jnp.ones(nodes.shape)
    return csr_local(weights, indices, starts, nodes, ones, **settings | changes)


def test_nodes_out_of_range_are_safe():
    matrix = arguments(make_matrix(np.float32, 50))
    weights, indices, starts = matrix
    known = solve_around(matrix, [[1, 2, 3]])
    more = solve_around(matrix, [[-1, 1, 2, 3]])
    far = solve_around(matrix, [[2**30, 1, 50, 2, 3, -(2**31)]])
    assert set(np.asarray(more.nodes)[0]) >= {1, 2, 3}
    assert np.isin(np.asarray(far.nodes), np.arange(-1, 50)).all()
    assert (np.asarray(known.nodes)[0, 3:] >= 0).any()
    for bad in (indices.at[0].set(-1), indices.at[:].set(2**30)):
        got = solve_around((weights, bad, starts), [[1, 2, 3]])
        assert np.isin(np.asarray(got.nodes), np.arange(-1, 50)).all()
    for bad in (starts.at[1].set(-(2**30)), starts.at[2].set(2**30)):
        got = solve_around((weights, indices, bad), [[1, 2, 3]])
        assert np.isin(np.asarray(got.nodes), np.arange(-1, 50)).all()


@pytest.mark.usefixtures("unchecked")
def test_queries_that_do_not_fit_are_an_error_and_no_crash():
    matrix = arguments(make_matrix(np.float32, 50))
    with pytest.raises(jax.errors.JaxRuntimeError, match="no fewer places"):
        jax.block_until_ready(solve_around(matrix, [[1, 2, 3]], size=2))
    with pytest.raises(jax.errors.JaxRuntimeError, match="one entry per query"):
        jax.block_until_ready(solve_around(matrix, [[1, 2, 3]], alpha=jnp.zeros(3)))


def test_local_solutions_do_not_depend_on_other_queries():
    """Many queries at once, on several threads, and one query at a time."""
    symmetric = make_matrix(np.float64, 700)
    symmetric = scipy.sparse.csr_array(abs(symmetric) + abs(symmetric).T)
    symmetric = symmetric * (1 / abs(symmetric).sum(1).max())
    matrix = arguments(symmetric.tocsr().astype(np.float32))
    nodes = np.random.default_rng(0).integers(700, size=(64, 5))
    together = solve_around(matrix, nodes, size=100)
    for query in range(0, 64, 21):
        alone = solve_around(matrix, nodes[query : query + 1], size=100)
        for name in together._fields:
            np.testing.assert_array_equal(
                getattr(alone, name)[0], getattr(together, name)[query]
            )


def test_a_call_without_kernels_is_an_error(monkeypatch):
    matrix = make_matrix(np.float32, n=9)
    kernels.switch(monkeypatch, False)
    with pytest.raises(RuntimeError, match="csr_product must have native kernels, got"):
        csr_product(*arguments(matrix), jnp.ones((9, 1), jnp.float32))
    kernels.forget()
