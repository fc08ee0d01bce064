"""Range checks of settings, without importing JAX."""

import sys
from typing import Any

import numpy as np


def is_concrete(value: Any) -> bool:
    """Whether the values can be read: not traced, and all on this process's devices."""
    jax = sys.modules.get("jax")
    # Without JAX, nothing can be one of its tracers.
    if jax is None or isinstance(value, (bool, int, float, np.ndarray, np.generic)):
        return True
    if isinstance(value, jax.core.Tracer):
        return False
    return not isinstance(value, jax.Array) or value.is_fully_addressable


def check_in_range(
    name: str, value: Any, *, low: float, high: float, closed_low: bool = False
) -> None:
    """Refuses a concrete scalar outside (low, high), or [low, high) if `closed_low`.

    Raises:
        ValueError: With the rule and the value. A traced scalar passes.
    """
    if not is_concrete(value):
        return
    number = float(value)
    above = number >= low if closed_low else number > low
    if not (above and number < high):
        rule = f"in {'[' if closed_low else '('}{low}, {high})"
        if high == np.inf:
            rule = f"finite and {'at least' if closed_low else 'above'} {low}"
        raise ValueError(f"{name} must be {rule}, got {value}.")


def check_at_least(name: str, value: int, least: int) -> None:
    """Refuses a number below the least that is allowed.

    Raises:
        ValueError: With the value.
    """
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuses a value that is none of the choices.

    Raises:
        ValueError: With the choices and the value.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}.")
