"""Row sharding over a device mesh: specs, checks, ring shifts, distributed top-k."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int


def row_spec(mesh: Mesh) -> PartitionSpec:
    """Spec of arrays whose rows are sharded over all axes of a mesh."""
    return PartitionSpec(mesh.axis_names)


def constrain_sharding(array: Array, mesh: Mesh, spec: PartitionSpec) -> Array:
    """Fixes the sharding of an array, which the compiler may otherwise choose."""
    return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, spec))


def check_divisible_rows(name: str, array: Any, mesh: Mesh) -> None:
    """Checks that the rows of an array divide evenly over the devices of a mesh.

    Raises:
        ValueError: If they do not.
    """
    if array.shape[0] % mesh.size:
        raise ValueError(
            f"{name} must have a multiple of the mesh's {mesh.size} devices in rows, "
            f"got {array.shape[0]}: pad them, as `diffjax.distributed.shard_rows` does."
        )


def check_padded_form(name: str, starts: Any) -> None:
    """Checks that a graph is in the padded form, whose rows have one length.

    Raises:
        ValueError: If it is in the compressed form.
    """
    if starts is not None:
        raise ValueError(
            f"{name} must be in the padded form to be spread over devices, got the "
            "compressed form: truncate(graph, jnp.arange(n)) pads it."
        )


def varying_axes(x: Any) -> frozenset[str]:
    """Mesh axes along which an array varies between devices, inside `shard_map`."""
    aval = jax.typeof(x)
    # JAX 0.12 has them in the "manual axis type" of the type, earlier ones in the type.
    return aval.vma if hasattr(aval, "vma") else aval.mat.varying


def match_varying_axes(*arrays: Any) -> Any:
    """Inside `shard_map`: casts arrays to vary along all axes that any of them varies.

    Args:
        arrays: Trees of arrays.

    Returns:
        The same values, all of them varying along the same axes.
    """
    leaves, tree = jax.tree.flatten(arrays)
    all_axes = frozenset().union(*map(varying_axes, leaves))

    def cast_to_vary(x):
        missing = tuple(all_axes - varying_axes(x))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.unflatten(tree, map(cast_to_vary, leaves))


def flat_mesh(devices: np.ndarray) -> Mesh:
    """Makes a mesh with one axis, that of the rows, from devices in any shape."""
    return Mesh(devices.reshape(-1), ("rows",), axis_types=(AxisType.Auto,))


def ring_shift(visitor: Any, mesh: Mesh) -> Any:
    """Inside `shard_map`: passes arrays on to the next device of the ring."""
    ring = [(device, (device + 1) % mesh.size) for device in range(mesh.size)]
    return jax.lax.ppermute(visitor, mesh.axis_names, ring)


def visiting_row_numbers(
    step: int | Array, mesh: Mesh, count: int
) -> Int[Array, " count"]:
    """Inside `shard_map`: numbers of the rows that visit after `step` ring shifts."""
    owner = (jax.lax.axis_index(mesh.axis_names) - step) % mesh.size
    return owner * count + jnp.arange(count, dtype=jnp.int32)


def distributed_top_k(
    values: Float[Array, "b m"], k: int, mesh: Mesh
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    """Inside `shard_map`: finds the k largest values over the rows of all devices.

    Each device sends its k largest values; no other can be among the k of all.

    Args:
        values: Values of the rows of this device, one column per row.
        k: Number of values, at most the number of rows on all devices.
        mesh: The devices.

    Returns:
        The values, largest first, and the numbers of their rows, the same on every
        device; ties by lower number.
    """
    count = values.shape[1]
    best, columns = jax.lax.top_k(values, min(k, count))
    numbers = visiting_row_numbers(0, mesh, count)[columns]
    # Gathered in the order of the devices: of equals, the lower number comes first.
    best, numbers = (
        jax.lax.all_gather(local, mesh.axis_names, axis=1, tiled=True)
        for local in (best, numbers)
    )
    best, columns = jax.lax.top_k(best, k)
    return best, jnp.take_along_axis(numbers, columns, axis=1)
