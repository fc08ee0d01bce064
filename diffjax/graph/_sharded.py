"""Exact nearest neighbours on several devices, each of which holds a part."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, Int

from diffjax._sharding import flat_mesh, ring_shift, row_spec, visiting_row_numbers
from diffjax.types import Neighbors

from ._brute_force import blockwise_search

# Similarities that a device holds at a time: 64 MiB in single precision.
_MAX_SIMILARITIES_PER_DEVICE = 2**24


def sharded_search(
    vectors: Float[np.ndarray, "n d"], k: int, *, mesh: Mesh | None
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Compares all pairs on the devices of a mesh.

    Args:
        vectors: Vectors; n need not be a multiple of the devices.
        k: Neighbours per vector, 1 to n.
        mesh: The devices, whatever the axes; None for all there are.

    Returns:
        Indices and similarities, most similar first, ties by lower index.
    """
    line = flat_mesh(np.asarray(jax.devices()) if mesh is None else mesh.devices)
    n = len(vectors)
    missing = -n % line.size
    in_parts = NamedSharding(line, row_spec(line))
    parts = jax.device_put(np.pad(vectors, ((0, missing), (0, 0))), in_parts)
    mask = jax.device_put(np.arange(n + missing) < n, in_parts)
    found = ring_search(parts, mask, k=k, mesh=line)
    return np.asarray(found.indices)[:n], np.asarray(found.similarities)[:n]


@functools.partial(jax.jit, static_argnames=("k", "mesh"))
def ring_search(
    vectors: Float[Array, "n d"], mask: Bool[Array, " n"], *, k: int, mesh: Mesh
) -> Neighbors:
    """Passes the parts around a ring of devices; each compares its rows with all.

    Every device keeps its rows and the k best found so far, searches the part that it
    holds, and gives that part to the next device. Memory is rows x k and a block of
    similarities, however many devices there are.

    Args:
        vectors: Vectors, a multiple of the devices. Row-sharded.
        mask: Which of them are no padding. Row-sharded.
        k: Neighbours per vector, 1 to n.
        mesh: The devices; all axes share the rows.

    Returns:
        Neighbours of every row, in the same sharding; -infinity beyond those there are.
    """
    rows, axes = row_spec(mesh), mesh.axis_names

    def search(own: Float[Array, "m d"], own_mask: Bool[Array, " m"]) -> Neighbors:
        count = own.shape[0]
        block = max(_MAX_SIMILARITIES_PER_DEVICE // max(count, 1), 1)

        def visit(step, carry):
            visitor, best = carry
            part, part_mask = visitor
            numbers = visiting_row_numbers(step, mesh, count)
            found = blockwise_search(own, part, part_mask, k=min(k, count), block=block)
            best = _merge_neighbors(
                best, found._replace(indices=numbers[found.indices]), k
            )
            return ring_shift(visitor, mesh), best

        nothing = Neighbors(
            jnp.full((count, k), np.iinfo(np.int32).max, jnp.int32),
            jnp.full((count, k), -jnp.inf, own.dtype),
        )
        # Each device's list will be its own, though all begin alike.
        nothing = jax.lax.pcast(nothing, axes, to="varying")
        visitor = own, own_mask
        return jax.lax.fori_loop(0, mesh.size, visit, (visitor, nothing))[1]

    return jax.shard_map(search, mesh=mesh, in_specs=rows, out_specs=rows)(
        vectors, mask
    )


def _merge_neighbors(best: Neighbors, found: Neighbors, k: int) -> Neighbors:
    """Keeps the k best of two lists, ties by lower index, in whatever order they come.

    That makes the answer independent of the device that it was found on.
    """
    indices = jnp.concatenate([best.indices, found.indices], axis=1)
    similarities = jnp.concatenate([best.similarities, found.similarities], axis=1)
    farness, indices = jax.lax.sort((-similarities, indices), dimension=1, num_keys=2)
    return Neighbors(indices[:, :k], -farness[:, :k])
