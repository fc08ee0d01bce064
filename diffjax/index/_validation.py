"""Validation of vectors, ids and boxes of an index and of queries."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_ids, check_vectors

Vectors = Float[Array | np.ndarray, "n d"]
Ids = Int[Array | np.ndarray, " n"]
QueryVectors = Float[Array | np.ndarray, "r c"]
QueryIds = Int[Array | np.ndarray, " r"]
Boxes = Float[Array | np.ndarray, "n 4"]

_HALF_TYPES = np.float16, jnp.bfloat16


def check_rows(name: str, vectors: Vectors) -> None:
    """Validates vectors: a matrix of real numbers without zero or non-finite rows.

    Raises:
        ValueError: With the type and shape, or naming the first bad row.
    """
    if not hasattr(vectors, "dtype"):
        raise ValueError(f"{name} must be an array, got {type(vectors).__name__}.")
    if vectors.dtype in _HALF_TYPES:
        raise ValueError(
            f"{name} must be float32 here, got {vectors.dtype} {list(vectors.shape)}: "
            "convert them, by .astype(numpy.float32)."
        )
    if vectors.ndim != 2 or vectors.dtype not in (np.float32, np.float64):
        raise ValueError(
            f"{name} must be float32 of shape [n, d], or float64 with jax_enable_x64, "
            f"got {vectors.dtype} {list(vectors.shape)}."
        )
    check_vectors(name, vectors)


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


def check_boxes(boxes: Boxes, *, rows: int) -> Float[np.ndarray, "n 4"]:
    """Validates boxes: one per row, (x0, y0, x1, y1) with a positive area.

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
    return host_boxes
