"""From neighbour lists straight to the mutual edges, without empty slots between."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_not_halved
from diffjax.native import has_list_kernel, list_rows, mutual_slots
from diffjax.types import Graph, Neighbors, row_starts

from ._ready import check_neighbors

# Entries that the search without a kernel compares at a time.
_AT_ONCE = 2**24


def mutual_edges(neighbors: Neighbors) -> Graph:
    r"""Finds the edges of the graph of mutual neighbours, with their raw similarities.

    w_ij = min(x_i'x_j, x_j'x_i) where each of the two is in the other's list. The
    kernel is not applied: `affinity` of the result does it, for every gamma anew, so
    `affinity(mutual_edges(lists), gamma=g)` is `compress(affinity(lists, gamma=g))`
    up to edges that the kernel makes 0, which stay as entries of weight 0.

    Done on the host. Beside the lists it holds the edges, and for every neighbour a
    number of four bytes; while it checks lists that are not from `knn`, a sorted copy.

    Args:
        neighbors: The k nearest of every vector, concrete.

    Returns:
        A graph in the compressed form whose weights are similarities, also those below
        0. It is exactly symmetric.

    Raises:
        ValueError: If a list names a node twice or one that is not there, a similarity
            is not finite, or there are 2^31 edges or more and jax_enable_x64 is off.

    References:
        Iscen et al., CVPR 2017, eq. 5 and 6, https://arxiv.org/abs/1611.05113.
    """
    indices, similarities = neighbors
    check_not_halved("neighbors", similarities)
    check_neighbors("neighbors", neighbors, n=len(indices))
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu and has_list_kernel(indices, similarities):
        slots, counts = _search(indices)
        ends = starts_of(counts)
        starts = row_starts(ends)
        columns, weights = list_rows(
            indices, similarities, starts, count=int(ends[-1]), slots=slots
        )
        return Graph(columns, weights, starts)
    return _by_blocks(np.asarray(indices), np.asarray(similarities))


@jax.jit
def _search(indices: Int[Array, "n k"]) -> tuple[Int[Array, "n k"], Int[Array, " n"]]:
    slots = mutual_slots(indices)
    return slots, jnp.sum(slots >= 0, axis=1, dtype=jnp.int32)


def starts_of(counts: Int[Array | np.ndarray, " n"]) -> Int[np.ndarray, " starts"]:
    """Where each row starts, and the end, for rows of so many entries."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts), dtype=np.int64)])


class MutualRows(NamedTuple):
    """The mutual edges of some rows.

    Attributes:
        counts: How many each row has.
        columns: The other end of each, ascending in a row.
        similarities: The smaller of the two inner products.
    """

    counts: Int[np.ndarray, " r"]
    columns: Int[np.ndarray, " e"]
    similarities: Float[np.ndarray, " e"]


def mutual_rows(
    indices: Int[np.ndarray, "n k"],
    similarities: Float[np.ndarray, "n k"],
    start: int,
    stop: int,
) -> MutualRows:
    """Finds the edges of rows start..stop-1: i and j list each other, i is not j.

    Compares each row's number with all that the rows list which it names: r k k
    comparisons, and nothing larger.

    Args:
        indices: Lists of all vectors, -1 in empty slots; may be mapped.
        similarities: Their inner products.
        start: First row.
        stop: The row after the last.

    Returns:
        The edges.
    """
    own, k = indices[start:stop], indices.shape[1]
    nodes = np.arange(start, stop, dtype=own.dtype)[:, None]
    other = np.maximum(own, 0)
    back = indices[other] == nodes[:, :, None]
    slot = np.argmax(back, axis=2)
    mutual = np.take_along_axis(back, slot[:, :, None], axis=2)[:, :, 0]
    mutual &= (own >= 0) & (own != nodes)
    del back
    smaller = np.minimum(similarities[start:stop], similarities[other, slot])
    columns = np.where(mutual, own, np.iinfo(own.dtype).max)
    order = np.argsort(columns, axis=1, kind="stable")
    counts = mutual.sum(axis=1)
    kept = np.arange(k)[None, :] < counts[:, None]
    return MutualRows(
        counts,
        np.take_along_axis(columns, order, axis=1)[kept],
        np.take_along_axis(smaller, order, axis=1)[kept],
    )


def _by_blocks(
    indices: Int[np.ndarray, "n k"], similarities: Float[np.ndarray, "n k"]
) -> Graph:
    """Looks into every neighbour's list, for some nodes at a time."""
    n, k = indices.shape
    rows = max(_AT_ONCE // max(k * k, 1), 1)
    found = [
        mutual_rows(indices, similarities, start, min(start + rows, n))
        for start in range(0, n, rows)
    ]
    counts, columns, weights = map(np.concatenate, zip(*found, strict=True))
    return Graph(
        jnp.asarray(columns.astype(np.int32)),
        jnp.asarray(weights),
        row_starts(starts_of(counts)),
    )
