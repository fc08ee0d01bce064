import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.ranking import pad_shortlist, rank, scatter_shortlist

# Five images; the list of the one query holds 3 and 0, with scores 2 and -1.
SCORES, IMAGES = jnp.array([[2.0], [-1.0]]), jnp.array([[3, 0]])
REST = jnp.array([[0.1], [0.4], [0.9], [0.2], [0.4]])


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_the_rest_follows_the_whole_list_in_its_own_order(jitted):
    with jax.disable_jit(not jitted):
        got = scatter_shortlist(SCORES, IMAGES, REST)
    # Least of the list -1, best of the rest 0.9: -2 - (0.9 - g).
    np.testing.assert_allclose(got[:, 0], [-1, -2.5, -2, 2, -2.5], rtol=1e-6)
    np.testing.assert_array_equal(rank(got)[:, 0], [3, 0, 2, 1, 4])


def test_the_releases_rest_ties_at_zero_in_database_order():
    got = pad_shortlist(SCORES, IMAGES, REST)
    np.testing.assert_array_equal(got[:, 0], [-1, 0, 0, 2, 0])
    np.testing.assert_array_equal(rank(got)[:, 0], [3, 1, 2, 4, 0])


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 8))
def test_no_image_outside_the_list_comes_before_one_in_it(seed, size):
    rng = np.random.default_rng(seed)
    rest = rng.uniform(-1, 1, size=(8, 3)).astype(np.float32)
    images = np.stack([rng.permutation(8)[:size] for _ in range(3)])
    scores = rng.normal(size=(size, 3)).astype(np.float32)
    ranking = rank(scatter_shortlist(*map(jnp.asarray, (scores, images, rest))))
    for query in range(3):
        order = np.asarray(ranking[:, query])
        best = images[query][np.argsort(-scores[:, query], kind="stable")]
        np.testing.assert_array_equal(order[:size], best)
        assert (np.diff(rest[order[size:], query]) <= 1e-6).all()
