import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax._spread import line_of
from diffjax.graph import _mutual
from diffjax.types import Neighbors


def lists(n: int, k: int, *, empty: float) -> Neighbors:
    """Any lists, a pair's two similarities unlike, and some slots empty."""
    rng = np.random.default_rng(n + k)
    indices = np.stack([rng.choice(n, k, replace=False) for _ in range(n)])
    indices[rng.random((n, k)) < empty] = -1
    similarities = np.where(indices >= 0, rng.normal(size=(n, k)), 0)
    return Neighbors(
        jnp.asarray(indices, jnp.int32), jnp.asarray(similarities, jnp.float32)
    )


def one_by_one(neighbors: Neighbors) -> np.ndarray:
    """The smaller similarity of each pair that is in both lists, by looking."""
    indices, similarities = map(np.asarray, neighbors)
    found = np.full(indices.shape, -np.inf)
    for i, row in enumerate(indices):
        for slot, j in enumerate(row):
            if j >= 0 and j != i and i in indices[j]:
                back = similarities[j, list(indices[j]).index(i)]
                found[i, slot] = min(similarities[i, slot], back)
    return found


@pytest.mark.parametrize("at_once", [7, 2**16])
@pytest.mark.parametrize(("n", "k", "empty"), [(23, 6, 0.2), (6, 6, 0.0), (5, 1, 1.0)])
def test_a_pair_is_mutual_where_each_lists_the_other(monkeypatch, n, k, empty, at_once):
    monkeypatch.setattr(_mutual, "_PAIRS_AT_ONCE", at_once)
    neighbors = lists(n, k, empty=empty)
    line = line_of(np.array(jax.devices()[:1]))
    expected = one_by_one(neighbors)
    for found in (
        _mutual.mutual_similarities(neighbors),
        # A new function each time: the number of pairs is no argument.
        jax.jit(lambda x: _mutual.ring_mutual_similarities(x, line))(neighbors),
    ):
        np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_more_pairs_than_numbers_are_refused():
    line = line_of(np.array(jax.devices()[:1]))
    many = Neighbors(
        jax.ShapeDtypeStruct((2**26, 32), jnp.int32),  # pyright: ignore[reportArgumentType]  # A shape of it.
        jax.ShapeDtypeStruct((2**26, 32), jnp.float32),  # pyright: ignore[reportArgumentType]  # Likewise.
    )
    with pytest.raises(
        ValueError, match=r"fewer than 2\^31 on each device, got 2147483"
    ):
        jax.eval_shape(lambda x: _mutual.ring_mutual_similarities(x, line), many)
