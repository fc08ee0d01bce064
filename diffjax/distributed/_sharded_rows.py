"""Row-sharded arrays: rows of each process, and the mask of rows before padding."""

from collections.abc import Sequence

import jax
import numpy as np
from jax import dtypes
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Shaped

from diffjax._arguments import check_not_downcast
from diffjax._sharding import row_spec


def process_rows(n: int, mesh: Mesh) -> slice:
    """Computes the slice of the rows that this process must load.

    Every device has ceil(n / devices) rows, in the order of the mesh; the last ones may
    be padding. So a row has the same index in all processes.

    Args:
        n: Number of rows of the whole collection, at least 1.
        mesh: The devices, those of a process next to each other; see `row_mesh`.

    Returns:
        A slice of the rows; it may be empty if there are more devices than rows.

    Raises:
        ValueError: If n is out of range, or the devices of this process are not next to
            each other.

    Example:
        >>> from diffjax.distributed import row_mesh
        >>> process_rows(10, row_mesh())  # A single process loads all rows.
        slice(0, 10, None)
    """
    if not 1 <= n < 2**31:
        raise ValueError(f"n must be in 1..2^31 - 1, got {n}.")
    return _rows_of_devices(n, _process_devices(mesh), num_devices=mesh.size)


def shard_rows(
    rows: Shaped[np.ndarray, "..."], n: int, mesh: Mesh, *, fill: float = 0
) -> Array:
    """Shards the rows of all processes as one array over the devices of the mesh.

    Every process passes its own rows, which stay on its devices.

    Args:
        rows: The rows `process_rows(n, mesh)` of the collection.
        n: Number of rows of all processes.
        mesh: The devices.
        fill: Value of the padding rows at the end.

    Returns:
        A row-sharded array of ceil(n / devices) x devices rows.

    Raises:
        ValueError: If the number of rows is not that of `process_rows`, a row is not
            finite, or rows are float64, or integers that need 64 bits, while JAX
            computes in 32.
    """
    check_not_downcast("rows", rows)
    _check_not_narrowed(rows)
    row_slice = process_rows(n, mesh)
    if len(rows) != row_slice.stop - row_slice.start:
        raise ValueError(
            f"rows must be rows {row_slice.start} to {row_slice.stop} of {n}, "
            f"{row_slice.stop - row_slice.start} of them, got {len(rows)}."
        )
    if np.issubdtype(rows.dtype, np.floating):
        not_finite = np.flatnonzero(
            ~np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
        )
        if not_finite.size:
            raise ValueError(
                f"rows must be finite, got NaN or infinity in {not_finite.size} of "
                f"{len(rows)} rows, first in row {row_slice.start + not_finite[0]}."
            )
    rows_per_device = -(-n // mesh.size)
    missing = rows_per_device * len(_process_devices(mesh)) - len(rows)
    width = ((0, missing), *[(0, 0)] * (rows.ndim - 1))
    return jax.make_array_from_process_local_data(
        NamedSharding(mesh, row_spec(mesh)),
        np.pad(rows, width, constant_values=fill),
        (rows_per_device * mesh.size, *rows.shape[1:]),
    )


def _check_not_narrowed(rows: np.ndarray) -> None:
    """Refuses integers that JAX would silently truncate to 32 bits."""
    narrow = dtypes.canonicalize_dtype(rows.dtype)
    if np.issubdtype(rows.dtype, np.integer) and narrow != rows.dtype and rows.size:
        limits = np.iinfo(narrow)
        if not limits.min <= rows.min() <= rows.max() <= limits.max:
            raise ValueError(
                f"rows must be in {limits.min}..{limits.max} here, got {rows.min()}.."
                f"{rows.max()}: turn on jax_enable_x64 to count beyond."
            )


def row_mask(n: int, mesh: Mesh) -> Bool[Array, " rows"]:
    """Makes the row-sharded mask that is False for padding rows.

    Args:
        n: Number of rows of all processes.
        mesh: The devices.

    Returns:
        A row-sharded mask, as long as an array from `shard_rows`.
    """
    rows = process_rows(n, mesh)
    return shard_rows(np.ones(rows.stop - rows.start, bool), n, mesh, fill=False)


def _rows_of_devices(n: int, devices: range, *, num_devices: int) -> slice:
    """Computes the rows of a range of devices."""
    rows_per_device = -(-n // num_devices)
    start, stop = devices.start * rows_per_device, devices.stop * rows_per_device
    return slice(min(start, n), min(stop, n))


def _process_devices(mesh: Mesh) -> range:
    """Positions of this process's devices in the mesh."""
    owners = [device.process_index for device in mesh.devices.reshape(-1)]
    return _contiguous_positions(owners, jax.process_index())


def _contiguous_positions(owners: Sequence[int], process: int) -> range:
    """Positions of a process's devices among the owners of all devices."""
    positions = [i for i, owner in enumerate(owners) if owner == process]
    if not positions or positions != list(range(positions[0], positions[-1] + 1)):
        raise ValueError(
            "mesh must have the devices of a process next to each other, got those of "
            f"this one at positions {positions} of {len(owners)}: use row_mesh()."
        )
    return range(positions[0], positions[-1] + 1)
