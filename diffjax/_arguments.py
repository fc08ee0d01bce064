"""Checks of array arguments; traced arrays, whose values are unknown, pass."""

from typing import Any

import numpy as np
from jax import dtypes
from jaxtyping import Array, Float, Int

from diffjax._ranges import check_in_range, is_concrete  # noqa: F401  # Both are imported from here.


def check_matrix(name: str, array: Any) -> None:
    """Refuses anything but a matrix of floating point.

    Raises:
        ValueError: With the type and shape.
    """
    dtype, shape = getattr(array, "dtype", None), getattr(array, "shape", None)
    if dtype is None or shape is None:
        raise ValueError(f"{name} must be an array, got {type(array).__name__}.")
    if len(shape) != 2 or not np.issubdtype(dtype, np.floating):
        raise ValueError(
            f"{name} must be a matrix of floating point, got {dtype} {list(shape)}."
        )


def check_vectors(name: str, vectors: Float[Array | np.ndarray, "n d"]) -> None:
    """Refuses vectors that are zero, not finite, or float64 that JAX would downcast.

    Raises:
        ValueError: With the number of bad rows and the first of them.
    """
    check_not_downcast(name, vectors)
    if not is_concrete(vectors) or vectors.size == 0:
        return
    host_vectors = np.asarray(vectors)
    # The largest entry rather than the norm, whose square over- or underflows.
    row_maxima = np.maximum(host_vectors.max(axis=1), -host_vectors.min(axis=1))
    non_finite_rows = np.flatnonzero(~np.isfinite(row_maxima))
    if non_finite_rows.size:
        raise ValueError(
            f"{name} must be finite, got NaN or infinity in {non_finite_rows.size} of "
            f"{len(host_vectors)} rows, first in row {non_finite_rows[0]}."
        )
    zero_rows = np.flatnonzero(row_maxima == 0)
    if zero_rows.size:
        raise ValueError(
            f"{name} must have a direction, got {zero_rows.size} of "
            f"{len(host_vectors)} rows that are zero, first row {zero_rows[0]}: leave "
            "those out."
        )


def check_not_downcast(name: str, array: Any) -> None:
    """Refuses an array whose numbers JAX would silently change.

    JAX makes float64 float32, ignores masks, and a compiled program takes the bytes of
    a foreign byte order as they lie.

    Raises:
        ValueError: With what to do about it.
    """
    if np.ma.is_masked(array):
        raise ValueError(f"{name} must have no masked entries: leave these out.")
    dtype = getattr(array, "dtype", None)
    if isinstance(dtype, np.dtype) and not dtype.isnative:
        raise ValueError(
            f"{name} must be in this machine's byte order, got {dtype.str}: convert "
            f"it, by .astype({dtype.name!r})."
        )
    is_downcast = dtypes.canonicalize_dtype(np.float64) != np.float64
    if is_downcast and getattr(array, "dtype", None) == np.float64:
        raise ValueError(
            f"{name} must be float32 here, got float64: convert it, or turn on "
            "jax_enable_x64 to compute in double precision."
        )


def check_ids(name: str, ids: Int[Array | np.ndarray, " n"], *, rows: int) -> None:
    """Refuses ids that are not one per row, ascending from 0 and without gaps.

    Raises:
        ValueError: With the first bad row.
    """
    if ids.shape != (rows,):
        raise ValueError(f"{name} must have one id per row, {rows}, got {ids.shape}.")
    if not is_concrete(ids) or rows == 0:
        return
    host_ids = np.asarray(ids)
    differences = np.diff(host_ids, prepend=-1)
    invalid_rows = np.flatnonzero((differences < 0) | (differences > 1))
    if host_ids[0] != 0:
        raise ValueError(f"{name} must start at 0, got {host_ids[0]}.")
    if invalid_rows.size:
        row = invalid_rows[0]
        raise ValueError(
            f"{name} must neither decrease nor skip a number, got {host_ids[row]} "
            f"after {host_ids[row - 1]} in row {row}: sort the rows by id and number "
            "the ids 0, 1, 2, ..."
        )


def count_ids(
    name: str, ids: Int[Array | np.ndarray, " n"], *, count: int | None, count_name: str
) -> int:
    """Number of different ids: `count`, or read from concrete ids if that is None.

    Raises:
        ValueError: If it is None and the ids are traced, or if it is too small.
    """
    if not is_concrete(ids):
        if count is None:
            raise ValueError(
                f"{count_name} must be given under jit, where {name} has no values."
            )
        return count
    actual_count = int(np.asarray(ids)[-1]) + 1 if ids.shape[0] else 0
    if count is None:
        return actual_count
    if count < actual_count:
        raise ValueError(f"{count_name} must be at least {actual_count}, got {count}.")
    return count


def max_rows_per_id(
    name: str, ids: Int[Array | np.ndarray, " n"], *, limit: int | None, limit_name: str
) -> int:
    """Largest number of rows with one id: `most`, or counted if that is None.

    Raises:
        ValueError: If it is None and the ids are traced, or if it is too small.
    """
    if not is_concrete(ids):
        if limit is None:
            raise ValueError(
                f"{limit_name} must be given under jit, where {name} has no values."
            )
        return limit
    actual_max = int(np.bincount(np.asarray(ids)).max(initial=0))
    if limit is None:
        return actual_max
    if limit < actual_max:
        raise ValueError(f"{limit_name} must be at least {actual_max}, got {limit}.")
    return limit
