import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf_shrinkage as by_scikit_learn

from diffjax.regions import _running_covariance
from diffjax.regions._running_covariance import (
    RunningCovariance,
    ledoit_wolf_shrinkage,
    merge_covariances,
    running_covariance,
)


def draw(seed, count, *, size=5, offset=7.0):
    """Vectors [count, size] in single precision, far from zero, variances differing."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(count, size)) * np.linspace(1, 0.1, size) + offset
    return raw.astype(np.float32)


def assert_close(got, want, *, rtol=1e-10):
    assert got.count == want.count
    np.testing.assert_allclose(got.mean, want.mean, rtol=rtol, atol=0)
    scale = max(float(np.trace(want.scatter_matrix)), np.finfo(np.float64).tiny)
    np.testing.assert_allclose(
        got.scatter_matrix / scale, want.scatter_matrix / scale, atol=rtol
    )


@pytest.fixture(params=["cpu", "gpu"])
def backend(request, monkeypatch):
    """What is computed for accelerators is computed here, too."""
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(_running_covariance, "_BLOCK_ROWS", 64)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 300])
def test_moments_agree_with_numpy_in_double_precision(
    count, kind, small_blocks, backend
):
    vectors = draw(0, count)
    got = running_covariance(kind(vectors))
    wide = vectors.astype(np.float64)
    centred = wide - wide.mean(0)
    assert_close(got, RunningCovariance(count, wide.mean(0), centred.T @ centred))
    assert got.mean.dtype == got.scatter_matrix.dtype == np.float64
    assert got.dtype == np.float32


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    scale=st.sampled_from([1e-20, 1.0, 1e18]),
    data=st.data(),
)
def test_shards_merged_in_any_order_give_the_moments_of_all(seed, cuts, scale, data):
    vectors = draw(seed, 60) * np.float32(scale)
    shards = [running_covariance(shard) for shard in np.split(vectors, sorted(cuts))]
    while len(shards) > 1:
        shard = shards.pop(data.draw(st.integers(0, len(shards) - 1)))
        other = data.draw(st.integers(0, len(shards) - 1))
        shards[other] = merge_covariances(shards[other], shard)
    assert_close(shards[0], running_covariance(vectors))


def test_two_single_vectors_by_hand(backend):
    # Means 0 and (2, 4): n_a n_b / n = 1/2, so the scatter is half of (2, 4)(2, 4)'.
    a, b = (running_covariance(np.array([x], np.float32)) for x in ([0, 0], [2, 4]))
    both = merge_covariances(a, b)
    np.testing.assert_array_equal(both.mean, [1, 2])
    np.testing.assert_array_equal(both.scatter_matrix, [[2, 4], [4, 8]])


def test_merging_no_vectors_changes_nothing():
    none, some = running_covariance(draw(0, 0)), running_covariance(draw(0, 9))
    assert none.count == 0
    for both in merge_covariances(none, some), merge_covariances(some, none):
        assert both.count == 9
        np.testing.assert_array_equal(both.mean, some.mean)
        np.testing.assert_array_equal(both.scatter_matrix, some.scatter_matrix)
    assert merge_covariances(none, none).count == 0
    np.testing.assert_array_equal(merge_covariances(none, none).mean, 0)


def test_equal_vectors_far_from_zero_have_no_scatter(backend):
    got = running_covariance(np.full((100, 3), 1e4, np.float32))
    np.testing.assert_allclose(got.scatter_matrix, 0, atol=1e-16 * 1e8)


@pytest.mark.usefixtures("x64")
def test_merging_keeps_the_coarser_of_two_types():
    double, single = (
        running_covariance(draw(0, 9).astype(np.float64)),
        running_covariance(draw(0, 9)),
    )
    assert double.dtype == np.float64
    for both in merge_covariances(double, single), merge_covariances(single, double):
        assert both.dtype == np.float32


def test_double_precision_is_used_and_the_setting_left_alone(backend):
    compiled = []
    probe = jax.jit(lambda x: compiled.append(x) or 2 * x)
    probe(jnp.ones(3))
    # In single precision 1e4 + 1e-3 is 1e4, and the variance 0.
    near = np.nextafter(np.float32(1e4), np.float32(2e4))
    vectors = np.array([[1e4], [near]], np.float32)
    step = float(vectors[1, 0]) - float(vectors[0, 0])
    np.testing.assert_allclose(
        running_covariance(vectors).scatter_matrix, [[step**2 / 2]], rtol=1e-10
    )
    assert jnp.ones(()).dtype == jnp.float32
    assert probe(jnp.ones(3)).dtype == jnp.float32
    assert len(compiled) == 1
    with pytest.raises(ValueError, match="finite"):
        running_covariance(np.full((2, 2), np.nan, np.float32))
    assert jnp.ones(()).dtype == jnp.float32


def test_the_program_compiled_without_and_with_double_precision_is_the_same(backend):
    vectors = draw(3, 50)
    outside = running_covariance(vectors)
    with jax.enable_x64(True):
        inside = running_covariance(vectors)
    np.testing.assert_array_equal(outside.scatter_matrix, inside.scatter_matrix)
    assert inside.dtype == np.float32


@pytest.mark.usefixtures("unchecked")
def test_rejects_vectors_without_moments(small_blocks, backend):
    vectors = draw(0, 200)
    with pytest.raises(ValueError, match="vectors must be float32 here, got float64"):
        running_covariance(vectors.astype(np.float64))
    with pytest.raises(ValueError, match="matrix of floating point, got int32"):
        running_covariance(vectors.astype(np.int32))
    with pytest.raises(ValueError, match=r"matrix of floating point, got .* \[5\]"):
        running_covariance(vectors[0])
    with pytest.raises(ValueError, match=r"must have a dimension, got \[200, 0\]"):
        running_covariance(vectors[:, :0])
    for bad in (np.nan, np.inf, -np.inf):
        vectors[130, 4] = bad
        with pytest.raises(ValueError, match=r"vectors must be finite.* in row 130"):
            running_covariance(vectors)
    with pytest.raises(ValueError, match="b must have the 5 dimensions of a, got 3"):
        merge_covariances(
            running_covariance(vectors[:9]), running_covariance(vectors[:9, :3])
        )


@pytest.mark.usefixtures("x64")
def test_squares_beyond_double_precision_are_refused(backend):
    with pytest.raises(ValueError, match=r"double precision can hold, got .* 1e\+200"):
        running_covariance(np.array([[1e200, 0], [0, 1]]))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("count", "size"), [(300, 5), (20, 5), (4, 5), (40, 1)])
def test_shrinkage_agrees_with_scikit_learn(count, size, small_blocks):
    vectors = draw(1, count, size=size).astype(np.float64)
    want = by_scikit_learn(vectors)
    np.testing.assert_allclose(ledoit_wolf_shrinkage(vectors), want, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e18])
def test_shrinkage_does_not_depend_on_size_or_centre(scale):
    vectors = draw(2, 30, offset=0.0)
    want = ledoit_wolf_shrinkage(vectors)
    assert 0 < want < 1
    got = ledoit_wolf_shrinkage(vectors * np.float32(scale) + np.float32(scale))
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_shrinkage_is_in_its_range_also_at_its_ends():
    assert ledoit_wolf_shrinkage(np.ones((9, 3), np.float32)) == 0
    # Two vectors in many dimensions say nothing of the covariance but its size: both
    # are as far from the mean, so |z z' - C| is 0 and C is believed.
    assert ledoit_wolf_shrinkage(draw(0, 2, size=9)) == pytest.approx(0, abs=1e-9)
    # Covariance all but the target, and vectors far from it one by one.
    axes = np.concatenate([np.eye(6), -np.eye(6)]).astype(np.float32)
    axes[0, 0] = 1.01
    assert ledoit_wolf_shrinkage(axes) == 1
    with pytest.raises(ValueError, match="vectors must be two or more, got 1"):
        ledoit_wolf_shrinkage(draw(0, 1))
