import gc
import weakref

import jax.numpy as jnp
import numpy as np

from diffjax._array_cache import ArrayCache, cache_by_identity


def test_each_array_is_looked_at_once_and_not_kept():
    seen = []

    @cache_by_identity
    def total(array):
        seen.append(1)
        return float(np.asarray(array).sum())

    one, other = jnp.arange(3.0), jnp.arange(4.0)
    assert [total(one), total(other), total(one), total(other)] == [3, 6, 3, 6]
    assert len(seen) == 2
    alive = weakref.ref(one)
    del one
    gc.collect()
    assert alive() is None
    # What comes to lie in its place is looked at again.
    others = [jnp.full(3, i) for i in range(20)]
    assert [total(each) for each in others] == [3 * i for i in range(20)]


def test_what_may_change_is_looked_at_again():
    total = cache_by_identity(lambda given: float(sum(each.sum() for each in given)))
    fixed, array = jnp.ones(2), np.ones(3)
    assert total((array, fixed)) == 5
    array *= 2
    assert total((array, fixed)) == 8


def test_several_arrays_are_known_together_or_not_at_all():
    memory = ArrayCache()
    one, other = jnp.arange(3.0), jnp.arange(4.0)
    assert memory.put((one, other), "both") == memory.get((one, other)) == "both"
    assert memory.get((one,)) is memory.get((other, one)) is None
    del other
    gc.collect()
    others = [jnp.full(4, i) for i in range(20)]
    assert not any(memory.get((one, each)) for each in others)
