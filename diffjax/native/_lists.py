"""Calls of the native kernels that make graphs of lists. None has a derivative."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._calls import DTYPES
from ._library import find_library, loaded_target


def has_list_kernel(indices: Int[Array, "n k"], numbers: Float[Array, "n k"]) -> bool:
    """Whether there are native kernels for these lists, on processors.

    Args:
        indices: Neighbours of every node.
        numbers: Their similarities, or weights.

    Returns:
        Whether the functions of this module may be called.
    """
    return (
        indices.dtype == jnp.int32
        and numbers.dtype.name in DTYPES
        and find_library().usable
    )


def mutual_slots(indices: Int[Array, "n k"]) -> Int[Array, "n k"]:
    """Finds where the list of each neighbour has the node that it is a neighbour of.

    Args:
        indices: Neighbours of every node, int32, in any order, -1 in empty slots.

    Returns:
        The slot; -1 where the pair is not mutual, the slot empty, or the neighbour the
        node itself.
    """
    call = jax.ffi.ffi_call(
        loaded_target("mutual_slots", "int32"),
        jax.typeof(indices),
        vmap_method="sequential",
    )
    return call(indices)


def list_rows(
    indices: Int[Array, "n k"],
    numbers: Float[Array, "n k"],
    starts: Int[Array, " starts"],
    *,
    count: int,
    slots: Int[Array, "n k"] | None = None,
) -> tuple[Int[Array, " e"], Float[Array, " e"]]:
    """Writes the entries of lists as compressed rows, each sorted by column.

    Args:
        indices: Neighbours of every node, int32, -1 in empty slots.
        numbers: Their similarities, or weights, float32 or float64.
        starts: Where each row starts, and the end: n + 1, int32 or int64. Starts that
            do not fit the lists are an error.
        count: The end, as a Python number.
        slots: What `mutual_slots` gives, for rows of mutual neighbours, with the
            smaller of the two numbers of each pair. None for rows of all slots that are
            not empty and have another number than 0.

    Returns:
        Columns and numbers.
    """
    columns = jax.typeof(indices).update(shape=(count,))
    call = jax.ffi.ffi_call(
        loaded_target("list_rows", numbers.dtype.name),
        (columns, columns.update(dtype=numbers.dtype)),
    )
    mutual = slots is not None
    back = jnp.zeros((0, 0), jnp.int32) if slots is None else slots
    found, kept = call(indices, numbers, back, starts, mutual=mutual)
    return found, kept
