import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from diffjax.diffusion import cg_solve

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture
def system(x64):
    """A well-conditioned SPD matrix [6, 6] and right-hand sides [6, 3]."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    return jnp.asarray(root @ root.T + 6 * np.eye(6)), jnp.asarray(
        rng.normal(size=(6, 3))
    )


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_agrees_with_dense_solve(system, transform):
    a, b = system
    got = transform(
        lambda a, b: cg_solve(lambda x: a @ x, b, rtol=1e-12, max_steps=50)
    )(a, b)
    np.testing.assert_allclose(got.value, np.linalg.solve(a, b), rtol=1e-9)
    assert got.converged.all()


def test_each_column_stops_after_as_many_steps_as_it_has_eigenvalues():
    # Krylov theory: exact in d steps if b touches d distinct eigenvalues. Steepest
    # descent, or columns that wait for each other, would give other counts.
    eigenvalues = jnp.arange(1.0, 7.0)[:, None]
    b = jnp.eye(6)[:, 0], jnp.eye(6)[:, :2].sum(1), jnp.ones(6)
    got = cg_solve(lambda x: eigenvalues * x, jnp.stack(b, 1), rtol=1e-10)
    np.testing.assert_array_equal(got.num_steps, [1, 2, 6])


def test_a_finished_column_does_not_move_while_others_go_on(system):
    a, b = system
    easy = jnp.linalg.eigh(a)[1][:, :1]  # One eigenvector: done after one step.
    alone = cg_solve(lambda x: a @ x, easy, rtol=1e-10)
    beside = cg_solve(lambda x: a @ x, jnp.concatenate([easy, b], 1), rtol=1e-10)
    np.testing.assert_allclose(beside.value[:, 0], alone.value[:, 0], rtol=1e-13)
    assert beside.num_steps[0] == alone.num_steps[0] < beside.num_steps[1]


def test_going_on_for_ever_ends_in_the_answer_and_not_in_nothing_over_nothing():
    # Without a tolerance the residual falls until its products are 0 in float32.
    eigenvalues = jnp.linspace(0.5, 2.0, 40, dtype=jnp.float32)[:, None]
    b = jnp.asarray(np.random.default_rng(0).normal(size=(40, 20)), jnp.float32)
    got = cg_solve(lambda x: eigenvalues * x, b, rtol=0.0, max_steps=100)
    np.testing.assert_allclose(got.value, b / eigenvalues, rtol=1e-4)
    assert (got.residual < 1e-15).all()


def test_what_is_not_a_number_is_not_hidden(system):
    a, b = system
    broken = a.at[2, 2].set(jnp.nan)
    got = cg_solve(lambda x: broken @ x, b)
    assert np.isnan(got.value).any(0).all()
    assert not got.converged.any()


def test_zero_right_hand_side_gives_zero_in_no_steps(system):
    a, b = system
    got = cg_solve(lambda x: a @ x, jnp.zeros_like(b))
    np.testing.assert_array_equal(got.value, 0.0)
    np.testing.assert_array_equal(got.num_steps, 0)
    assert got.converged.all()


def test_no_columns_is_allowed():
    assert cg_solve(lambda x: x, jnp.zeros((6, 0))).value.shape == (6, 0)


def test_reports_when_it_stops_too_early(system):
    a, b = system
    got = cg_solve(lambda x: a @ x, b, rtol=1e-12, max_steps=1)
    assert not got.converged.any()
    true = jnp.linalg.norm(b - a @ got.value, axis=0) / jnp.linalg.norm(b, axis=0)
    np.testing.assert_allclose(got.residual, true, rtol=1e-9)


def test_squares_of_a_tiny_float32_right_hand_side_do_not_vanish(system):
    a, b = (x.astype(jnp.float32) for x in system)
    tiny = cg_solve(lambda x: a @ x, b * 1e-30)
    plain = cg_solve(lambda x: a @ x, b)
    np.testing.assert_array_equal(tiny.num_steps, plain.num_steps)
    np.testing.assert_allclose(tiny.value * 1e30, plain.value, rtol=1e-4)


def test_gradient_matches_finite_differences(system):
    a, b = system

    def solve(alpha, b):
        def matvec(x):
            return x + alpha * (a @ x)

        return cg_solve(matvec, jnp.asarray(b), rtol=1e-13, max_steps=60).value

    check_grads(solve, (jnp.asarray(0.3), b), order=2, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "bad", [{"rtol": -1.0}, {"rtol": 1.0}, {"max_steps": 0}], ids=str
)
def test_rejects_bad_hyper_parameters(system, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        cg_solve(lambda x: x, system[1], **bad)
