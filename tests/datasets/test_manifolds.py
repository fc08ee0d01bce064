import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.datasets import toy_manifolds
from diffjax.evaluation import average_precision

T = np.linspace(0, 1, 4001)


def arm(number, t=T):
    """Curve of the docstring at parameters t."""
    radius, angle = 0.28 + 0.72 * t, 2 * np.pi * (number / 3 + 0.7 * t)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def distances(points, others):
    return np.linalg.norm(points[:, None] - others[None], axis=-1)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 30), st.integers(0, 20), st.integers(0, 2**32))
def test_number_of_points_is_the_requested_one(count, clutter, seed):
    toy = toy_manifolds(points_per_manifold=count, clutter=clutter, seed=seed)
    assert toy.points.shape == (3 * count + clutter, 2)
    assert toy.points.dtype == toy.queries.dtype == np.float32
    assert toy.queries.shape == (3, 2)
    counts = [np.sum(toy.labels == label) for label in (0, 1, 2, -1)]
    assert counts == [count, count, count, clutter]


def test_points_without_noise_are_evenly_spaced_on_their_arms():
    toy = toy_manifolds(points_per_manifold=50, noise=0)
    for number in range(3):
        points = toy.points[toy.labels == number]
        t = (np.linalg.norm(points, axis=1) - 0.28) / 0.72
        # Arms are drawn as chords of a thousandth of the curve.
        np.testing.assert_allclose(points, arm(number, t), atol=5e-5)
        steps = np.linalg.norm(np.diff(points[np.argsort(t)], axis=0), axis=1)
        # Chords of equal arcs are slightly shorter where the arm bends more.
        np.testing.assert_allclose(steps, steps.mean(), rtol=5e-3)


def test_noise_has_the_requested_deviation_in_both_coordinates():
    quiet, noisy = (toy_manifolds(noise=noise, clutter=0) for noise in (0, 0.02))
    np.testing.assert_array_equal(quiet.labels, noisy.labels)
    # 600 draws: the deviation of a sample is within 10 % of the true one.
    added = (noisy.points - quiet.points).std(axis=0)
    np.testing.assert_allclose(added, 0.02, rtol=0.1)


def test_clutter_fills_the_square_away_from_the_arms():
    toy = toy_manifolds(points_per_manifold=1, clutter=400)
    clutter = toy.points[toy.labels == -1]
    arms = np.concatenate([arm(number, T[::10]) for number in range(3)])
    assert distances(clutter, arms).min() >= 0.15 - 1e-3
    np.testing.assert_allclose(clutter.min(axis=0), -1.15, atol=0.05)
    np.testing.assert_allclose(clutter.max(axis=0), 1.15, atol=0.05)
    assert np.linalg.norm(clutter, axis=1).min() < 0.1


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.full) for seed in (1, 2))]
)
def test_arms_are_separate_but_mixed_by_distance(seed):
    toy = toy_manifolds(seed=seed)
    pairwise = distances(toy.points, toy.points)
    np.fill_diagonal(pairwise, np.inf)
    same = toy.labels[pairwise.argmin(axis=1)] == toy.labels
    assert same[toy.labels >= 0].mean() > 0.99
    for number, order in enumerate(np.argsort(distances(toy.queries, toy.points))):
        assert (toy.labels[order[:10]] == number).all()
        positives = np.flatnonzero(toy.labels == number)
        assert average_precision(order, positives) < 0.7


def test_queries_are_beside_the_middle_of_their_arms():
    toy = toy_manifolds()
    for number, query in enumerate(toy.queries):
        lengths = np.linalg.norm(np.diff(arm(number), axis=0), axis=1)
        to_arm = distances(query[None], arm(number))[0]
        assert 0.02 < to_arm.min() < 0.06
        along = lengths[: to_arm.argmin()].sum() / lengths.sum()
        np.testing.assert_allclose(along, 0.5, atol=0.02)


def test_the_order_is_independent_of_the_labels():
    # Ties are broken by lower index: sorted labels would leak into a ranking.
    labels = toy_manifolds().labels
    means = [np.flatnonzero(labels == label).mean() for label in (0, 1, 2, -1)]
    # The mean of 150 of 750 positions has a standard deviation of 16.
    np.testing.assert_allclose(means, 375, atol=4 * 16)


def test_the_same_seed_gives_the_same_points_and_another_others():
    for one, other in zip(toy_manifolds(seed=3), toy_manifolds(seed=3), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(toy_manifolds(seed=4).points, toy_manifolds().points)


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        ({"points_per_manifold": 0}, "at least 1, got 0"),
        ({"clutter": -1}, "at least 0, got -1"),
        ({"noise": -0.1}, "at least 0, got -0.1"),
        ({"noise": float("nan")}, "at least 0, got nan"),
        ({"noise": float("inf")}, "at least 0, got inf"),
        ({"seed": -1}, "at least 0, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(unchecked, bad, rule):
    ((name, _),) = bad.items()
    with pytest.raises(ValueError, match=f"{name} must be finite and {rule}"):
        toy_manifolds(**bad)
