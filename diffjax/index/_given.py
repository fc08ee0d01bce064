"""Vectors and ids as they are handed over, checked before anything is computed."""

import numpy as np
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_ids, check_vectors

Vectors = Float[Array | np.ndarray, "n d"]
Ids = Int[Array | np.ndarray, " n"]
QueryVectors = Float[Array | np.ndarray, "r c"]
QueryIds = Int[Array | np.ndarray, " r"]


def check_rows(name: str, vectors: Vectors) -> None:
    """Refuses what is no matrix of real numbers, or has rows without a direction.

    Raises:
        ValueError: With the type and shape, or naming the first bad row.
    """
    if vectors.ndim != 2 or vectors.dtype not in (np.float32, np.float64):
        raise ValueError(
            f"{name} must be float32 of shape [n, d], or float64 with jax_enable_x64, "
            f"got {vectors.dtype} {list(vectors.shape)}."
        )
    check_vectors(name, vectors)


def row_ids(name: str, ids: Ids | None, *, rows: int) -> Int[np.ndarray, " n"]:
    """Checks the ids of rows; None makes each row its own.

    Raises:
        ValueError: If they are no integers, or naming the first bad place.
    """
    if ids is None:
        return np.arange(rows, dtype=np.int32)
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got {ids.dtype}.")
    check_ids(name, ids, rows=rows)
    return np.asarray(ids).astype(np.int32)
