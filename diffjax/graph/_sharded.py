"""Exact nearest neighbours on several devices, each of which holds a part."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from diffjax.types import Neighbors

from ._dense import nearest

_AXIS = "parts"
# Similarities that a device holds at a time: 64 MiB in single precision.
_HELD = 2**24


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
    devices = np.asarray(jax.devices()) if mesh is None else mesh.devices.reshape(-1)
    line = Mesh(devices, (_AXIS,), axis_types=(AxisType.Auto,))
    n = len(vectors)
    padded = np.pad(vectors, ((0, -n % line.size), (0, 0)))
    parts = jax.device_put(padded, NamedSharding(line, PartitionSpec(_AXIS)))
    found = ring_search(parts, n, k=k, mesh=line)
    return np.asarray(found.indices)[:n], np.asarray(found.similarities)[:n]


@functools.partial(jax.jit, static_argnames=("n", "k", "mesh"))
def ring_search(
    vectors: Float[Array, "p d"], n: int, *, k: int, mesh: Mesh
) -> Neighbors:
    """Passes the parts around a ring of devices; each compares its rows with all.

    Every device keeps its rows and the k best found so far, searches the part that it
    holds, and gives that part to the next device. Memory is rows x k and a block of
    similarities, however many devices there are.

    Args:
        vectors: Vectors, padded to a multiple of the devices. Row-sharded.
        n: How many of them are no padding.
        k: Neighbours per vector, 1 to n.
        mesh: The devices, on one axis.

    Returns:
        Neighbours of every row, in the same sharding.
    """
    size = mesh.size
    rows = PartitionSpec(_AXIS)
    around = [(device, (device + 1) % size) for device in range(size)]

    def search(own: Float[Array, "m d"]) -> Neighbors:
        count = own.shape[0]
        block = max(_HELD // count, 1)

        def visit(step, carry):
            part, best = carry
            owner = (jax.lax.axis_index(_AXIS) - step) % size
            numbers = owner * count + jnp.arange(count, dtype=jnp.int32)
            found = nearest(own, part, numbers < n, k=min(k, count), block=block)
            best = _merge(best, found._replace(indices=numbers[found.indices]), k)
            return jax.lax.ppermute(part, _AXIS, around), best

        nothing = Neighbors(
            jnp.full((count, k), n, jnp.int32),
            jnp.full((count, k), -jnp.inf, own.dtype),
        )
        # Each device's list will be its own, though all begin alike.
        nothing = jax.lax.pcast(nothing, _AXIS, to="varying")
        return jax.lax.fori_loop(0, size, visit, (own, nothing))[1]

    return jax.shard_map(search, mesh=mesh, in_specs=rows, out_specs=rows)(vectors)


def _merge(best: Neighbors, found: Neighbors, k: int) -> Neighbors:
    """Keeps the k best of two lists, ties by lower index, in whatever order they come.

    That makes the answer independent of the device that it was found on.
    """
    indices = jnp.concatenate([best.indices, found.indices], axis=1)
    similarities = jnp.concatenate([best.similarities, found.similarities], axis=1)
    farness, indices = jax.lax.sort((-similarities, indices), dimension=1, num_keys=2)
    return Neighbors(indices[:, :k], -farness[:, :k])
