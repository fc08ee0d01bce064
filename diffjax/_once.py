"""What is computed of an array once, and remembered as long as the array lives."""

import functools
import weakref
from collections.abc import Callable
from typing import TypeVar

from jaxtyping import Array

T = TypeVar("T")


def once_per_array(function: Callable[[Array], T]) -> Callable[[Array], T]:
    """Makes a function of a concrete array remember what it gave.

    Arrays of JAX do not change, so that a look at all of a large one, which is a copy
    to the host on an accelerator, is not needed for every query.

    Args:
        function: Takes one array, whose values are known, and gives what is small.

    Returns:
        The function with a memory that does not keep arrays alive.
    """
    known: dict[int, tuple[weakref.ref[Array], T]] = {}

    @functools.wraps(function)
    def remembered(array: Array) -> T:
        key = id(array)
        if key in known and known[key][0]() is array:
            return known[key][1]
        value = function(array)
        known[key] = weakref.ref(array, lambda _: known.pop(key, None)), value
        return value

    return remembered
