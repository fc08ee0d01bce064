"""Checks of concrete arguments; under tracing values are unknown and pass."""

from typing import Any

import jax
import numpy as np
from jax import dtypes
from jax.core import Tracer
from jaxtyping import Array, Float, Int


def is_concrete(value: Any) -> bool:
    """Whether the values of `value` can be looked at: all are here, and not traced."""
    if isinstance(value, Tracer):
        return False
    return not isinstance(value, jax.Array) or value.is_fully_addressable


def check_in_range(
    name: str, value: Any, *, low: float, high: float, closed_low: bool = False
) -> None:
    """Refuses a concrete scalar outside (low, high), or [low, high) if `closed_low`."""
    if not is_concrete(value):
        return
    number = float(value)
    above = number >= low if closed_low else number > low
    if not (above and number < high):
        rule = f"in {'[' if closed_low else '('}{low}, {high})"
        if high == np.inf:
            rule = f"finite and {'at least' if closed_low else 'above'} {low}"
        raise ValueError(f"{name} must be {rule}, got {value}.")


def check_matrix(name: str, array: Any) -> None:
    """Refuses what is no matrix of floating point.

    Raises:
        ValueError: With the type and shape.
    """
    kind, shape = getattr(array, "dtype", None), getattr(array, "shape", None)
    if kind is None or shape is None:
        raise ValueError(f"{name} must be an array, got {type(array).__name__}.")
    if len(shape) != 2 or not np.issubdtype(kind, np.floating):
        raise ValueError(
            f"{name} must be a matrix of floating point, got {kind} {list(shape)}."
        )


def check_vectors(name: str, vectors: Float[Array | np.ndarray, "n d"]) -> None:
    """Refuses vectors that JAX would halve silently, that are not finite, or zero.

    Raises:
        ValueError: Naming the first bad row.
    """
    check_not_downcast(name, vectors)
    if not is_concrete(vectors) or vectors.size == 0:
        return
    host = np.asarray(vectors)
    # By the largest number of a row: its square may be too large or too small.
    largest = np.maximum(host.max(axis=1), -host.min(axis=1))
    bad = np.flatnonzero(~np.isfinite(largest))
    if bad.size:
        raise ValueError(
            f"{name} must be finite, got NaN or infinity in {bad.size} of "
            f"{len(host)} rows, first in row {bad[0]}."
        )
    bad = np.flatnonzero(largest == 0)
    if bad.size:
        raise ValueError(
            f"{name} must have a direction, got {bad.size} of {len(host)} rows that "
            f"are zero, first row {bad[0]}: leave those out."
        )


def check_not_downcast(name: str, array: Any) -> None:
    """Refuses float64 where JAX would make it float32 without a word."""
    halved = dtypes.canonicalize_dtype(np.float64) != np.float64
    if halved and getattr(array, "dtype", None) == np.float64:
        raise ValueError(
            f"{name} must be float32 here, got float64: convert it, or turn on "
            "jax_enable_x64 to compute in double precision."
        )


def check_ids(name: str, ids: Int[Array | np.ndarray, " n"], *, rows: int) -> None:
    """Refuses ids that are not one per row, from 0 upwards without going back or gaps.

    Raises:
        ValueError: Naming the first bad place.
    """
    if ids.shape != (rows,):
        raise ValueError(f"{name} must have one id per row, {rows}, got {ids.shape}.")
    if not is_concrete(ids) or rows == 0:
        return
    host = np.asarray(ids)
    steps = np.diff(host, prepend=-1)
    bad = np.flatnonzero((steps < 0) | (steps > 1))
    if host[0] != 0:
        raise ValueError(f"{name} must start at 0, got {host[0]}.")
    if bad.size:
        before, here = host[bad[0] - 1], host[bad[0]]
        raise ValueError(
            f"{name} must go up from 0 without going back or skipping a number, got "
            f"{here} after {before} in row {bad[0]}: sort the rows by id and number "
            "the ids 0, 1, 2, ..."
        )


def count_ids(
    name: str, ids: Int[Array | np.ndarray, " n"], *, count: int | None, count_name: str
) -> int:
    """The number of different ids: `count` if given, else read from concrete ids.

    Raises:
        ValueError: If neither is possible, or if `count` is too small.
    """
    if not is_concrete(ids):
        if count is None:
            raise ValueError(
                f"{count_name} must be given under jit, where {name} has no values."
            )
        return count
    seen = int(np.asarray(ids)[-1]) + 1 if ids.shape[0] else 0
    if count is None:
        return seen
    if count < seen:
        raise ValueError(f"{count_name} must be at least {seen}, got {count}.")
    return count


def max_rows_per_id(
    name: str, ids: Int[Array | np.ndarray, " n"], *, most: int | None, most_name: str
) -> int:
    """The most rows of any id: `most` if given, else counted in concrete ids.

    Raises:
        ValueError: If neither is possible, or if `most` is too small.
    """
    if not is_concrete(ids):
        if most is None:
            raise ValueError(
                f"{most_name} must be given under jit, where {name} has no values."
            )
        return most
    seen = int(np.bincount(np.asarray(ids)).max(initial=0))
    if most is None:
        return seen
    if most < seen:
        raise ValueError(f"{most_name} must be at least {seen}, got {most}.")
    return most
