"""Which listed pairs are mutual, on one device and on many."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from diffjax._spread import around, by_rows, numbers_of_visitor
from diffjax.native import has_list_kernel, mutual_slots
from diffjax.types import Neighbors

# Pairs that a device looks up at a time.
_PAIRS_AT_ONCE = 2**16


def mutual_similarities(neighbors: Neighbors) -> Float[Array, "n k"]:
    """Similarity of every listed pair that is mutual, -infinity for the others.

    Args:
        neighbors: The k nearest of every vector.

    Returns:
        The smaller of the similarities of a pair's two directions, which come out of
        different matrix products and may differ in the last bit: eq. 6. That makes the
        affinity symmetric.
    """
    indices, similarities = neighbors
    if has_list_kernel(indices, similarities):
        slots = jax.lax.platform_dependent(
            indices, cpu=mutual_slots, default=search_slots
        )
    else:
        slots = search_slots(indices)
    back = similarities[jnp.maximum(indices, 0), jnp.maximum(slots, 0)]
    smaller = jnp.minimum(similarities, back)
    return jnp.where(slots >= 0, smaller, jnp.full_like(smaller, -jnp.inf))


def search_slots(indices: Int[Array, "n k"]) -> Int[Array, "n k"]:
    """Finds what `diffjax.native.mutual_slots` does, in JAX.

    Whether i is in the list of j is a binary search in j's row, sorted once: n k log k
    gathers and nothing larger than [n, k].

    Args:
        indices: Neighbours of every node, -1 in empty slots.

    Returns:
        Where each neighbour's list has the node, -1 where it has not.
    """
    order = jnp.argsort(indices, axis=1).astype(jnp.int32)
    columns = jnp.take_along_axis(indices, order, axis=1)
    node = jnp.arange(indices.shape[0], dtype=indices.dtype)[:, None]
    other = jnp.maximum(indices, 0)
    place, found = _find(columns, other, jnp.broadcast_to(node, indices.shape))
    mutual = found & (indices >= 0) & (other != node)
    return jnp.where(mutual, order[other, place], -1)


def ring_mutual_similarities(neighbors: Neighbors, mesh: Mesh) -> Float[Array, "n k"]:
    """As `mutual_similarities`, with the rows shared out among the devices of a mesh.

    Lists go around the ring, sorted by column. A device sorts its own pairs by their
    other end once, so that those whose other end is in the visiting part lie together,
    and looks up those alone: all visits together cost m k log k gathers for m rows a
    device, whatever the number of devices. Memory is the pairs and two parts.

    Args:
        neighbors: The k nearest of every vector. Row-sharded.
        mesh: The devices; all axes share the rows.

    Returns:
        What `mutual_similarities` gives, row-sharded.

    Raises:
        ValueError: If a device has 2^31 pairs or more.
    """
    pairs = neighbors.indices.size // mesh.size
    if pairs > np.iinfo(np.int32).max:
        raise ValueError(
            f"neighbors must be fewer than 2^31 on each device, got {pairs}: use more "
            "devices."
        )
    rows = by_rows(mesh)

    def look_up(indices: Int[Array, "m k"], similarities: Float[Array, "m k"]):
        own = Neighbors(indices, similarities)
        (count, k), size = indices.shape, indices.size
        numbers = numbers_of_visitor(0, mesh, count)
        order = jnp.argsort(indices.reshape(-1)).astype(jnp.int32)
        ends = indices.reshape(-1)[order]
        at_once = max(min(_PAIRS_AT_ONCE, size), 1)

        def visit(step, carry):
            visitor, back = carry
            visiting = numbers_of_visitor(step, mesh, count)
            first, last = jnp.searchsorted(
                ends, jnp.stack([visiting[0], visiting[0] + count])
            )

            def some(batch, back):
                places = first + batch * at_once + jnp.arange(at_once, dtype=jnp.int32)
                pairs = order.at[places].get(mode="clip")
                other = ends.at[places].get(mode="clip") - visiting[0]
                here = places < last
                other = jnp.where(here, other, 0)
                columns, values = visitor
                slot, found = _find(columns, other, numbers[pairs // k])
                value = jnp.where(found, values[other, slot], -jnp.inf)
                return back.at[jnp.where(here, pairs, size)].set(value, mode="drop")

            batches = (last - first + at_once - 1) // at_once
            back = jax.lax.fori_loop(0, batches, some, back)
            return around(visitor, mesh), back

        back = jnp.full_like(similarities, -jnp.inf, shape=size)
        carry = _by_column(own), back
        back = jax.lax.fori_loop(0, mesh.size, visit, carry)[1]
        smaller = jnp.minimum(similarities, back.reshape(count, k))
        return jnp.where(
            indices != numbers[:, None], smaller, jnp.full_like(smaller, -jnp.inf)
        )

    return jax.shard_map(look_up, mesh=mesh, in_specs=rows, out_specs=rows)(*neighbors)


def _by_column(neighbors: Neighbors) -> Neighbors:
    """Sorts each list by the numbers in it."""
    order = jnp.argsort(neighbors.indices, axis=1)
    return Neighbors(*(jnp.take_along_axis(part, order, 1) for part in neighbors))


def _find(
    columns: Int[Array, "n k"], rows: Int[Array, "..."], wanted: Int[Array, "..."]
) -> tuple[Int[Array, "..."], Bool[Array, "..."]]:
    """Looks numbers up in sorted rows: at which place, and whether they are there."""
    k = columns.shape[1]
    low = jnp.zeros_like(rows, jnp.int32)
    high = jnp.full_like(rows, k, jnp.int32)
    for _ in range(k.bit_length()):
        middle = (low + high) // 2
        right = (low < high) & (columns[rows, jnp.minimum(middle, k - 1)] < wanted)
        low = jnp.where(right, middle + 1, low)
        high = jnp.where(right, high, middle)
    slot = jnp.minimum(low, k - 1)
    return slot, columns[rows, slot] == wanted
