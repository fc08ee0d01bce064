"""What is computed of an array once, and remembered as long as the array lives."""

import functools
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import jax

T = TypeVar("T")


def once_per_array(
    function: Callable[[Any], T], *, of: Callable[[Any], Any] = lambda given: given
) -> Callable[[Any], T]:
    """Makes a function of a concrete array remember what it gave.

    Arrays of JAX do not change, so that a look at all of a large one, which is a copy
    to the host on an accelerator, is not needed for every query. Of other arrays, which
    may change, nothing is remembered.

    Args:
        function: Takes what holds the array, and gives what is worth keeping.
        of: The array that what is given stands for.

    Returns:
        The function with a memory that does not keep arrays alive.
    """
    known: dict[int, tuple[weakref.ref[jax.Array], T]] = {}

    @functools.wraps(function)
    def remembered(given: Any) -> T:
        array = of(given)
        if not isinstance(array, jax.Array):
            return function(given)
        key = id(array)
        if key in known and known[key][0]() is array:
            return known[key][1]
        value = function(given)
        known[key] = weakref.ref(array, lambda _: known.pop(key, None)), value
        return value

    return remembered
