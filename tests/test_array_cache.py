import gc
import weakref

import jax.numpy as jnp
import numpy as np
import pytest

from diffjax._array_cache import ArrayCache, cache_by_identity


def test_a_value_is_computed_once_per_array_which_is_not_kept_alive():
    calls = []

    @cache_by_identity
    def total(array):
        calls.append(1)
        return float(np.asarray(array).sum())

    one, other = jnp.arange(3.0), jnp.arange(4.0)
    assert [total(one), total(other), total(one), total(other)] == [3, 6, 3, 6]
    assert len(calls) == 2
    alive = weakref.ref(one)
    del one
    gc.collect()
    assert alive() is None
    # Arrays that reuse its memory are computed again.
    others = [jnp.full(3, i) for i in range(20)]
    assert [total(array) for array in others] == [3 * i for i in range(20)]


def test_values_of_mutable_arrays_are_not_cached():
    total = cache_by_identity(lambda tree: float(sum(leaf.sum() for leaf in tree)))
    fixed, array = jnp.ones(2), np.ones(3)
    assert total((array, fixed)) == 5
    array *= 2
    assert total((array, fixed)) == 8


@pytest.mark.full
def test_a_value_of_several_arrays_is_cached_for_all_of_them_together():
    cache = ArrayCache()
    one, other = jnp.arange(3.0), jnp.arange(4.0)
    assert cache.put((one, other), "both") == cache.get((one, other)) == "both"
    assert cache.get((one,)) is cache.get((other, one)) is None
    del other
    gc.collect()
    others = [jnp.full(4, i) for i in range(20)]
    assert not any(cache.get((one, array)) for array in others)
