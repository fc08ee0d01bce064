"""Order of images, and of a short list among all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffjax.ranking import fill_outside_by_similarity, fill_outside_with_zeros, rank


def ranked_by_sorting_pairs(column):
    """Orders by (score falling, index rising), what is not a number at the end."""
    missing = np.isnan(column)
    known = np.where(missing, 0, column)  # NaN itself would compare with nothing.
    return sorted(range(len(column)), key=lambda i: (missing[i], -known[i], i))


@pytest.mark.usefixtures("x64")
@settings(deadline=None, max_examples=40)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        # Few shapes, so that few programs are compiled.
        st.sampled_from([(1, 1), (6, 3)]),
        elements=st.sampled_from([-np.inf, -2.5, -0.0, 0.0, 1.0, 2.0, np.inf, np.nan]),
    )
)
def test_agrees_with_sorting_pairs_of_score_and_index(scores):
    got = np.asarray(rank(jnp.asarray(scores)))
    for i, column in enumerate(scores.T):
        np.testing.assert_array_equal(got[:, i], ranked_by_sorting_pairs(column))


def test_ties_are_ordered_by_lower_index():
    scores = jnp.asarray(np.array([[0.5], [1], [0.5], [1], [0.5]], np.float32))
    np.testing.assert_array_equal(rank(scores), np.array([[1, 3, 0, 2, 4]]).T)
    # Long enough that a sort which is not stable shows it.
    many = jnp.asarray((np.arange(1000) % 3).astype(np.float32)[:, None])
    expected = np.concatenate([np.arange(rest, 1000, 3) for rest in (2, 1, 0)])
    np.testing.assert_array_equal(rank(many), expected[:, None])


def test_nan_scores_rank_last_with_either_sign():
    nan = np.float32("nan")
    scores = np.array([nan, -np.inf, np.copysign(nan, np.float32(-1)), np.inf, nan])
    got = rank(jnp.asarray(scores.astype(np.float32)[:, None]))
    np.testing.assert_array_equal(got, np.array([[3, 1, 0, 2, 4]]).T)


def test_ranks_of_a_query_do_not_depend_on_other_queries():
    scores = np.random.default_rng(0).normal(size=(20, 7)).astype(np.float32)
    together = np.asarray(rank(jnp.asarray(scores)))
    for i in range(7):
        alone = np.asarray(rank(jnp.asarray(scores[:, i : i + 1])))
        np.testing.assert_array_equal(together[:, [i]], alone)
        assert sorted(alone[:, 0]) == list(range(20))


def test_runs_inside_compiled_code_and_under_vmap():
    scores = np.random.default_rng(0).normal(size=(3, 8, 2)).astype(np.float32)
    expected = np.stack([rank(jnp.asarray(matrix)) for matrix in scores])
    np.testing.assert_array_equal(jax.jit(jax.vmap(rank))(scores), expected)


@pytest.mark.parametrize("shape", [(0, 2), (3, 0)])
def test_zero_images_or_zero_queries_give_empty_ranks(shape):
    assert rank(jnp.asarray(np.zeros(shape, np.float32))).shape == shape


# Five images; the short list of the one query holds 3 and 0, with scores 2 and -1.
SCORES = jnp.asarray(np.array([[2], [-1]], np.float32))
IMAGES = jnp.asarray(np.array([[3, 0]]))
SIMILARITIES = jnp.asarray(np.array([[0.1], [0.4], [0.9], [0.2], [0.4]], np.float32))


@pytest.mark.parametrize(
    "jitted",
    [pytest.param(False, marks=pytest.mark.full), True],
    ids=["eager", "jit"],
)
def test_images_outside_the_short_list_follow_by_similarity(jitted):
    with jax.disable_jit(not jitted):
        got = fill_outside_by_similarity(SCORES, IMAGES, SIMILARITIES)
    # Least of the list -1, best of the others 0.9: -2 - (0.9 - g).
    expected = np.array([[-1, -2.5, -2, 2, -2.5]]).T
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_array_equal(rank(got), np.array([[3, 0, 2, 1, 4]]).T)


def test_images_outside_the_short_list_tie_at_zero_in_the_release():
    got = fill_outside_with_zeros(SCORES, IMAGES, SIMILARITIES)
    np.testing.assert_array_equal(got, np.array([[-1, 0, 0, 2, 0]]).T)
    np.testing.assert_array_equal(rank(got), np.array([[3, 1, 2, 4, 0]]).T)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), size=st.sampled_from([1, 3, 8]))
def test_images_outside_the_short_list_rank_below_all_images_in_it(seed, size):
    rng = np.random.default_rng(seed)
    similarities = rng.uniform(-1, 1, size=(8, 3)).astype(np.float32)
    images = np.stack([rng.permutation(8)[:size] for _ in range(3)])
    scores = rng.normal(size=(size, 3)).astype(np.float32)
    ranking = rank(
        fill_outside_by_similarity(*map(jnp.asarray, (scores, images, similarities)))
    )
    for query in range(3):
        order = np.asarray(ranking)[:, query]
        best = images[query][np.argsort(-scores[:, query], kind="stable")]
        np.testing.assert_array_equal(order[:size], best)
        assert (np.diff(similarities[order[size:], query]) <= 1e-6).all()
