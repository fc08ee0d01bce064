"""Exact nearest-neighbour search sharded over the devices of a mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, Int

from diffjax._sharding import flat_mesh, ring_shift, row_spec, visiting_row_numbers
from diffjax.types import Neighbors

from ._brute_force import blockwise_search

# Similarities in the memory of a device at a time: 64 MiB in single precision.
_MAX_SIMILARITIES_PER_DEVICE = 2**24


def sharded_search(
    vectors: Float[np.ndarray, "n d"], k: int, *, mesh: Mesh | None
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Compares all pairs on the devices of a mesh.

    Args:
        vectors: Vectors; n need not be a multiple of the devices.
        k: Neighbours per vector, 1 to n.
        mesh: The devices, with any axes; None for all.

    Returns:
        Indices and similarities, most similar first, ties by lower index.
    """
    line = flat_mesh(np.asarray(jax.devices()) if mesh is None else mesh.devices)
    n = len(vectors)
    num_padding = -n % line.size
    sharding = NamedSharding(line, row_spec(line))
    padded = jax.device_put(np.pad(vectors, ((0, num_padding), (0, 0))), sharding)
    mask = jax.device_put(np.arange(n + num_padding) < n, sharding)
    lists = ring_search(padded, mask, k=k, mesh=line)
    return np.asarray(lists.indices)[:n], np.asarray(lists.similarities)[:n]


@functools.partial(jax.jit, static_argnames=("k", "mesh"))
def ring_search(
    vectors: Float[Array, "n d"], mask: Bool[Array, " n"], *, k: int, mesh: Mesh
) -> Neighbors:
    """Searches all pairs by passing shards around a ring of devices.

    Every device keeps its rows and the k best neighbours so far, compares its rows with
    the visiting shard, and passes that shard on to the next device. Memory is rows x k
    and a block of similarities, for any number of devices.

    Args:
        vectors: Vectors, a multiple of the devices. Row-sharded.
        mask: Which of them are no padding. Row-sharded.
        k: Neighbours per vector, 1 to n.
        mesh: The devices; all axes share the rows.

    Returns:
        Neighbours of every row, in the same sharding; empty slots have similarity
        -infinity.
    """
    rows, axes = row_spec(mesh), mesh.axis_names

    def search_shard(
        shard: Float[Array, "m d"], shard_mask: Bool[Array, " m"]
    ) -> Neighbors:
        count = shard.shape[0]
        block = max(_MAX_SIMILARITIES_PER_DEVICE // max(count, 1), 1)

        def compare_with_visitor(step, carry):
            visitor, best = carry
            numbers = visiting_row_numbers(step, mesh, count)
            lists = blockwise_search(shard, *visitor, k=min(k, count), block=block)
            lists = lists._replace(indices=numbers[lists.indices])
            return ring_shift(visitor, mesh), _merge_neighbors(best, lists, k)

        empty = Neighbors(
            jnp.full((count, k), np.iinfo(np.int32).max, jnp.int32),
            jnp.full((count, k), -jnp.inf, shard.dtype),
        )
        # The lists will differ between devices, though all start empty.
        empty = jax.lax.pcast(empty, axes, to="varying")
        visitor = shard, shard_mask
        return jax.lax.fori_loop(0, mesh.size, compare_with_visitor, (visitor, empty))[
            1
        ]

    return jax.shard_map(search_shard, mesh=mesh, in_specs=rows, out_specs=rows)(
        vectors, mask
    )


def _merge_neighbors(first: Neighbors, second: Neighbors, k: int) -> Neighbors:
    """Keeps the k best of two lists, ties by lower index.

    The order of the two does not matter, so the result does not depend on the device.
    """
    indices = jnp.concatenate([first.indices, second.indices], axis=1)
    similarities = jnp.concatenate([first.similarities, second.similarities], axis=1)
    negated, indices = jax.lax.sort((-similarities, indices), dimension=1, num_keys=2)
    return Neighbors(indices[:, :k], -negated[:, :k])
