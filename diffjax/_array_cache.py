"""Weak-reference cache for values computed from immutable arrays."""

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import jax

T = TypeVar("T")


class ArrayCache(Generic[T]):
    """Remembers of arrays what a look at all of them told, and keeps none alive.

    Arrays of JAX do not change, so that a look at all of a large one, which is a copy
    to the host on an accelerator, is not needed for every query. Where one of several
    is of another kind, which may change, nothing is remembered.
    """

    def __init__(self) -> None:
        """Remembers nothing yet."""
        self._known: dict[
            tuple[int, ...], tuple[tuple[weakref.ref[jax.Array], ...], T]
        ] = {}

    def get(self, arrays: Sequence[Any]) -> T | None:
        """What was remembered of these arrays together; None for nothing."""
        references, value = self._known.get(tuple(map(id, arrays)), ((), None))
        # A number may have gone over from an array that is no more.
        same = all(r() is a for r, a in zip(references, arrays, strict=False))
        return value if references and same else None

    def put(self, arrays: Sequence[Any], value: T) -> T:
        """Remembers a value of these arrays together, and gives it back."""
        if all(isinstance(array, jax.Array) for array in arrays):
            key = tuple(map(id, arrays))

            def forget(_: weakref.ref[jax.Array]) -> None:
                self._known.pop(key, None)

            references = tuple(weakref.ref(array, forget) for array in arrays)
            self._known[key] = references, value
        return value


def cache_by_identity(function: Callable[[Any], T]) -> Callable[[Any], T]:
    """Makes a function of concrete arrays remember what it gave.

    Args:
        function: Takes an array or a tree of them, and gives what is worth keeping,
            which is not None.

    Returns:
        The function with a `ArrayCache`.
    """
    memory: ArrayCache[T] = ArrayCache()

    @functools.wraps(function)
    def remembered(given: Any) -> T:
        arrays = jax.tree.leaves(given)
        known = memory.get(arrays)
        return memory.put(arrays, function(given)) if known is None else known

    return remembered
