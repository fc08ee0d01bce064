import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import check_gradient
from sklearn.decomposition import PCA

from diffjax.regions import _running_covariance
from diffjax.regions._running_covariance import (
    ledoit_wolf_shrinkage,
    merge_covariances,
    running_covariance,
)
from diffjax.regions._whitening import fit_pca, fit_pca_whitening, whiten


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def vectors(rng):
    """Unit vectors [400, 12] with a mean and with different variances."""
    raw = rng.normal(size=(400, 12)) * np.linspace(1, 0.1, 12) + 0.5
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


whitening_slopes = jax.jit(jax.grad(lambda v, whitening: whiten(v, whitening).sum()))


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
def test_blocks_change_nothing(rng, monkeypatch):
    monkeypatch.setattr(_running_covariance, "_BLOCK_ROWS", 64)
    vectors = rng.normal(size=(164, 5)) * [3, 2, 1, 0.5, 0.2] + 7
    projected = project(vectors, fit_pca_whitening(vectors, dim=5))
    np.testing.assert_allclose(np.cov(projected.T), np.eye(5), atol=1e-10)


@pytest.mark.parametrize("fit", [fit_pca, fit_pca_whitening])
def test_moments_of_parts_give_what_all_vectors_give(vectors, fit):
    single = vectors.astype(np.float32)
    whole = fit(single, dim=12)
    parts = merge_covariances(
        running_covariance(single[:150]), running_covariance(single[150:])
    )
    got = fit(parts, dim=12)
    assert got.projection.dtype == jnp.float32
    np.testing.assert_allclose(got.mean, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(got.projection, whole.projection, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_directions_without_scaling_agree_with_scikit_learn_up_to_signs(vectors):
    pca = PCA(n_components=8, svd_solver="full").fit(vectors)
    got = fit_pca(vectors, dim=8)
    np.testing.assert_allclose(
        abs(got.projection.T), abs(np.asarray(pca.components_)), atol=1e-9
    )
    np.testing.assert_allclose(got.mean, vectors.mean(0), atol=1e-12)
    # Nothing is lost where all directions are kept: distances are what they were.
    everything = project(vectors, fit_pca(vectors, dim=12))
    np.testing.assert_allclose(
        np.linalg.norm(everything[0] - everything[1:], axis=1),
        np.linalg.norm(vectors[0] - vectors[1:], axis=1),
        atol=1e-12,
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 1.0])
def test_shrinkage_whitens_the_shrunk_covariance(vectors, shrinkage):
    got = fit_pca_whitening(vectors, dim=12, shrinkage=shrinkage)
    covariance = np.cov(vectors.T)
    target = np.trace(covariance) / 12 * np.eye(12)
    shrunk = (1 - shrinkage) * covariance + shrinkage * target
    projection = np.asarray(got.projection)
    np.testing.assert_allclose(
        projection.T @ shrunk @ projection, np.eye(12), atol=1e-9
    )


@pytest.mark.parametrize("count", [2, 5, 400])
def test_shrinkage_gives_every_direction_a_scale(rng, count):
    vectors = (rng.normal(size=(count, 3)) @ rng.normal(size=(3, 20))).astype(
        np.float32
    )
    assert fit_pca_whitening(vectors, dim=20).projection.shape[1] <= 3
    share = max(ledoit_wolf_shrinkage(vectors), 0.1)
    got = np.asarray(fit_pca_whitening(vectors, dim=15, shrinkage=share).projection)
    assert got.shape == (20, 15)
    # Without variance every direction has the scale (s tr(C) / d)^(-1/2).
    flat = share * np.trace(np.cov(vectors.T.astype(np.float64))) / 20
    lengths = np.linalg.norm(got[:, 3:], axis=0)
    np.testing.assert_allclose(lengths, flat**-0.5, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e20])
def test_the_size_of_vectors_changes_nothing(vectors, scale):
    single = vectors.astype(np.float32)
    sized = single * np.float32(scale)
    for fit in fit_pca, fit_pca_whitening:
        want = whiten(jnp.asarray(single), fit(single, dim=6))
        got = whiten(jnp.asarray(sized), fit(sized, dim=6))
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_whitening_that_has_no_place_in_the_type_is_refused():
    large = np.array([[0], [3e38]], np.float32)
    small = np.array([[0, 0], [1e-20, 0]], np.float32)
    with pytest.raises(ValueError, match=r"inverse roots .* float32 .* 4.71e-39"):
        fit_pca_whitening(large, dim=1)
    with pytest.raises(ValueError, match="scale them to unit length"):
        fit_pca_whitening(small, dim=2, shrinkage=1e-40)


def test_one_dimension_is_scaled_to_variance_one():
    # Values 1 and 3: mean 2 and variance 2.
    vectors = np.array([[1], [3]], np.float32)
    got = fit_pca_whitening(vectors, dim=5)
    np.testing.assert_allclose(got.mean, [2])
    np.testing.assert_allclose(got.projection, [[2**-0.5]])
    np.testing.assert_allclose(fit_pca(vectors, dim=5).projection, [[1]])


