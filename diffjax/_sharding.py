"""Row sharding over a device mesh: specs, checks, ring shifts, distributed top-k."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int


def row_spec(mesh: Mesh) -> PartitionSpec:
    """The layout of rows that all axes of a mesh share."""
    return PartitionSpec(mesh.axis_names)


def constrain_sharding(array: Array, mesh: Mesh, spec: PartitionSpec) -> Array:
    """Says where an array is, which the compiler may otherwise choose."""
    return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, spec))


def check_divisible_rows(name: str, array: Any, mesh: Mesh) -> None:
    """Refuses an array whose rows can't be shared out evenly.

    Raises:
        ValueError: With both numbers.
    """
    if array.shape[0] % mesh.size:
        raise ValueError(
            f"{name} must have a multiple of the mesh's {mesh.size} devices in rows, "
            f"got {array.shape[0]}: fill them up, as `diffjax.distributed.shard_rows` "
            "does."
        )


def check_padded_form(name: str, starts: Any) -> None:
    """Refuses a graph in the compressed form, whose rows are of different lengths.

    Raises:
        ValueError: Saying how to get the other form.
    """
    if starts is not None:
        raise ValueError(
            f"{name} must be in the padded form to be spread over devices, got the "
            "compressed one: truncate(graph, jnp.arange(n)) pads it."
        )


def varying_axes(x: Any) -> frozenset[str]:
    """Mesh axes along which an array differs between devices, inside `shard_map`."""
    aval = jax.typeof(x)
    # JAX 0.12 keeps them in the type's "manual axis type", earlier ones in the type.
    return aval.vma if hasattr(aval, "vma") else aval.mat.varying


def match_varying_axes(*arrays: Any) -> Any:
    """Inside `shard_map`: makes what differs between devices in one argument, in all.

    Args:
        arrays: Trees of arrays.

    Returns:
        The same values; what was equal on all devices counts as different now, where
        anything does.
    """
    leaves, tree = jax.tree.flatten(arrays)
    spread = frozenset().union(*map(varying_axes, leaves))

    def vary(x):
        missing = tuple(spread - varying_axes(x))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.unflatten(tree, map(vary, leaves))


def flat_mesh(devices: np.ndarray) -> Mesh:
    """Puts devices on one axis, that of the rows, whatever shape they come in."""
    return Mesh(devices.reshape(-1), ("rows",), axis_types=(AxisType.Auto,))


def ring_shift(visitor: Any, mesh: Mesh) -> Any:
    """Inside `shard_map`: gives arrays to the next device of the ring."""
    ring = [(device, (device + 1) % mesh.size) for device in range(mesh.size)]
    return jax.lax.ppermute(visitor, mesh.axis_names, ring)


def visiting_row_numbers(
    step: int | Array, mesh: Mesh, count: int
) -> Int[Array, " count"]:
    """Inside `shard_map`: numbers of the `count` rows that came `step` devices far."""
    owner = (jax.lax.axis_index(mesh.axis_names) - step) % mesh.size
    return owner * count + jnp.arange(count, dtype=jnp.int32)


def distributed_top_k(
    values: Float[Array, "b m"], k: int, mesh: Mesh
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    """Inside `shard_map`: finds the k largest values of rows that all devices share.

    Each device sends its own k largest; no more can be among the k of all.

    Args:
        values: What the device's rows have, one column per row.
        k: How many, at most as many as there are rows on all devices.
        mesh: The devices.

    Returns:
        On every device the same values, largest first, and the numbers of their rows;
        ties by lower number.
    """
    count = values.shape[1]
    best, places = jax.lax.top_k(values, min(k, count))
    numbers = visiting_row_numbers(0, mesh, count)[places]
    # One device's after the other's: of equals, the first is that of lower number.
    best, numbers = (
        jax.lax.all_gather(part, mesh.axis_names, axis=1, tiled=True)
        for part in (best, numbers)
    )
    best, places = jax.lax.top_k(best, k)
    return best, jnp.take_along_axis(numbers, places, axis=1)
