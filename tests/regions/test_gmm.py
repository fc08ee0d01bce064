import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from diffjax.regions import Mixture, fit_mixture
from diffjax.regions._gmm import (
    fit_masked_mixture,
    kmeans_plus_plus_memberships,
    maximization_step,
    run_em_steps,
)

SCIKIT_LEARN_NAMES = {"diagonal": "diag", "spherical": "spherical"}
KEY = jax.random.key(0)
# One shape for almost all tests, so that they share their programs.
SIZE, DIMENSIONS, COMPONENTS = 40, 3, 4


@functools.partial(jax.jit, static_argnames=("covariance", "steps"))
def refine(
    vectors, mixture, *, covariance: Any = "diagonal", steps, regularization=3e-3
):
    """EM steps from a mixture, with the settings of `fit_mixture`."""
    update = functools.partial(
        maximization_step, vectors, covariance=covariance, regularization=regularization
    )
    return run_em_steps(vectors, jnp.ones(SIZE, bool), mixture, update, steps=steps)


def draw_clusters(seed, *, spread):
    """40 vectors about 4 centres of unit variance, float64, and their clusters."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(COMPONENTS, DIMENSIONS))
    owner = rng.permutation(np.arange(SIZE) % COMPONENTS)
    noise = spread * rng.normal(size=(SIZE, DIMENSIONS))
    return centres[owner] + noise, owner


def draw_start(vectors, seed):
    """A mixture about some of the vectors, of variances as large as all of them."""
    rng = np.random.default_rng(seed)
    variances = rng.uniform(0.5, 1.5, size=(COMPONENTS, 1)) * vectors.var(0).mean()
    return Mixture(
        weights=jnp.asarray(rng.dirichlet(np.ones(COMPONENTS)).astype(vectors.dtype)),
        means=jnp.asarray(vectors[rng.permutation(SIZE)[:COMPONENTS]]),
        variances=jnp.asarray(
            np.broadcast_to(variances, (COMPONENTS, DIMENSIONS)).astype(vectors.dtype)
        ),
        log_likelihood=jnp.asarray(np.array(np.nan, vectors.dtype)),
    )


def by_scikit_learn(vectors, covariance, **settings) -> Any:
    model = GaussianMixture(
        COMPONENTS, covariance_type=SCIKIT_LEARN_NAMES[covariance], **settings
    )
    with warnings.catch_warnings():
        # All steps are wanted, whether or not they are needed.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(vectors)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("covariance", "steps"),
    [
        ("diagonal", 12),
        ("spherical", 12),
        pytest.param("diagonal", 1, marks=pytest.mark.full),
        pytest.param("spherical", 1, marks=pytest.mark.full),
    ],
)
def test_steps_agree_with_scikit_learn_from_the_same_start(covariance, steps):
    vectors, _ = draw_clusters(0, spread=0.5)
    start = draw_start(vectors, 1)
    precisions = 1 / np.asarray(start.variances)
    theirs = by_scikit_learn(
        vectors,
        covariance,
        reg_covar=1e-3,
        max_iter=steps,
        tol=0.0,
        weights_init=np.asarray(start.weights),
        means_init=np.asarray(start.means),
        precisions_init=precisions if covariance == "diagonal" else precisions[:, 0],
    )
    ours = refine(
        jnp.asarray(vectors),
        start,
        covariance=covariance,
        steps=steps,
        regularization=1e-3,
    )
    expected = SIZE * theirs.score(vectors)
    np.testing.assert_allclose(ours.log_likelihood, expected, rtol=1e-9)
    np.testing.assert_allclose(ours.weights, theirs.weights_, rtol=1e-7)
    np.testing.assert_allclose(ours.means, theirs.means_, rtol=1e-7)
    variances = np.reshape(theirs.covariances_, (COMPONENTS, -1))
    variances = np.broadcast_to(variances, (COMPONENTS, DIMENSIONS))
    np.testing.assert_allclose(ours.variances, variances, rtol=1e-7)


@pytest.mark.full
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("covariance", "spread"),
    [
        ("diagonal", 0.3),
        ("spherical", 0.6),
        *(
            pytest.param(*pair, marks=pytest.mark.full)
            for pair in (
                ("diagonal", 0.1),
                ("diagonal", 0.6),
                ("spherical", 0.1),
                ("spherical", 0.3),
            )
        ),
    ],
)
def test_the_best_of_several_starts_is_as_likely_as_the_best_of_scikit_learn(
    covariance, spread
):
    vectors, _ = draw_clusters(2, spread=spread)
    theirs = by_scikit_learn(
        vectors,
        covariance,
        reg_covar=1e-2,
        n_init=10,
        max_iter=200,
        tol=1e-9,
        random_state=0,
    )
    ours = fit_mixture(
        jnp.asarray(vectors),
        components=COMPONENTS,
        key=KEY,
        covariance=covariance,
        restarts=30,
        steps=200,
        regularization=1e-2,
    )
    assert ours.log_likelihood > SIZE * theirs.score(vectors) - 1e-3


@settings(deadline=None, max_examples=10)
@given(
    seed=st.integers(0, 1000),
    spread=st.sampled_from([0.2, 1.0]),
    covariance=st.sampled_from(list(SCIKIT_LEARN_NAMES)),
    regularization=st.sampled_from([1e-5, 1e-3, 1e-1]),
)
def test_no_step_lowers_the_likelihood_but_for_the_regularisation(
    seed, spread, covariance, regularization
):
    # With S the variance before it is regularised and v = S + r after, a step gives
    # away at most N/2 (log v/S + S/v - 1) for N vectors and each dimension.
    vectors, _ = draw_clusters(seed, spread=spread)
    vectors = vectors.astype(np.float32)
    improve = functools.partial(
        refine,
        jnp.asarray(vectors),
        covariance=covariance,
        regularization=regularization,
    )
    before = improve(draw_start(vectors, seed), steps=0)
    for _ in range(8):
        after = improve(before, steps=1)
        v = np.asarray(after.variances, np.float64)
        share = np.clip(1 - regularization / v, 1e-6, None)
        cost = (np.log(1 / share) + share - 1).sum(1)
        cost = SIZE / 2 * float(np.asarray(after.weights) @ cost)
        assert after.log_likelihood >= before.log_likelihood - cost - 1e-3
        before = after


@pytest.mark.parametrize(
    ("transform", "covariance"),
    [
        (lambda f: f, "diagonal"),
        (lambda f: f, "spherical"),
        pytest.param(jax.jit, "diagonal", marks=pytest.mark.full),
    ],
    ids=["diagonal", "spherical", "in-jit"],
)
def test_clusters_far_apart_are_found(transform, covariance):
    # Their variance is a millionth of their squares: rounding of those (1e-7) would be
    # a tenth of it.
    vectors, owner = draw_clusters(5, spread=1e-3)
    vectors = vectors.astype(np.float32)
    call = functools.partial(
        fit_mixture,
        components=COMPONENTS,
        key=KEY,
        covariance=covariance,
        regularization=1e-8,
    )
    mixture = jax.tree.map(np.asarray, transform(call)(jnp.asarray(vectors)))
    nearest = [
        int(
            np.linalg.norm(mixture.means - vectors[owner == i].mean(0), axis=1).argmin()
        )
        for i in range(COMPONENTS)
    ]
    assert sorted(nearest) == list(range(COMPONENTS))
    np.testing.assert_allclose(mixture.weights, 1 / COMPONENTS, rtol=1e-5)
    for i, component in enumerate(nearest):
        cluster = vectors[owner == i].astype(np.float64)
        variances = cluster.var(0)
        if covariance == "spherical":
            variances = variances.mean()
        np.testing.assert_allclose(mixture.means[component], cluster.mean(0), atol=1e-6)
        np.testing.assert_allclose(
            mixture.variances[component], variances + 1e-8, rtol=1e-3
        )


def test_a_component_that_loses_all_its_weight_is_dropped_for_good():
    vectors, _ = draw_clusters(6, spread=0.5)
    vectors = vectors.astype(np.float32)
    start = draw_start(vectors, 0)
    means, weights = np.array(start.means), np.array(start.weights)
    means[2], weights[2] = 1e3, 0
    lost = start._replace(means=jnp.asarray(means))
    without = start._replace(weights=jnp.asarray(weights))
    for _ in range(5):  # The program of one step is compiled for the test above.
        lost, without = (
            refine(jnp.asarray(vectors), mixture, steps=1)
            for mixture in (lost, without)
        )
    assert lost.weights[2] == 0
    np.testing.assert_array_equal(lost.means[2], 0)
    for ours, theirs in zip(lost, without, strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("distinct", [1, 2, 3, 4])
def test_number_of_components_is_that_of_distinct_vectors(distinct):
    rng = np.random.default_rng(distinct)
    different = rng.normal(size=(distinct, DIMENSIONS)).astype(np.float32)
    copies = np.arange(SIZE) % distinct
    got = fit_mixture(jnp.asarray(different[copies]), components=4, key=KEY)
    assert all(np.isfinite(leaf).all() for leaf in got)
    is_kept = np.asarray(got.weights) > 0
    assert is_kept.sum() == distinct
    order = np.lexsort(np.asarray(got.means)[is_kept].T)
    np.testing.assert_allclose(
        np.asarray(got.means)[is_kept][order],
        different[np.lexsort(different.T)],
        atol=1e-5,
    )
    shares = np.sort(np.bincount(copies) / SIZE)
    np.testing.assert_allclose(np.sort(got.weights)[-distinct:], shares, rtol=1e-5)


@pytest.mark.full
def test_padding_rows_change_nothing():
    vectors, _ = draw_clusters(7, spread=0.5)
    vectors = vectors.astype(np.float32)
    alone = fit_mixture(jnp.asarray(vectors), components=COMPONENTS, key=KEY)
    call = jax.jit(
        functools.partial(
            fit_masked_mixture,
            starts=jax.random.uniform(KEY, (5, COMPONENTS)),  # As `fit_mixture` draws.
            regularization=3e-3,
            covariance="diagonal",
            steps=10,
        )
    )
    filled = np.pad(vectors, ((0, 9), (0, 0)))
    padded = call(jnp.asarray(filled), jnp.asarray(np.arange(SIZE + 9) < SIZE))
    for ours, theirs in zip(padded, alone, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    without = call(jnp.asarray(0 * filled), jnp.asarray(np.zeros(SIZE + 9, bool)))
    np.testing.assert_array_equal(without.weights, 0)
    assert all(np.isfinite(leaf).all() for leaf in without)


@pytest.mark.parametrize(
    ("draws", "centres"),
    [
        # Evenly from 0, 1 and 3; then, from 0, with squared distances 1 and 9 of 10.
        ([0.0, 0.05], [0, 1]),
        ([0.3, 0.15], [0, 3]),
        # From 3: 0 has 9 of 13, 1 has 4. Then nothing but the last is left.
        ([0.7, 0.68, 0.99], [3, 0, 1]),
        ([0.7, 0.70, 0.00], [3, 1, 0]),
    ],
)
def test_centres_are_drawn_by_their_squared_distance(draws, centres):
    line = np.array([0.0, 1.0, 3.0], np.float32)
    got = jax.jit(kmeans_plus_plus_memberships)(
        jnp.asarray(line)[:, None], jnp.ones(3, bool), jnp.asarray(draws, jnp.float32)
    )
    for vector, members in zip(line, np.asarray(got), strict=True):
        nearest = np.abs(vector - np.array(centres)).argmin()
        np.testing.assert_array_equal(members, np.eye(len(centres))[nearest])


def test_nan_comes_out_as_nan():
    vectors = np.ones((SIZE, DIMENSIONS), np.float32)
    vectors[3, 1] = np.nan
    got = fit_mixture(jnp.asarray(vectors), components=4, key=KEY)
    assert np.isnan(got.log_likelihood)
    assert np.isnan(got.means).any()
    assert np.isnan(got.weights).any()  # Else they would look dropped.


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"components": 0}, "components must be at least 1, got 0"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"vectors": np.zeros((0, 3), np.float32)}, "at least one, got none"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"regularization": 0.0}, "regularization must be .* above 0, got 0.0"),
        ({"covariance": "full"}, "covariance must be one of .*, got 'full'"),
        ({"vectors": np.zeros((4, 3))}, "vectors must be float32 here"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_rejects_bad_arguments(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        fit_mixture(**{"vectors": np.eye(3, dtype=np.float32), "key": KEY} | change)
