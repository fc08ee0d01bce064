"""Rows of local descriptors: their checks, and which belong to which query."""

import numpy as np
from jaxtyping import Array, Float, Int


def check_descriptors(
    name: str, descriptors: Float[Array | np.ndarray, "n d"], *, dim: int | None = None
) -> Float[np.ndarray, "n d"]:
    """Gives descriptors on the host, in single precision.

    Args:
        name: What errors call them.
        descriptors: Local descriptors.
        dim: Dimensions they must have; None for any.

    Returns:
        The descriptors, C-contiguous.

    Raises:
        ValueError: If they are no matrix, of other dimensions or not finite.
    """
    host = np.ascontiguousarray(descriptors, np.float32)
    if host.ndim != 2:
        raise ValueError(f"{name} must be a matrix, got shape {list(host.shape)}.")
    if dim is not None and host.shape[1] != dim:
        raise ValueError(
            f"{name} must have the collection's {dim} dimensions, got {host.shape[1]}."
        )
    bad = np.flatnonzero(~np.isfinite(host).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{name} must be finite, got NaN or infinity in {bad.size} of {len(host)} "
            f"rows, first in row {bad[0]}."
        )
    return host


def count_ids_with_gaps(
    name: str,
    ids: Int[np.ndarray, " n"],
    *,
    rows: int,
    count: int | None,
    count_name: str,
) -> int:
    """Checks ids that may skip numbers, and counts what they number.

    Args:
        name: What errors call them.
        ids: One per row, never going back.
        rows: Number of rows.
        count: The number of images or queries; None for the last id plus 1.
        count_name: What errors call that.

    Returns:
        That number.

    Raises:
        ValueError: If ids are not whole numbers, one per row, go back or below 0, or
            reach `count`.
    """
    if ids.shape != (rows,) or ids.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be whole numbers, one for each of {rows} rows, got "
            f"{ids.dtype} {list(ids.shape)}."
        )
    # Unsigned numbers would not go below 0 in a difference.
    bad = np.flatnonzero(np.diff(ids.astype(np.int64), prepend=0) < 0)
    if bad.size:
        raise ValueError(
            f"{name} must be at least 0 and never go back, got {ids[bad[0]]} in row "
            f"{bad[0]}: sort the rows by id."
        )
    seen = int(ids[-1]) + 1 if rows else 0
    if count is None:
        return seen
    if count < seen:
        raise ValueError(f"{count_name} must be at least {seen}, got {count}.")
    return count


def rows_of(
    queries: Float[Array | np.ndarray, "r d"],
    query_ids: Int[Array | np.ndarray, " r"],
    *,
    num_queries: int | None,
    dim: int,
) -> list[Float[np.ndarray, "_ d"]]:
    """Takes the descriptors of queries apart.

    Args:
        queries: Local descriptors of the queries.
        query_ids: Query of each, never going back.
        num_queries: Number of queries; None for the last id plus 1.
        dim: Dimensions they must have.

    Returns:
        The descriptors of each query, none for one whose number does not occur.

    Raises:
        ValueError: As `check_descriptors` and `count_ids_with_gaps`.
    """
    host = check_descriptors("queries", queries, dim=dim)
    ids = np.asarray(query_ids)
    count = count_ids_with_gaps(
        "query_ids", ids, rows=len(host), count=num_queries, count_name="num_queries"
    )
    bounds = np.searchsorted(ids, np.arange(count + 1))
    return [host[bounds[q] : bounds[q + 1]] for q in range(count)]
