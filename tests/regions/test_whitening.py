import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from sklearn.decomposition import PCA

from diffjax.regions import fit_pca_whitening, l2_normalize, whiten
from diffjax.regions._whitening import _BLOCK


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def vectors(rng):
    """Unit vectors [400, 12] with a mean and with different variances."""
    raw = rng.normal(size=(400, 12)) * np.linspace(1, 0.1, 12) + 0.5
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def project(vectors, whitening):
    return (vectors - np.asarray(whitening.mean)) @ np.asarray(whitening.projection)


@pytest.mark.usefixtures("x64")
def test_the_fitted_vectors_have_mean_zero_and_covariance_one(vectors):
    projected = project(vectors, fit_pca_whitening(vectors, dim=8))
    np.testing.assert_allclose(projected.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(np.cov(projected.T), np.eye(8), atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_agrees_with_scikit_learn_up_to_signs(vectors):
    pca = PCA(n_components=8, whiten=True, svd_solver="full").fit(vectors)
    got = project(vectors, fit_pca_whitening(vectors, dim=8))
    np.testing.assert_allclose(abs(got), abs(pca.transform(vectors)), atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_blocks_change_nothing(rng):
    vectors = rng.normal(size=(_BLOCK + 100, 5)) * [3, 2, 1, 0.5, 0.2] + 7
    projected = project(vectors, fit_pca_whitening(vectors, dim=5))
    np.testing.assert_allclose(np.cov(projected.T), np.eye(5), atol=1e-10)


def test_the_entry_of_largest_absolute_value_is_positive(vectors):
    got = np.asarray(fit_pca_whitening(vectors.astype(np.float32), dim=12).projection)
    largest = np.abs(got).argmax(0)
    assert (got[largest, np.arange(12)] > 0).all()
    flipped = fit_pca_whitening(-vectors.astype(np.float32), dim=12).projection
    np.testing.assert_array_equal(got, flipped)


def test_the_same_vectors_give_the_same_bytes(vectors):
    first, second = (
        fit_pca_whitening(kind(vectors, np.float32), dim=6)
        for kind in (np.asarray, jnp.asarray)
    )
    np.testing.assert_array_equal(first.projection, second.projection)
    np.testing.assert_array_equal(first.mean, second.mean)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_whitened_vectors_are_the_projected_ones_at_unit_length(vectors, transform):
    single = vectors.astype(np.float32)
    whitening = fit_pca_whitening(single, dim=6)
    want = project(vectors, whitening)
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    got = transform(whiten)(jnp.asarray(single), whitening)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_vector_alone_is_whitened_as_in_a_batch(vectors):
    single = jnp.asarray(vectors, jnp.float32)
    whitening = fit_pca_whitening(single, dim=6)
    alone = jnp.concatenate([whiten(v[None], whitening) for v in single[:5]])
    np.testing.assert_allclose(alone, whiten(single, whitening)[:5], atol=1e-6)
    assert whiten(single[:0], whitening).shape == (0, 6)


def test_the_mean_itself_becomes_zero_with_a_finite_gradient(vectors):
    whitening = fit_pca_whitening(vectors.astype(np.float32), dim=6)
    mean = whitening.mean[None]
    np.testing.assert_array_equal(whiten(mean, whitening), 0)
    gradient = jax.grad(lambda v: whiten(v, whitening).sum())(mean)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.usefixtures("x64")
def test_gradients_reach_vectors_and_projection(vectors):
    whitening = fit_pca_whitening(vectors, dim=4)
    few = jnp.asarray(vectors[:3])
    check_grads(jax.jit(whiten), (few, whitening), order=2, modes=["rev"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("count", "spanned"), [(400, 5), (4, 3), (2, 1)])
def test_only_directions_with_variance_are_kept(rng, count, spanned, dtype):
    with jax.enable_x64(dtype == np.float64):
        raw = rng.normal(size=(count, spanned)) @ rng.normal(size=(spanned, 40))
        vectors = np.asarray(l2_normalize(jnp.asarray(raw + 0.01, dtype)))
        got = fit_pca_whitening(vectors, dim=30)
        # The constant adds a direction where points do not run out before.
        assert got.projection.shape == (40, min(spanned + 1, count - 1))
        projected = project(vectors.astype(np.float64), got)
        np.testing.assert_allclose(
            np.cov(projected.T), np.eye(len(projected.T)), atol=0.01
        )


def test_the_rounding_of_a_network_is_not_taken_for_a_direction(rng):
    vectors = rng.normal(size=(400, 5)) @ rng.normal(size=(5, 40))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.finfo(np.float32).eps * rng.normal(size=vectors.shape)
    rounded = (vectors * (1 + 4 * units)).astype(np.float32)
    assert fit_pca_whitening(rounded, dim=30).projection.shape == (40, 5)


def test_more_dimensions_than_there_are_give_all(vectors):
    whitening = fit_pca_whitening(vectors.astype(np.float32), dim=99)
    assert whitening.projection.shape == (12, 12)


@pytest.mark.parametrize("count", [2, 1000])
def test_equal_vectors_are_refused(count):
    equal = np.full((count, 7), 7**-0.5, np.float32)
    with pytest.raises(ValueError, match=f"vectors must differ, got {count} equal"):
        fit_pca_whitening(equal, dim=3)
    equal[1::2, 3] = np.nextafter(equal[0, 3], np.float32(1))
    with pytest.raises(ValueError, match="vectors must differ"):
        fit_pca_whitening(equal, dim=3)


def test_what_cannot_be_fitted_is_refused(vectors):
    single = vectors.astype(np.float32)
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        fit_pca_whitening(single, dim=0)
    with pytest.raises(ValueError, match="vectors must be two or more, got 1"):
        fit_pca_whitening(single[:1], dim=3)
    with pytest.raises(ValueError, match="float64; set jax_enable_x64"):
        fit_pca_whitening(vectors, dim=3)
    for bad in (np.nan, np.inf):
        single[3, 4] = bad
        with pytest.raises(ValueError, match="vectors must be finite"):
            fit_pca_whitening(single, dim=3)
