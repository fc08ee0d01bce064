"""Process launcher: starts the processes of one program that compute together."""

import json
import os
import pathlib
import socket
import subprocess
import sys
from typing import Any, NamedTuple

MEMBER = pathlib.Path(__file__).parent / "member.py"


class Exit(NamedTuple):
    """Exit code of a process, and what it wrote to its standard error."""

    code: int
    errors: str


def run_members(
    task: dict[str, Any],
    folder: pathlib.Path,
    *,
    processes: int,
    devices: int = 1,
    timeout: float = 150,
) -> list[Exit]:
    """Runs `member.py` in several processes until all of them have ended.

    Args:
        task: What they compute; see `member.main`.
        folder: Where they read their data and write their results.
        processes: How many there are.
        devices: Host devices of each process.
        timeout: Seconds after which a process counts as hanging.

    Returns:
        How each ended, by rank. Processes that hang are killed, whatever happens.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    # Each compiles for itself, which takes longer than anything that is computed.
    flags = (
        f"--xla_force_host_platform_device_count={devices}",
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
    )
    environment = os.environ | {
        "PYTHONPATH": str(MEMBER.parents[1]),
        "XLA_FLAGS": " ".join(flags),
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(processes),
    }
    started = [
        subprocess.Popen(
            [sys.executable, MEMBER, json.dumps(task), folder],
            env=environment | {"JAX_PROCESS_ID": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        return [
            Exit(errors=process.communicate(timeout=timeout)[1], code=process.wait())
            for process in started
        ]
    finally:
        for process in started:
            process.kill()
            process.communicate()
