"""Validation of vectors, ids and boxes of an index and of queries."""

import copy
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import dtypes
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_ids, check_vectors

Ids = Int[Array | np.ndarray, " n"]
QueryIds = Int[Array | np.ndarray, " r"]
Boxes = Float[Array | np.ndarray, "n 4"]

# Rows whose largest entry is outside are scaled before they lose precision.
_SINGLE_RANGE = 2.0**-100, 2.0**100


class VectorRows:
    """Reader of region vectors of any real type, byte order and order of rows.

    Rows are read in single precision, or in double where both the vectors and JAX have
    it. Rows that single precision can't hold are scaled by a power of two first, which
    keeps their direction.

    Attributes:
        shape: Number of rows n and dimensions d.
        dtype: Type in which rows are read.
        itemsize: Bytes of a number in the source.
        base: Array of the source.
        order: Row of the source for every row; None for its own order.
    """

    def __init__(
        self,
        name: str,
        vectors: Any,
        *,
        dtype: np.dtype | type | None = None,
    ) -> None:
        """Refuses what is no matrix of real numbers.

        Args:
            name: Name of the argument, for errors.
            vectors: Matrix of NumPy, of JAX or mapped, or a data frame.
            dtype: Type in which rows are read; None decides by the source.

        Raises:
            ValueError: With the type and shape.
        """
        if not hasattr(vectors, "dtype") and hasattr(vectors, "to_numpy"):
            vectors = vectors.to_numpy()
        if not hasattr(vectors, "dtype"):
            raise ValueError(f"{name} must be an array, got {type(vectors).__name__}.")
        if np.ma.is_masked(vectors):
            raise ValueError(
                f"{name} must have no masked entries: leave these rows out."
            )
        is_real = any(
            jnp.issubdtype(vectors.dtype, kind) for kind in (np.floating, np.integer)
        )
        if vectors.ndim != 2 or not is_real:
            raise ValueError(
                f"{name} must be real numbers of shape [n, d], got {vectors.dtype} "
                f"{list(vectors.shape)}."
            )
        if len(vectors) > np.iinfo(np.int32).max:
            raise ValueError(f"{name} must be fewer than 2^31, got {len(vectors)}.")
        self.base = np.asanyarray(vectors)  # A mapped one stays mapped.
        self.shape, self.itemsize = self.base.shape, self.base.dtype.itemsize
        is_double = self.base.dtype.newbyteorder("=") == np.float64
        if dtype is None:
            dtype = dtypes.canonicalize_dtype(np.float64) if is_double else np.float32
        self.dtype = np.dtype(dtype)
        self.order: Int[np.ndarray, " n"] | None = None

    def reorder(self, order: Int[np.ndarray, " n"] | None) -> "VectorRows":
        """Reader of the same rows in another order; None keeps this one."""
        reordered = copy.copy(self)
        reordered.order = order
        return reordered

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]

    def __getitem__(self, which: Any) -> Float[np.ndarray, "r d"]:
        """Reads rows: a slice of them, or rows by number."""
        rows = self.base[which if self.order is None else self.order[which]]
        rows = np.asarray(rows)
        if self.dtype == np.float32 and rows.dtype.itemsize > self.dtype.itemsize:
            rows = _scale_extremes(rows)
        return np.ascontiguousarray(rows, self.dtype)


def _scale_extremes(rows: np.ndarray) -> np.ndarray:
    """Scales rows that would over- or underflow in single precision."""
    if not np.issubdtype(rows.dtype, np.floating) or not rows.size:
        return rows
    largest = np.abs(rows).max(axis=1)
    low, high = _SINGLE_RANGE
    is_extreme = (largest > 0) & np.isfinite(largest)
    is_extreme &= (largest < low) | (largest > high)
    if not is_extreme.any():
        return rows
    _, exponents = np.frexp(largest[is_extreme])
    scaled = rows.copy()
    scaled[is_extreme] = np.ldexp(rows[is_extreme], -exponents[:, None])
    return scaled


def read_vectors(
    name: str, vectors: Any, *, dtype: np.dtype | type | None = None
) -> Float[np.ndarray, "n d"]:
    """Reads vectors of any real type into memory, and checks each.

    Args:
        name: Name of the argument, for errors.
        vectors: `VectorRows`, or what they read.
        dtype: Type of the result; None decides by the source.

    Raises:
        ValueError: If they are no matrix of real numbers, or rows are not finite or
            have no direction, naming the first.
    """
    if not isinstance(vectors, VectorRows):
        vectors = VectorRows(name, vectors, dtype=dtype)
    rows = vectors[:]
    check_vectors(name, rows)
    return rows


def row_ids(name: str, ids: Ids | None, *, rows: int) -> Int[np.ndarray, " n"]:
    """Validates the ids of rows; None numbers the rows.

    Raises:
        ValueError: If they are no integers, or naming the first invalid entry.
    """
    if ids is None:
        return np.arange(rows, dtype=np.int32)
    ids = np.asarray(ids)
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got {ids.dtype}.")
    check_ids(name, ids, rows=rows)
    return np.asarray(ids).astype(np.int32)


def check_boxes(
    boxes: Boxes, *, rows: int, order: Int[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, "n 4"]:
    """Validates boxes: one per row, (x0, y0, x1, y1) with a positive area.

    Args:
        boxes: Boxes of the rows.
        rows: Number of rows.
        order: Row of every region; None for the order of the rows.

    Returns:
        Boxes of the regions.

    Raises:
        ValueError: With the shape, or naming the first bad row.
    """
    host_boxes = np.asarray(boxes, np.float32)
    if host_boxes.shape != (rows, 4):
        raise ValueError(
            f"boxes must be [{rows}, 4], one x0,y0,x1,y1 per region, got "
            f"{list(host_boxes.shape)}."
        )
    # Written so that NaN fails, too.
    has_area = (host_boxes[:, 0] < host_boxes[:, 2]) & (
        host_boxes[:, 1] < host_boxes[:, 3]
    )
    invalid_rows = np.flatnonzero(~(has_area & np.isfinite(host_boxes).all(1)))
    if invalid_rows.size:
        raise ValueError(
            "boxes must have x0 < x1 and y0 < y1, got "
            f"{host_boxes[invalid_rows[0]].tolist()} in row {invalid_rows[0]}."
        )
    return host_boxes if order is None else host_boxes[order]
