"""Wall time and peak memory of a block of code.

Imports nothing heavy, since memory is that of the whole process.
"""

import contextlib
import dataclasses
import pathlib
import re
import sys
import time
from collections.abc import Iterator


@dataclasses.dataclass
class RunCost:
    """Time and memory of a block of code, known once the block has ended.

    Attributes:
        seconds: Wall time of the block.
        peak_bytes: Most memory that this process held at any moment *since it
            started*, before the block included; None where the system does not say.
    """

    seconds: float = 0.0
    peak_bytes: int | None = None


@contextlib.contextmanager
def measure_cost() -> Iterator[RunCost]:
    """Measures time and memory of the block under `with`, also if it raises.

    The peak is the process's, not the block's: it never falls, so that what is to be
    compared in memory runs in processes of its own. Memory of accelerators and of
    child processes is not in it. JAX computes asynchronously: what the block starts
    it has to wait for (`jax.block_until_ready`), or the time is too short.

    Yields:
        The cost, filled in when the block has ended.

    Example:
        >>> with measure_cost() as cost:
        ...     total = sum(range(1000))
        >>> cost.seconds > 0
        True
    """
    cost = RunCost()
    start = time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - start
        cost.peak_bytes = peak_memory()


def peak_memory() -> int | None:
    """Reads the largest resident set of this process so far, in bytes."""
    if sys.platform == "win32":
        return None
    status = pathlib.Path("/proc/self/status")
    # Linux inherits the other figure, `ru_maxrss`, from the parent process; the
    # kernel's status file, where there is one, counts this process alone.
    with contextlib.suppress(OSError):
        line = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        if line:
            return int(line[1]) * 1024
    import resource  # noqa: PLC0415  # Not on every system.

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts in bytes.
