import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.evaluation import average_precision, precision_at
from diffjax.learning import OBJECTIVES, smooth_average_precision
from diffjax.learning._objectives import standardize_scores

# Loss and gradient at one shape, with room for all positives: each compiles once.
STEPS = {
    name: jax.jit(jax.value_and_grad(functools.partial(objective, max_positives=12)))
    for name, objective in OBJECTIVES.items()
}
EVERYTHING = np.ones((12, 4), bool)
every = pytest.mark.parametrize("name", OBJECTIVES)


def step(name, scores, positives, used=EVERYTHING, queries_used=None, **settings):
    """Loss and gradient, on the host."""
    wanted = np.ones(scores.shape[1], bool) if queries_used is None else queries_used
    arrays = map(jnp.asarray, (scores, positives, used))
    got = STEPS[name](*arrays, queries_used=jnp.asarray(wanted), **settings)
    return float(got[0]), np.asarray(got[1])


def four(column):
    """One query, four times."""
    return np.tile(np.asarray(column)[:, None], (1, 4))


def smooth_loop(z, positive, negative, temperature=0.01):
    """The definition, one pair at a time."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-np.clip(x / temperature, -500, 500)))

    right = np.flatnonzero(positive)
    total = 0.0
    for i in right:
        before = 1 + sum(sigmoid(z[j] - z[i]) for j in right if j != i)
        wrong = sum(sigmoid(z[j] - z[i]) for j in np.flatnonzero(negative))
        total += before / (before + wrong)
    return 1 - total / len(right)


def softmax_loop(z, positive, negative):
    total = sum(np.exp(z[j]) for j in np.flatnonzero(positive | negative))
    return np.mean([-np.log(np.exp(z[i]) / total) for i in np.flatnonzero(positive)])


def hinge_loop(z, positive, negative):
    pairs = np.argwhere(positive[:, None] & negative[None, :])
    return np.mean([max(0.0, 1 - (z[i] - z[j])) for i, j in pairs])


LOOPS = {"smooth-ap": smooth_loop, "softmax": softmax_loop, "hinge": hinge_loop}


def looped(name, scores, positives, used, queries_used=None):
    """The mean over the queries that count of a loop over one query."""
    values = []
    for query, (s, p, u) in enumerate(
        zip(np.asarray(scores, float).T, positives.T, used.T, strict=True)
    ):
        positive, negative = p & u, ~p & u
        wanted = queries_used is None or queries_used[query]
        if wanted and positive.any() and negative.any():
            z = (s - s[u].mean()) / (s[u].std() or 1)
            values.append(LOOPS[name](z, positive, negative))
    return np.mean(values) if values else 0.0


def drawn(seed=0, images=12, queries=4):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(images, queries)).astype(np.float32)
    positives = rng.random((images, queries)) < 0.3
    used = rng.random((images, queries)) < 0.8
    positives[0], positives[1], used[:2] = True, False, True
    return scores, positives, used


@every
def test_is_what_a_loop_over_pairs_gives(name):
    for seed in range(5):
        case = drawn(seed)
        got, _ = step(name, *case)
        np.testing.assert_allclose(got, looped(name, *case), rtol=2e-5)


@every
def test_eagerly_the_positives_are_counted_and_the_loss_is_the_same(name):
    case = drawn()
    got = OBJECTIVES[name](jnp.asarray(case[0]), *case[1:])
    np.testing.assert_allclose(got, looped(name, *case), rtol=2e-5)


def test_under_tracing_there_is_room_for_all_positives():
    scores, positives, used = drawn()
    positives[2:] = True
    got = jax.jit(smooth_average_precision)(
        *map(jnp.asarray, (scores, positives, used))
    )
    expected = looped("smooth-ap", scores, positives, used)
    np.testing.assert_allclose(got, expected, rtol=2e-5)


@pytest.mark.parametrize("name", ["smooth-ap", "hinge"])
def test_blocks_do_not_change_the_loss(name, monkeypatch):
    # Blocks of 2 and 3 of 5 positives, of another shape so that it compiles anew.
    monkeypatch.setattr("diffjax.learning._objectives._MAX_BLOCK_NUMBERS", 3 * 11 * 2)
    monkeypatch.setattr("diffjax.learning._objectives._HINGE_BLOCK", 3)
    case = drawn(5, images=11, queries=3)
    objective = functools.partial(OBJECTIVES[name], max_positives=5)
    got = objective(jnp.asarray(case[0]), *case[1:])
    np.testing.assert_allclose(got, looped(name, *case), rtol=2e-5)


def test_tends_to_the_mean_precision_at_the_ranks_of_the_positives():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores = rng.permutation(12).astype(np.float32)
        right = np.arange(rng.integers(1, 12))
        got, _ = step(
            "smooth-ap",
            four(scores),
            four(np.isin(np.arange(12), right)),
            temperature=1e-3,
        )
        ranking = np.argsort(-scores)
        places = np.flatnonzero(np.isin(ranking, right))
        exact = np.mean([precision_at(ranking, right, k=int(p) + 1) for p in places])
        np.testing.assert_allclose(1 - got, exact, rtol=1e-5)
        # The trapezoids of the benchmarks are never above.
        assert average_precision(ranking, right) <= exact + 1e-9


def test_smooth_precision_comes_nearer_as_the_temperature_falls():
    scores = four(np.arange(12, 0, -1).astype(np.float32))
    positives = four(np.isin(np.arange(12), [1, 2, 6]))
    exact = 1 - (1 / 2 + 2 / 3 + 3 / 7) / 3
    gaps = [
        step("smooth-ap", scores, positives, temperature=t)[0] - exact
        for t in (1.0, 0.3, 0.1, 0.02)
    ]
    assert np.all(np.diff(np.abs(gaps)) < 0)
    assert abs(gaps[-1]) < 1e-5


@every
@settings(max_examples=20, deadline=None)
@given(
    order=st.permutations(range(12)),
    positive=st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_a_positive_that_takes_a_negatives_better_place_lowers_the_loss(
    name, order, positive
):
    # Trading places leaves mean and variance alone.
    scores, positive = np.array(order, np.float32), np.array(positive)
    higher, lower = int(scores.argmax()), int(scores.argmin())
    positive[higher], positive[lower] = False, True
    better = scores.copy()
    better[[lower, higher]] = scores[[higher, lower]]
    before, after = (step(name, four(s), four(positive))[0] for s in (scores, better))
    assert after < before


@every
def test_the_gradient_lifts_positives_that_are_too_low_and_lowers_negatives(name):
    scores = four(np.linspace(0.1, 0.5, 12, dtype=np.float32))
    case = four(np.isin(np.arange(12), [4, 6])), four(np.isin(np.arange(12), range(8)))
    # Sigmoids must be warm enough to be felt at these distances.
    settings = {"temperature": 0.5} if name == "smooth-ap" else {}
    before, gradient = step(name, scores, *case, **settings)
    assert np.all(gradient[4] < 0)
    assert np.all(gradient[7] > 0)
    assert step(name, scores - 0.01 * np.sign(gradient), *case, **settings)[0] < before


@every
def test_the_gradient_is_that_of_finite_differences(name, x64):
    scores, positives, used = drawn(3)
    scores = scores.astype(np.float64)
    # Cold sigmoids are all but steps, which finite differences step over.
    settings = {"temperature": 0.3} if name == "smooth-ap" else {}
    _, gradient = step(name, scores, positives, used, **settings)
    size = 1e-6
    for at in np.ndindex(scores.shape):
        moved = []
        for sign in (1, -1):
            other = scores.copy()
            other[at] += sign * size
            moved.append(step(name, other, positives, used, **settings)[0])
        slope = (moved[0] - moved[1]) / (2 * size)
        np.testing.assert_allclose(gradient[at], slope, rtol=1e-6, atol=1e-8)


@every
def test_masked_scores_do_not_change_the_loss(name):
    scores, positives, used = drawn(1)
    expected, gradient = step(name, scores, positives, used)
    for filling in (7.0, np.nan, np.inf):
        filled = np.where(used, scores, np.float32(filling))
        got, other = step(name, filled, positives ^ ~used, used)
        assert got == expected
        np.testing.assert_array_equal(other, gradient)
    assert np.all(gradient[~used] == 0)


@every
def test_padding_by_images_and_queries_changes_nothing(name):
    case = drawn(2, images=9, queries=3)
    scores, positives, used = (np.pad(a, ((0, 3), (0, 1))) for a in case)
    scores[9:], scores[:, 3] = np.nan, np.nan
    used[:, 3] = positives[0, 3] = True
    got, gradient = step(name, scores, positives, used, np.arange(4) < 3)
    np.testing.assert_allclose(got, looped(name, *case), rtol=2e-5)
    assert np.isfinite(gradient).all()
    assert gradient[:9, :3].any()
    assert not gradient[9:].any()
    assert not gradient[:, 3].any()


@every
def test_queries_without_positives_or_negatives_have_no_weight(name):
    scores, positives, used = drawn(4)
    expected, plain = step(name, scores, positives, used, np.arange(4) != 1)
    for value in (False, True):
        masks = positives.copy()
        masks[:, 1] = value
        got, gradient = step(name, scores, masks, used)
        assert got == expected
        np.testing.assert_array_equal(gradient, plain)
        assert not gradient[:, 1].any()


@every
@pytest.mark.parametrize("fault", ["no positive", "nothing used", "no query wanted"])
def test_where_no_query_counts_loss_and_gradient_are_0(name, fault):
    scores, positives, used = drawn(4)
    got, gradient = step(
        name,
        scores,
        positives & (fault != "no positive"),
        used & (fault != "nothing used"),
        np.full(4, fault != "no query wanted"),
    )
    assert got == 0
    np.testing.assert_array_equal(gradient, 0)


def test_zero_queries_are_accepted():
    empty = np.zeros((3, 0), bool)
    for objective in OBJECTIVES.values():
        assert objective(jnp.zeros((3, 0)), empty, empty) == 0


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-20, -3.0])
def test_where_all_scores_are_the_same_the_loss_is_finite_and_flat(value):
    # 2 positives and 3 negatives: all sigmoids are 1/2, all z are 0.
    expected = {"smooth-ap": 1 - 1.5 / 3, "softmax": np.log(5), "hinge": 1.0}
    case = four(np.arange(12) < 2), four(np.arange(12) < 5)
    for name, loss in expected.items():
        got, gradient = step(name, np.full((12, 4), value, np.float32), *case)
        np.testing.assert_allclose(got, loss, rtol=1e-6)
        np.testing.assert_array_equal(gradient, 0)


@every
@pytest.mark.parametrize(("scale", "offset"), [(3.0, 0.0), (1e-25, 0.0), (2.0, 1.0)])
def test_neither_size_nor_offset_of_a_querys_scores_matters(name, scale, offset):
    scores, positives, used = drawn(6)
    expected, gradient = step(name, scores, positives, used)
    factors = np.array([[scale, 1, scale, 1]], np.float32)
    moved = scores * factors + np.float32(offset)
    got, other = step(name, moved, positives, used)
    np.testing.assert_allclose(got, expected, rtol=2e-4)
    # A function of s / c falls c times more slowly.
    largest = np.abs(gradient).max()
    np.testing.assert_allclose(other * factors, gradient, atol=2e-3 * largest)


def test_standard_scores_have_mean_0_and_variance_1_over_what_is_used():
    rng = np.random.default_rng(0)
    scores = (rng.normal(size=50) * 1e-22).astype(np.float32)
    used = rng.random(50) < 0.6
    got = np.asarray(standardize_scores(jnp.asarray(scores), jnp.asarray(used)))
    assert np.all(got[~used] == 0)
    np.testing.assert_allclose(got[used].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(got[used].var(), 1, rtol=1e-5)
    exact = scores[used].astype(float)
    np.testing.assert_allclose(
        got[used], (exact - exact.mean()) / exact.std(), rtol=1e-4, atol=1e-6
    )


@every
def test_a_score_that_is_not_a_number_is_not_hidden(name):
    scores, positives, used = drawn(1)
    scores[0, 2] = np.nan
    assert np.isnan(step(name, scores, positives, used)[0])


def test_batches_of_one_shape_compile_once(compiled):
    run = jax.jit(functools.partial(smooth_average_precision, max_positives=11))
    cases = [tuple(map(jnp.asarray, drawn(seed))) for seed in range(3)]
    run(*cases[0]).block_until_ready()
    before = len(compiled)
    for case in cases[1:]:
        run(*case)
    assert len(compiled) == before


@every
def test_too_little_room_for_positives_is_an_error_or_seen_in_the_loss(name):
    scores, positives, used = map(jnp.asarray, drawn(8))
    most = int((positives & used).sum(0).max())
    small = functools.partial(OBJECTIVES[name], max_positives=most - 1)
    with pytest.raises(ValueError, match=f"max_positives must be at least {most}, got"):
        small(scores, positives, used)
    if name == "smooth-ap":  # The others do the same with it.
        assert np.isnan(jax.jit(small)(scores, positives, used))


@every
def test_bad_input_is_named(name, unchecked):
    objective = OBJECTIVES[name]
    scores, positives, used = drawn()
    double: Any = scores.astype(np.float64)
    scores = jnp.asarray(scores)
    with pytest.raises(ValueError, match=r"positives must have the shape of scores"):
        objective(scores, positives[:, :2], used)
    with pytest.raises(ValueError, match=r"used must have the shape .*got \(11, 4\)"):
        objective(scores, positives, used[1:])
    with pytest.raises(ValueError, match=r"queries_used must have one entry per query"):
        objective(scores, positives, used, queries_used=np.ones(3, bool))
    with pytest.raises(ValueError, match="max_positives must be at least 1, got 0"):
        objective(scores, positives, used, max_positives=0)
    with pytest.raises(ValueError, match="scores must be a matrix of floating point"):
        objective(scores[:, 0], positives, used)
    with pytest.raises(ValueError, match="scores must have a row per image"):
        objective(scores[:0], positives[:0], used[:0])
    with pytest.raises(ValueError, match="scores must be float32 here"):
        objective(double, positives, used)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.inf, np.nan])
def test_a_temperature_must_be_finite_and_above_0(temperature):
    with pytest.raises(ValueError, match="temperature must be finite and above 0"):
        smooth_average_precision(
            *map(jnp.asarray, drawn()), temperature=float(temperature)
        )
