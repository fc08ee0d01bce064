"""Process group: processes that compute together, and their end when one is lost."""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterator
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from diffjax._sharding import flat_mesh

# Errors of collective operations and of the coordinator begin with a status code.
_LOSS_MESSAGE = re.compile(
    r"(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|"
    r"FAILED_PRECONDITION): "
)


@contextlib.contextmanager
def process_group(
    address: str | None = None,
    count: int | None = None,
    rank: int | None = None,
    *,
    patience: int = 30,
) -> Iterator[None]:
    """Process group as a context: all processes run the same program and end together.

    Enter it before the first computation. Inside, `jax.devices()` lists the devices of
    all processes, which communicate through JAX's runtime: NCCL between GPUs, the links
    of a TPU slice, gloo between CPUs.

    If one process ends, all do. A lost process breaks the collective operation that the
    others are in: each of them writes one line about it to the standard error and exits
    with code 1. In two cases JAX aborts the process itself, with a longer message that
    "another task died": the first process, which coordinates the others, ends while
    another one computes on its own devices only; or a process sends no heartbeat for
    `patience` seconds although its connections are open, which is also how others
    notice a loss if they have several devices each. An exception raised inside the
    context is written with its traceback, and the process exits with code 1 at once:
    JAX would first wait for processes that wait for this one.

    Args:
        address: Host and port of the first process, as the others reach it. None reads
            JAX_COORDINATOR_ADDRESS, or asks the cluster: JAX knows Slurm, Open MPI,
            Kubernetes and TPU slices. Without any of these there is one process.
        count: Number of processes; None reads JAX_NUM_PROCESSES or asks the cluster.
        rank: Number of this process, from 0; None reads JAX_PROCESS_ID or asks the
            cluster.
        patience: Seconds without a heartbeat after which a process is lost, and largest
            difference between the first and the last process to finish.

    Raises:
        ValueError: If some but not all of `address`, `count` and `rank` are known.
        RuntimeError: If JAX computed before, or the other processes do not connect.
    """
    address = address or os.environ.get("JAX_COORDINATOR_ADDRESS")
    count = _read_environment_number("JAX_NUM_PROCESSES") if count is None else count
    rank = _read_environment_number("JAX_PROCESS_ID") if rank is None else rank
    arguments = {"address": address, "count": count, "rank": rank}
    missing = [name for name, value in arguments.items() if value is None]
    if missing and len(missing) < len(arguments):
        raise ValueError(
            "address, count and rank must be given together, or none of them, got no "
            f"{' and no '.join(missing)}."
        )
    if not _connect(address, count, rank, patience=patience):
        yield
        return
    try:
        yield
    except SystemExit as leave:
        if leave.code:
            _exit_with_message(leave)
        jax.distributed.shutdown()
        raise
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # The process ends.
        _exit_with_message(error)
    jax.distributed.shutdown()


def is_process_loss(error: BaseException) -> bool:
    """Whether an error is the loss of another process, not one of this process.

    For programs that turn their own errors into messages inside `process_group`.

    Args:
        error: An exception raised while devices of several processes computed.

    Returns:
        Whether it is the RuntimeError or ValueError that JAX raises if a collective
        operation or the coordinator fails.
    """
    types = RuntimeError, ValueError
    return isinstance(error, types) and _LOSS_MESSAGE.match(str(error)) is not None


def row_mesh() -> Mesh:
    """Makes a mesh of all devices, those of one process after those of another.

    Returns:
        A mesh with one axis, "rows".
    """
    devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    return flat_mesh(np.array(devices))


def _read_environment_number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise ValueError(f"{name} must be a number, got {text!r}.")
    return int(text)


def _connect(address, count, rank, *, patience) -> bool:
    """Connects to the processes of the group; returns whether there are several."""
    # A known address needs no search of the cluster.
    detection = None if address is None else "deactivate"
    try:
        jax.distributed.initialize(
            *(address, count, rank),
            cluster_detection_method=detection,
            heartbeat_timeout_seconds=patience,
            shutdown_timeout_seconds=patience,
        )
    except ValueError as error:
        if "should be defined" in str(error):
            return False
        raise
    # The first collective operation makes the connections. The others notice at once
    # that a connection breaks, but would wait in vain for a process that ends before.
    multihost_utils.sync_global_devices("diffjax: all processes are connected")
    return True


def _exit_with_message(error: BaseException) -> NoReturn:
    """Writes the error and exits without JAX's shutdown, which waits for all."""
    code = 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 1
        message = "" if isinstance(error.code, int) else f"{error.code}\n"
    elif is_process_loss(error):
        message = (
            f"error: process {jax.process_index()} of {jax.process_count()} lost "
            "another one: see there for why, then start all of them again "
            f"({str(error).splitlines()[0]})\n"
        )
    else:
        message = "".join(traceback.format_exception(error))
    sys.stdout.flush()
    sys.stderr.write(message)
    sys.stderr.flush()
    os._exit(code)
