"""Process group: processes that compute together, and what happens when one is lost."""

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

# How what is said begins where a collective operation or the coordinator fails.
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
    """Computes together with other processes, all of which run the same program.

    Enter it before anything is computed. Inside, `jax.devices()` are those of all
    processes, which talk through JAX's own runtime: NCCL between GPUs, the links of a
    TPU slice, gloo between processors.

    What ends a block in one process ends it in all. A process that is lost breaks what
    the others are just computing together: each writes one line to the standard error
    that says so, and exits with code 1. Two cases are JAX's, which writes more, that
    "another task died", and aborts: the first process, which all report to, ends while
    another one computes for itself; and one can no longer be heard for `patience`,
    though its connections are open. An exception of one's own is written and exits with
    code 1 at once: JAX would first wait for processes that wait for this one.

    Args:
        address: Host and port of the first process, as the others reach it. None reads
            JAX_COORDINATOR_ADDRESS, or asks the cluster: Slurm, Open MPI, Kubernetes
            and TPU slices are known to JAX. With none of these there is one process.
        count: How many processes; None as above, JAX_NUM_PROCESSES.
        rank: Which of them this is, from 0; None as above, JAX_PROCESS_ID.
        patience: Seconds without a sign of life after which a process is lost, and that
            the first and the last one to finish may lie apart.

    Raises:
        ValueError: If only some of the three are known.
        RuntimeError: If something was computed before, or the others do not come.
    """
    address = address or os.environ.get("JAX_COORDINATOR_ADDRESS")
    count = _read_environment_number("JAX_NUM_PROCESSES") if count is None else count
    rank = _read_environment_number("JAX_PROCESS_ID") if rank is None else rank
    given = {"address": address, "count": count, "rank": rank}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise ValueError(
            "address, count and rank must be given together, or none of them, got no "
            f"{' and no '.join(missing)}."
        )
    if not _initialize(address, count, rank, patience=patience):
        yield
        return
    try:
        yield
    except SystemExit as leave:
        if leave.code:
            _exit_with_message(leave)
        jax.distributed.shutdown()
        raise
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # It ends here.
        _exit_with_message(error)
    jax.distributed.shutdown()


def is_process_loss(error: BaseException) -> bool:
    """Whether an exception says that another process was lost, and is not one's own.

    For those who turn their own errors into messages before they leave `process_group`.

    Args:
        error: What was raised while devices of several processes computed.

    Returns:
        True for what JAX raises where a collective operation or the coordinator fails,
        which may be a RuntimeError or a ValueError.
    """
    types = RuntimeError, ValueError
    return isinstance(error, types) and _LOSS_MESSAGE.match(str(error)) is not None


def row_mesh() -> Mesh:
    """Makes a mesh of all devices of all processes, one process after the other.

    Returns:
        A mesh of one axis, "rows".
    """
    devices = sorted(jax.devices(), key=lambda one: (one.process_index, one.id))
    return flat_mesh(np.array(devices))


def _read_environment_number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise ValueError(f"{name} must be a number, got {text!r}.")
    return int(text)


def _initialize(address, count, rank, *, patience) -> bool:
    """Connects, and says whether there is anything to connect to."""
    # What is given is not looked for.
    found_by = None if address is None else "deactivate"
    try:
        jax.distributed.initialize(
            *(address, count, rank),
            cluster_detection_method=found_by,
            heartbeat_timeout_seconds=patience,
            shutdown_timeout_seconds=patience,
        )
    except ValueError as error:
        if "should be defined" in str(error):
            return False
        raise
    # Connections are made by the first sum of all. A process that ends before would be
    # waited for in vain; the others notice at once when a connection breaks.
    multihost_utils.sync_global_devices("diffjax: all processes are there")
    return True


def _exit_with_message(error: BaseException) -> NoReturn:
    """Says what happened and leaves without JAX's farewell, for which all must come."""
    code, text = 1, str(error)
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 1
        said = "" if isinstance(error.code, int) else f"{error.code}\n"
    elif is_process_loss(error):
        said = (
            f"error: process {jax.process_index()} of {jax.process_count()} lost "
            "another one: see there for why, then start all of them again "
            f"({text.splitlines()[0]})\n"
        )
    else:
        said = "".join(traceback.format_exception(error))
    sys.stdout.flush()
    sys.stderr.write(said)
    sys.stderr.flush()
    os._exit(code)
