"""Weak-reference cache for values computed from immutable arrays."""

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import jax

T = TypeVar("T")


class ArrayCache(Generic[T]):
    """Cache of values computed from JAX arrays, which holds no array alive.

    JAX arrays do not change, so a check of a large one, which copies it to the host
    from an accelerator, need not be repeated for every query. Nothing is cached if one
    of the arrays is of another kind, which may change.
    """

    def __init__(self) -> None:
        """Makes an empty cache."""
        self._entries: dict[
            tuple[int, ...], tuple[tuple[weakref.ref[jax.Array], ...], T]
        ] = {}

    def get(self, arrays: Sequence[Any]) -> T | None:
        """Returns the value cached for these arrays together, or None."""
        references, value = self._entries.get(tuple(map(id, arrays)), ((), None))
        # The id may be that of a deleted array.
        is_same = all(r() is a for r, a in zip(references, arrays, strict=False))
        return value if references and is_same else None

    def put(self, arrays: Sequence[Any], value: T) -> T:
        """Caches a value for these arrays together, and returns it."""
        if all(isinstance(array, jax.Array) for array in arrays):
            key = tuple(map(id, arrays))

            def evict(_: weakref.ref[jax.Array]) -> None:
                self._entries.pop(key, None)

            references = tuple(weakref.ref(array, evict) for array in arrays)
            self._entries[key] = references, value
        return value


def cache_by_identity(function: Callable[[Any], T]) -> Callable[[Any], T]:
    """Caches the results of a function of concrete arrays, by identity of the arrays.

    Args:
        function: Function of an array or a tree of arrays; never returns None.

    Returns:
        The function with an `ArrayCache`.
    """
    cache: ArrayCache[T] = ArrayCache()

    @functools.wraps(function)
    def cached_function(tree: Any) -> T:
        arrays = jax.tree.leaves(tree)
        value = cache.get(arrays)
        return cache.put(arrays, function(tree)) if value is None else value

    return cached_function
