import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.regions import _whitening
from diffjax.regions._whitening import (
    fit_pca,
    fit_supervised_whitening,
    list_matching_pairs,
    whiten,
)

COUNT, SIZE = 60, 6
LABELS = np.arange(COUNT) % 15
MATCHED = list_matching_pairs(LABELS)
UNMATCHED = np.stack([np.arange(40), np.arange(40) + 1], 1)


def draw(seed=0, dtype: type = np.float64):
    """Vectors [60, 6] in 15 clusters that are wide in some directions."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(15, SIZE)) * np.linspace(0.5, 2, SIZE)
    noise = rng.normal(size=(COUNT, SIZE)) @ rng.normal(size=(SIZE, SIZE))
    return (centres[LABELS] + 0.3 * noise + 1).astype(dtype)


def mean_scatter(vectors, pairs):
    apart = vectors[pairs[:, 0]] - vectors[pairs[:, 1]]
    return apart.T @ apart / len(pairs)


def project(vectors, whitening):
    return (vectors - np.asarray(whitening.mean)) @ np.asarray(whitening.projection)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("unmatched", [UNMATCHED, None], ids=["pairs", "all"])
@pytest.mark.parametrize("shrinkage", [0.0, 0.2])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_agrees_with_the_generalised_eigenvectors_of_scipy(
    unmatched, shrinkage, backend, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    vectors = draw()
    within = mean_scatter(vectors, MATCHED)
    target = np.trace(within) / SIZE * np.eye(SIZE)
    within = (1 - shrinkage) * within + shrinkage * target
    between = (
        np.cov(vectors.T, bias=True)
        if unmatched is None
        else mean_scatter(vectors, unmatched)
    )
    # C_D p = l C_S p with P' C_S P = I, which SciPy solves by way of Cholesky.
    _, want = scipy.linalg.eigh(between, within)
    got = fit_supervised_whitening(
        vectors, MATCHED, unmatched, dim=4, shrinkage=shrinkage
    )
    np.testing.assert_allclose(
        abs(got.projection), abs(want[:, ::-1][:, :4]), atol=1e-9
    )
    np.testing.assert_allclose(got.mean, vectors.mean(0), atol=1e-12)


@pytest.mark.usefixtures("x64")
@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000), dim=st.integers(1, SIZE + 2))
def test_matches_differ_by_one_in_all_directions_and_others_most_in_the_first(
    seed, dim
):
    vectors = draw(seed)
    got = fit_supervised_whitening(vectors, MATCHED, UNMATCHED, dim=dim)
    projected = project(vectors, got)
    out_dim = min(dim, SIZE)
    np.testing.assert_allclose(
        mean_scatter(projected, MATCHED), np.eye(out_dim), atol=1e-9
    )
    between = mean_scatter(projected, UNMATCHED)
    sizes = np.diag(between)
    np.testing.assert_allclose(between, np.diag(sizes), atol=1e-9 * sizes[0])
    assert (np.diff(sizes) <= 0).all()
    largest = np.abs(np.asarray(got.projection)).argmax(0)
    assert (np.asarray(got.projection)[largest, np.arange(out_dim)] > 0).all()


@pytest.mark.usefixtures("x64")
@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000))
def test_an_invertible_map_beforehand_changes_no_more_than_signs(seed):
    vectors = draw()
    # Of condition 9 at most, so that digits are lost to it and not to the test.
    left, right = np.linalg.qr(
        np.random.default_rng(seed).normal(size=(2, SIZE, SIZE))
    )[0]
    mapped = vectors @ (left * np.linspace(1 / 3, 3, SIZE) @ right)
    for unmatched in UNMATCHED, None:
        want, got = (
            project(v, fit_supervised_whitening(v, MATCHED, unmatched, dim=SIZE))
            for v in (vectors, mapped)
        )
        np.testing.assert_allclose(abs(got), abs(want), atol=1e-8)


def test_single_precision_gives_single_precision_wherever_it_is_computed():
    vectors = draw(dtype=np.float32)
    got = fit_supervised_whitening(vectors, MATCHED, dim=3)
    also = fit_supervised_whitening(jnp.asarray(vectors), jnp.asarray(MATCHED), dim=3)
    with jax.enable_x64(True):
        inside = fit_supervised_whitening(vectors, MATCHED, dim=3)
    for other in also, inside:
        assert other.projection.dtype == other.mean.dtype == jnp.float32
        np.testing.assert_array_equal(got.projection, other.projection)
    assert jnp.ones(()).dtype == jnp.float32


def test_blocks_of_pairs_change_nothing(monkeypatch):
    vectors = draw(dtype=np.float32)
    want = fit_supervised_whitening(vectors, MATCHED, UNMATCHED, dim=4).projection
    monkeypatch.setattr(_whitening, "_BLOCK_PAIRS", 32)
    got = fit_supervised_whitening(vectors, MATCHED, UNMATCHED, dim=4).projection
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_the_order_of_pairs_and_within_pairs_changes_nothing():
    vectors = draw(dtype=np.float32)
    want = fit_supervised_whitening(vectors, MATCHED, dim=4).projection
    turned = MATCHED[::-1, ::-1]
    got = fit_supervised_whitening(vectors, turned, dim=4).projection
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_match_is_nearer_than_by_principal_components():
    # One direction varies most, and within clusters only: it should count for least.
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(15, SIZE))[LABELS] + 0.1 * rng.normal(size=(COUNT, SIZE))
    vectors[:, 2] += 5 * rng.normal(size=COUNT)
    vectors = vectors.astype(np.float32)

    def hits(whitening):
        units = np.asarray(whiten(jnp.asarray(vectors), whitening))
        similar = units @ units.T
        np.fill_diagonal(similar, -2)
        return (LABELS[similar.argmax(1)] == LABELS).mean()

    learned = fit_supervised_whitening(vectors, MATCHED, dim=4)
    assert hits(learned) > 0.95
    assert hits(fit_pca(vectors, dim=4)) < 0.7


def test_fewer_differences_than_dimensions_need_shrinkage():
    vectors = draw(dtype=np.float32)
    few = MATCHED[[0, 40, 80]]
    with pytest.raises(
        ValueError, match=r"rank 6.* got 3 from 3 pairs: .*shrinkage above 0"
    ):
        fit_supervised_whitening(vectors, few, dim=2)
    got = fit_supervised_whitening(vectors, few, dim=9, shrinkage=0.1).projection
    assert got.shape == (SIZE, SIZE)
    assert np.isfinite(got).all()
    flat = np.repeat(vectors[:, :3], 2, axis=1)  # Many pairs, half of the directions.
    with pytest.raises(ValueError, match="got 3 from 90 pairs"):
        fit_supervised_whitening(flat, MATCHED, dim=2)


def test_all_shrinkage_leaves_the_principal_directions():
    vectors = draw(dtype=np.float32)
    whitening = fit_supervised_whitening(vectors, MATCHED, dim=SIZE, shrinkage=1.0)
    got = np.asarray(whitening.projection)
    lengths = np.linalg.norm(got, axis=0)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-5)
    want = fit_pca(vectors, dim=SIZE).projection
    np.testing.assert_allclose(got / lengths, want, atol=1e-4)


def test_one_dimension_by_hand():
    # The one match differs by 2: C_S is 4 and P 1/2; the mean is 2.
    got = fit_supervised_whitening(
        np.array([[0], [2], [4]], np.float32), np.array([[0, 1]]), dim=3
    )
    np.testing.assert_allclose(got.mean, [2])
    np.testing.assert_allclose(got.projection, [[0.5]])


@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_the_size_of_vectors_changes_nothing(scale):
    vectors = draw(dtype=np.float32)
    sized = vectors * np.float32(scale)
    want = whiten(vectors, fit_supervised_whitening(vectors, MATCHED, dim=4))
    got = whiten(sized, fit_supervised_whitening(sized, MATCHED, dim=4))
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([[0, 1], [2, 60]], r"numbers from 0 to 59, got \[2, 60\] in row 1"),
        ([[0, 1], [3, 4], [-1, 2]], r"numbers from 0 to 59, got \[-1, 2\] in row 2"),
        ([[0, 1], [5, 5]], r"different vectors, got \[5, 5\] in row 1"),
        ([[0, 1, 2]], r"pairs of row numbers \[p, 2\], got int64 \[1, 3\]"),
        ([0, 1], r"pairs of row numbers \[p, 2\], got int64 \[2\]"),
        ([[0.0, 1.0]], r"pairs of row numbers \[p, 2\], got float64 \[1, 2\]"),
        (np.zeros((0, 2), np.int64), "one pair or more, got none"),
    ],
)
def test_bad_pairs_are_refused_with_their_row(pairs, words):
    vectors = draw(dtype=np.float32)
    with pytest.raises(ValueError, match=f"matched must .*{words}"):
        fit_supervised_whitening(vectors, np.array(pairs), dim=2)
    with pytest.raises(ValueError, match=f"unmatched must .*{words}"):
        fit_supervised_whitening(vectors, MATCHED, np.array(pairs), dim=2)


def test_vectors_that_teach_nothing_are_refused():
    vectors = draw(dtype=np.float32)
    vectors[1] = vectors[0]
    equal = np.array([[0, 1]])
    for share in (0.0, 0.5):
        with pytest.raises(ValueError, match="matched must hold vectors that differ"):
            fit_supervised_whitening(vectors, equal, dim=2, shrinkage=share)
    with pytest.raises(ValueError, match="unmatched must hold vectors that differ"):
        fit_supervised_whitening(vectors, MATCHED, equal, dim=2)


def test_bad_settings_and_vectors_are_refused():
    vectors = draw(dtype=np.float32)
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        fit_supervised_whitening(vectors, MATCHED, dim=0)
    with pytest.raises(ValueError, match=r"shrinkage must be in \[0, 1\], got 2"):
        fit_supervised_whitening(vectors, MATCHED, dim=2, shrinkage=2.0)
    with pytest.raises(ValueError, match="vectors must be float32 here, got float64"):
        fit_supervised_whitening(draw(), MATCHED, dim=2)
    vectors[7, 1] = np.nan
    with pytest.raises(ValueError, match=r"vectors must be finite.* in row 7"):
        fit_supervised_whitening(vectors, MATCHED, dim=2)


@settings(deadline=None, max_examples=40)
@given(labels=st.lists(st.integers(-3, 3), max_size=12))
def test_all_pairs_of_the_same_label_are_listed_once(labels):
    got = list_matching_pairs(np.array(labels, np.int64))
    numbered = itertools.combinations(range(len(labels)), 2)
    want = [(i, j) for i, j in numbered if labels[i] == labels[j]]
    assert sorted(map(tuple, got.tolist())) == want
    assert got.shape == (len(want), 2)
    assert got.dtype == np.int32


@settings(deadline=None, max_examples=40)
@given(limit=st.integers(1, 120), seed=st.integers(0, 99))
def test_a_limit_draws_different_pairs_out_of_all(limit, seed):
    got = list_matching_pairs(LABELS, limit=limit, seed=seed)
    everything = set(map(tuple, MATCHED.tolist()))
    drawn = list(map(tuple, got.tolist()))
    assert len(set(drawn)) == len(drawn) == min(limit, len(everything))
    assert set(drawn) <= everything
    np.testing.assert_array_equal(
        got, list_matching_pairs(jnp.asarray(LABELS), limit=limit, seed=seed)
    )


def test_every_pair_is_as_likely_to_be_drawn():
    # Labels of 2, 3 and 4 vectors: 1 + 3 + 6 pairs. With 1000 draws of 3 a pair is
    # drawn 300 times, give or take the root of 1000 x 0.3 x 0.7, 14.5.
    labels = np.repeat([5, 1, 3], [2, 3, 4])
    drawn = [list_matching_pairs(labels, limit=3, seed=seed) for seed in range(1000)]
    _, times = np.unique(np.concatenate(drawn), axis=0, return_counts=True)
    assert len(times) == 10
    assert (abs(times - 300) < 5 * 14.5).all()


def test_many_pairs_are_drawn_without_listing_them():
    # 5e9 pairs: 80 GB, were they listed.
    got = list_matching_pairs(np.zeros(100_000, np.int64), limit=50)
    assert got.shape == (50, 2)
    assert (got[:, 0] < got[:, 1]).all()


@pytest.mark.usefixtures("unchecked")
def test_bad_labels_are_refused():
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        list_matching_pairs(LABELS, limit=0)
    with pytest.raises(ValueError, match=r"whole numbers \[n\], got float64 \[60\]"):
        list_matching_pairs(LABELS / 2)
    with pytest.raises(ValueError, match=r"whole numbers \[n\], got int64 \[60, 1\]"):
        list_matching_pairs(LABELS[:, None])
