"""Row-sharded arrays: what each process holds, and which rows are padding."""

from collections.abc import Sequence

import jax
import numpy as np
from jax import dtypes
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Shaped

from diffjax._arguments import check_not_downcast
from diffjax._sharding import row_spec


def process_rows(n: int, mesh: Mesh) -> slice:
    """Says which rows of n this process must load.

    Every device has ceil(n / devices) rows, in the order of the mesh, of which the last
    ones may be padding; so a row has the same number everywhere.

    Args:
        n: Rows of the whole collection, at least 1.
        mesh: The devices, those of a process one after the other; see `row_mesh`.

    Returns:
        A slice of the rows; an empty one, if there are more devices than rows.

    Raises:
        ValueError: If n is out of range, or other processes' devices stand between.

    Example:
        >>> from diffjax.distributed import row_mesh
        >>> process_rows(10, row_mesh())  # of one process, which has them all
        slice(0, 10, None)
    """
    if not 1 <= n < 2**31:
        raise ValueError(f"n must be in 1..2^31 - 1, got {n}.")
    own = _process_devices(mesh)
    return _rows_of_devices(n, own, of=mesh.size)


def shard_rows(
    rows: Shaped[np.ndarray, "..."], n: int, mesh: Mesh, *, fill: float = 0
) -> Array:
    """Puts the rows of this process on its devices, as its part of one array.

    Every process calls it with its own rows. No row leaves its process.

    Args:
        rows: Those of `process_rows(n, mesh)`.
        n: Rows of all processes.
        mesh: The devices.
        fill: What padding rows at the end hold.

    Returns:
        A row-sharded array of ceil(n / devices) x devices rows.

    Raises:
        ValueError: If they are not as many as `process_rows` says, not finite, or
            float64, or integers that need 64 bits, while JAX computes in 32.
    """
    check_not_downcast("rows", rows)
    _check_not_narrowed(rows)
    own = process_rows(n, mesh)
    if len(rows) != own.stop - own.start:
        raise ValueError(
            f"rows must be rows {own.start} to {own.stop} of {n}, "
            f"{own.stop - own.start} of them, got {len(rows)}."
        )
    if np.issubdtype(rows.dtype, np.floating):
        bad = np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(axis=1))
        if bad.size:
            raise ValueError(
                f"rows must be finite, got NaN or infinity in {bad.size} of "
                f"{len(rows)} rows, first in row {own.start + bad[0]}."
            )
    each = -(-n // mesh.size)
    devices = _process_devices(mesh)
    missing = each * (devices.stop - devices.start) - len(rows)
    width = ((0, missing), *[(0, 0)] * (rows.ndim - 1))
    return jax.make_array_from_process_local_data(
        NamedSharding(mesh, row_spec(mesh)),
        np.pad(rows, width, constant_values=fill),
        (each * mesh.size, *rows.shape[1:]),
    )


def _check_not_narrowed(rows: np.ndarray) -> None:
    """Refuses integers that JAX would cut to 32 bits without a word."""
    narrow = dtypes.canonicalize_dtype(rows.dtype)
    if np.issubdtype(rows.dtype, np.integer) and narrow != rows.dtype and rows.size:
        limits = np.iinfo(narrow)
        if not limits.min <= rows.min() <= rows.max() <= limits.max:
            raise ValueError(
                f"rows must be in {limits.min}..{limits.max} here, got {rows.min()}.."
                f"{rows.max()}: turn on jax_enable_x64 to count beyond."
            )


def row_mask(n: int, mesh: Mesh) -> Bool[Array, " rows"]:
    """Marks the rows that are no padding.

    Args:
        n: Rows of all processes.
        mesh: The devices.

    Returns:
        A row-sharded mask, as long as what `shard_rows` gives.
    """
    own = process_rows(n, mesh)
    return shard_rows(np.ones(own.stop - own.start, bool), n, mesh, fill=False)


def _rows_of_devices(n: int, devices: range, *, of: int) -> slice:
    """Rows of some devices in a line of them."""
    each = -(-n // of)
    return slice(min(devices.start * each, n), min(devices.stop * each, n))


def _process_devices(mesh: Mesh) -> range:
    """Places of this process's devices in the mesh."""
    owners = [device.process_index for device in mesh.devices.reshape(-1)]
    return _contiguous_positions(owners, jax.process_index())


def _contiguous_positions(owners: Sequence[int], process: int) -> range:
    """Places of a process among the owners of devices."""
    own = [place for place, owner in enumerate(owners) if owner == process]
    if not own or own != list(range(own[0], own[-1] + 1)):
        raise ValueError(
            "mesh must have the devices of a process one after the other, got those of "
            f"this one in places {own} of {len(owners)}: use row_mesh()."
        )
    return range(own[0], own[-1] + 1)