def test_duplicates_count_as_often_as_they_are_there(vectors):
    single = vectors.astype(np.float32)[:40]
    tripled = running_covariance(np.repeat(single, 3, axis=0))
    once = running_covariance(single)
    np.testing.assert_allclose(tripled.mean, once.mean, rtol=1e-12)
    np.testing.assert_allclose(
        tripled.scatter_matrix, 3 * once.scatter_matrix, atol=1e-12
    )
    got = fit_pca(np.repeat(single, 3, axis=0), dim=4).projection
    np.testing.assert_allclose(got, fit_pca(single, dim=4).projection, atol=1e-5)


def test_compiled_programs_outlive_a_fit(vectors):
    single = jnp.asarray(vectors.astype(np.float32))
    compiled = []

    @jax.jit
    def traced(vectors, whitening):
        compiled.append(vectors)
        return whiten(vectors, whitening)

    first, again = (traced(single, fit_pca_whitening(single, dim=6)) for _ in range(2))
    assert len(compiled) == 1
    np.testing.assert_array_equal(first, again)
    assert first.dtype == jnp.zeros(()).dtype == jnp.float32


def test_the_entry_of_largest_absolute_value_is_positive(vectors):
    got = np.asarray(fit_pca_whitening(vectors.astype(np.float32), dim=12).projection)
    largest = np.abs(got).argmax(0)
    assert (got[largest, np.arange(12)] > 0).all()
    flipped = fit_pca_whitening(-vectors.astype(np.float32), dim=12).projection
    np.testing.assert_array_equal(got, flipped)


def test_the_same_vectors_give_the_same_bytes(vectors):
    first, second = (
        fit_pca_whitening(kind(vectors.astype(np.float32)), dim=6)
        for kind in (np.asarray, jnp.asarray)
    )
    np.testing.assert_array_equal(first.projection, second.projection)
    np.testing.assert_array_equal(first.mean, second.mean)


@pytest.mark.parametrize(
    "transform",
    [lambda f: f, pytest.param(jax.jit, marks=pytest.mark.full)],
    ids=["direct", "in-jit"],
)
def test_whitened_vectors_are_the_projected_ones_at_unit_length(vectors, transform):
    single = vectors.astype(np.float32)
    whitening = fit_pca_whitening(single, dim=6)
    want = project(vectors, whitening)
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    got = transform(whiten)(jnp.asarray(single), whitening)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_vector_alone_is_whitened_as_in_a_batch(vectors):
    single = jnp.asarray(vectors.astype(np.float32))
    whitening = fit_pca_whitening(single, dim=6)
    rows = np.asarray(single)[:5, None]
    alone = np.concatenate([whiten(jnp.asarray(row), whitening) for row in rows])
    together = np.asarray(whiten(single, whitening))
    np.testing.assert_allclose(alone, together[:5], atol=1e-6)
    assert whiten(jnp.asarray(rows[:0, 0]), whitening).shape == (0, 6)


def test_the_mean_itself_becomes_zero_with_a_finite_gradient(vectors):
    whitening = fit_pca_whitening(vectors.astype(np.float32), dim=6)
    mean = jnp.asarray(np.asarray(whitening.mean)[None])
    np.testing.assert_array_equal(whiten(mean, whitening), 0)
    np.testing.assert_array_equal(whitening_slopes(mean, whitening), 0)


@pytest.mark.usefixtures("x64")
def test_gradients_reach_vectors_and_whitening(vectors):
    whitening = fit_pca_whitening(vectors, dim=4)
    check_gradient(whiten, (vectors[:3], whitening), order=2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("count", "spanned"), [(400, 5), (4, 3), (2, 1)])
def test_only_directions_with_variance_are_kept(rng, count, spanned, dtype):
    with jax.enable_x64(dtype == np.float64):
        raw = rng.normal(size=(count, spanned)) @ rng.normal(size=(spanned, 40))
        vectors = (raw + 0.01).astype(dtype)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
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
    for share in (0.0, 0.5):
        with pytest.raises(ValueError, match=f"vectors must differ, got {count} equal"):
            fit_pca_whitening(equal, dim=3, shrinkage=share)
    equal[1::2, 3] = np.nextafter(equal[0, 3], np.float32(1))
    with pytest.raises(ValueError, match="vectors must differ"):
        fit_pca_whitening(equal, dim=3)


def test_rejects_vectors_that_cannot_be_fitted(vectors):
    single = vectors.astype(np.float32)
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        fit_pca_whitening(single, dim=0)
    with pytest.raises(ValueError, match="vectors must be two or more, got 1"):
        fit_pca_whitening(single[:1], dim=3)
    with pytest.raises(ValueError, match="got float64: convert it, or turn on jax_en"):
        fit_pca_whitening(vectors, dim=3)
    with jax.enable_x64(True):
        double = running_covariance(vectors)
    with pytest.raises(
        ValueError, match="running_covariance must be float32 here, got float64"
    ):
        fit_pca(double, dim=3)
    for share in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match=r"shrinkage must be in \[0, 1\], got"):
            fit_pca_whitening(single, dim=3, shrinkage=share)
    for bad in (np.nan, np.inf):
        single[3, 4] = bad
        with pytest.raises(ValueError, match="vectors must be finite"):
            fit_pca_whitening(single, dim=3)
