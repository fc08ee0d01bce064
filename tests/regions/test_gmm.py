import functools
import itertools
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

from diffjax.regions import Mixture, fit_mixture, refine_mixture
from diffjax.regions._gmm import fit_masked_mixture, kmeans_plus_plus_memberships

KINDS = {"diagonal": "diag", "spherical": "spherical"}
KEY = jax.random.key(0)
SIZE, DIMENSIONS, COMPONENTS = 40, 3, 4


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
        weights=jnp.asarray(rng.dirichlet(np.ones(COMPONENTS)), vectors.dtype),
        means=jnp.asarray(vectors[rng.permutation(SIZE)[:COMPONENTS]]),
        variances=jnp.asarray(
            np.broadcast_to(variances, (COMPONENTS, DIMENSIONS)), vectors.dtype
        ),
        log_likelihood=jnp.asarray(jnp.nan, vectors.dtype),
    )


def by_scikit_learn(vectors, covariance, **settings) -> Any:
    model = GaussianMixture(COMPONENTS, covariance_type=KINDS[covariance], **settings)
    with warnings.catch_warnings():
        # All steps are wanted, whether or not they are needed.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(vectors)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("covariance", "steps"), list(itertools.product(KINDS, [1, 12]))
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
    ours = refine_mixture(
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


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("covariance", "spread"), list(itertools.product(KINDS, [0.1, 0.3, 0.6]))
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


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 1000),
    spread=st.sampled_from([0.2, 1.0]),
    covariance=st.sampled_from(list(KINDS)),
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
        refine_mixture,
        jnp.asarray(vectors),
        covariance=covariance,
        regularization=jnp.asarray(regularization, jnp.float32),
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
    [(lambda f: f, "diagonal"), (lambda f: f, "spherical"), (jax.jit, "diagonal")],
    ids=["eager", "eager-spherical", "jit"],
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
    got = jax.tree.map(np.asarray, transform(call)(jnp.asarray(vectors)))
    nearest = [
        int(np.linalg.norm(got.means - vectors[owner == i].mean(0), axis=1).argmin())
        for i in range(COMPONENTS)
    ]
    assert sorted(nearest) == list(range(COMPONENTS))
    np.testing.assert_allclose(got.weights, 1 / COMPONENTS, rtol=1e-5)
    for i, place in enumerate(nearest):
        own = vectors[owner == i].astype(np.float64)
        variances = own.var(0) if covariance == "diagonal" else own.var(0).mean()
        np.testing.assert_allclose(got.means[place], own.mean(0), atol=1e-6)
        np.testing.assert_allclose(got.variances[place], variances + 1e-8, rtol=1e-3)


def test_a_component_that_loses_all_its_weight_is_dropped_for_good():
    vectors, _ = draw_clusters(6, spread=0.5)
    vectors = vectors.astype(np.float32)
    start = draw_start(vectors, 0)
    lost = start._replace(means=start.means.at[2].set(1e3))
    without = start._replace(weights=start.weights.at[2].set(0.0))
    got = refine_mixture(jnp.asarray(vectors), lost, steps=5)
    expected = refine_mixture(jnp.asarray(vectors), without, steps=5)
    assert got.weights[2] == 0
    np.testing.assert_array_equal(got.means[2], 0)
    for ours, theirs in zip(got, expected, strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("distinct", [1, 2, 3, 4])
def test_there_are_as_many_components_as_vectors_that_differ(distinct):
    rng = np.random.default_rng(distinct)
    different = rng.normal(size=(distinct, DIMENSIONS)).astype(np.float32)
    copies = np.arange(SIZE) % distinct
    got = fit_mixture(jnp.asarray(different[copies]), components=4, key=KEY)
    assert all(np.isfinite(part).all() for part in got)
    kept = np.asarray(got.weights) > 0
    assert kept.sum() == distinct
    order = np.lexsort(np.asarray(got.means)[kept].T)
    np.testing.assert_allclose(
        np.asarray(got.means)[kept][order],
        different[np.lexsort(different.T)],
        atol=1e-5,
    )
    shares = np.sort(np.bincount(copies) / SIZE)
    np.testing.assert_allclose(np.sort(got.weights)[-distinct:], shares, rtol=1e-5)


def test_rows_that_are_not_used_change_nothing():
    vectors, _ = draw_clusters(7, spread=0.5)
    vectors = vectors.astype(np.float32)
    starts = jax.random.uniform(KEY, (3, COMPONENTS))
    call = jax.jit(
        functools.partial(
            fit_masked_mixture,
            starts=starts,
            regularization=1e-3,
            covariance="diagonal",
            steps=5,
        )
    )
    alone = call(jnp.asarray(vectors), jnp.ones(SIZE, bool))
    padded = call(jnp.pad(vectors, ((0, 9), (0, 0))), jnp.arange(SIZE + 9) < SIZE)
    for ours, theirs in zip(padded, alone, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    nobody = call(jnp.zeros_like(jnp.asarray(vectors)), jnp.zeros(SIZE, bool))
    np.testing.assert_array_equal(nobody.weights, 0)
    assert all(np.isfinite(part).all() for part in nobody)


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
    got = kmeans_plus_plus_memberships(
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
    ("call", "change", "complaint"),
    [
        (fit_mixture, {"components": 0}, "components must be at least 1, got 0"),
        (fit_mixture, {"restarts": 0}, "restarts must be at least 1, got 0"),
        (fit_mixture, {"vectors": jnp.zeros((0, 3))}, "at least one, got none"),
        (refine_mixture, {"vectors": jnp.eye(2)}, "the vectors' 2 dimensions, got 3"),
        *itertools.product(
            [fit_mixture, refine_mixture],
            [{"steps": -1}],
            ["steps must be at least 0, got -1"],
        ),
        *itertools.product(
            [fit_mixture, refine_mixture],
            [{"regularization": 0.0}],
            ["regularization must be finite and above 0, got 0.0"],
        ),
        *itertools.product(
            [fit_mixture, refine_mixture],
            [{"covariance": "full"}],
            ["covariance must be one of .*, got 'full'"],
        ),
        *itertools.product(
            [fit_mixture, refine_mixture],
            [{"vectors": np.zeros((4, 3))}],
            ["vectors must be float32 here"],
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_rejects_bad_arguments(call, change, complaint):
    settings = {"vectors": jnp.eye(3)} | change
    if call is fit_mixture:
        settings |= {"key": KEY}
    else:
        eye = jnp.eye(3)
        settings |= {"mixture": Mixture(eye[0], eye, eye, eye[0, 0])}
    with pytest.raises(ValueError, match=complaint):
        call(**settings)
