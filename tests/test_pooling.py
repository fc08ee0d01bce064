import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from finite_differences import check_gradient
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.pooling import gmp_weights, pool


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("lam", [0.1, 10.0])
def test_weights_agree_with_solving_image_by_image(collection, lam):
    got = gmp_weights(jnp.asarray(collection.vectors), collection.image_ids, lam=lam)
    expected = oracle.gmp_weights(collection.vectors, collection.image_ids, lam)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_pooled_scores_agree_with_summing_image_by_image(collection):
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(len(collection.vectors), 3))
    weights = rng.uniform(size=len(collection.vectors))
    ids = collection.image_ids
    np.testing.assert_allclose(
        pool(jnp.asarray(scores), ids, weights=jnp.asarray(weights)),
        oracle.pooled(scores, ids, weights),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        pool(jnp.asarray(scores), ids),
        oracle.pooled(scores, ids, np.ones_like(weights)),
        rtol=1e-12,
    )


@settings(deadline=None, max_examples=10)
@given(copies=st.sampled_from([1, 2, 6]), lam=st.floats(0.01, 100))
def test_identical_regions_share_their_vote(copies, lam):
    # Phi Phi' = 1 1', so w = 1 / (r + lambda), and r regions of score 1 pool to
    # r / (r + lambda).
    vectors = jnp.tile(jnp.array([[0.6, 0.8]], jnp.float32), (copies, 1))
    ids = np.zeros(copies, np.int32)
    weights = gmp_weights(vectors, ids, lam=lam)
    got = pool(jnp.ones((copies, 1)), ids, weights=weights)
    np.testing.assert_allclose(got, [[copies / (copies + lam)]], rtol=2e-4)


def test_large_lambda_is_sum_pooling(collection):
    vectors = jnp.asarray(collection.vectors.astype(np.float32))
    got = gmp_weights(vectors, collection.image_ids, lam=1e4)
    np.testing.assert_allclose(1e4 * got, 1.0, rtol=1e-3)


def test_without_ids_every_region_is_an_image():
    vectors = jnp.eye(3)
    np.testing.assert_allclose(gmp_weights(vectors, lam=1.0), 0.5)
    np.testing.assert_allclose(pool(vectors), vectors)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("order", [1, pytest.param(2, marks=pytest.mark.full)])
def test_gradients_match_finite_differences(collection, order):
    ids = collection.image_ids

    def score(vectors, lam, scores):
        vectors, scores = jnp.asarray(vectors), jnp.asarray(scores)
        return pool(scores, ids, weights=gmp_weights(vectors, ids, lam=lam))

    vectors = jnp.asarray(collection.vectors)
    check_gradient(
        score, (vectors, jnp.asarray(1.0), vectors[:, :2]), order=order, tolerance=1e-6
    )


def test_compiled_and_traced_ids_give_the_same(collection):
    vectors = jnp.asarray(collection.vectors.astype(np.float32))
    ids = jnp.asarray(collection.image_ids)
    max_regions = int(np.bincount(collection.image_ids).max())

    @jax.jit
    def both(vectors, ids):
        weights = gmp_weights(vectors, ids, num_images=24, max_regions=max_regions)
        return weights, pool(vectors, ids, weights=weights, num_images=24)

    weights = gmp_weights(vectors, ids)
    np.testing.assert_allclose(both(vectors, ids)[0], weights, rtol=1e-5)
    np.testing.assert_allclose(
        both(vectors, ids)[1], pool(vectors, ids, weights=weights), atol=1e-5
    )


def test_regions_beyond_max_regions_have_nan_weights_under_jit():
    ids = jnp.array([0, 0, 0, 1])
    got = jax.jit(lambda v, i: gmp_weights(v, i, num_images=2, max_regions=2))(
        jnp.eye(4), ids
    )
    np.testing.assert_array_equal(np.isnan(got), [False, False, True, False])


@pytest.mark.parametrize("missing", ["num_images", "max_regions"])
def test_traced_ids_need_the_counts(missing):
    counts = {"num_images": 2, "max_regions": 2}
    del counts[missing]
    with pytest.raises(ValueError, match=f"{missing} must be given under jit"):
        jax.jit(lambda i: gmp_weights(jnp.eye(2), i, **counts))(jnp.array([0, 1]))


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda v: gmp_weights(v, lam=0.0), "lam must be"),
        (lambda v: gmp_weights(v, np.array([0, 0, 2])), "got 2 after 0 in row 2"),
        (
            lambda v: gmp_weights(v, np.zeros(3, int), max_regions=2),
            "at least 3, got 2",
        ),
        (lambda v: gmp_weights(v, np.zeros(3, int), num_images=0), "at least 1, got 0"),
        (lambda v: pool(v, np.array([0, 1])), "one id per row, 3"),
        (lambda v: pool(v, weights=jnp.ones(2)), "weights must have one entry"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_rejects_bad_arguments(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call(jnp.eye(3))


def test_zero_regions_are_accepted():
    assert gmp_weights(jnp.zeros((0, 3))).shape == (0,)
    assert pool(jnp.zeros((0, 2))).shape == (0, 2)
