"""Several processes of one program that compute together, as tests start them."""

import json
import os
import pathlib
import socket
import subprocess
import sys
from typing import Any, NamedTuple

MEMBER = pathlib.Path(__file__).parent / "member.py"


class Ended(NamedTuple):
    """How a process ended, and what it wrote to its standard error."""

    code: int
    errors: str


def run_members(
    task: dict[str, Any],
    folder: pathlib.Path,
    *,
    processes: int,
    devices: int = 1,
    timeout: float = 150,
) -> list[Ended]:
    """Runs `member.py` as some processes of some host devices each, to their end.

    Whatever happens, none of them is left behind.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    # Each compiles for itself, which takes longer than anything that is computed.
    flags = (
        f"--xla_force_host_platform_device_count={devices}",
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
    )
    environment = os.environ | {
        "PYTHONPATH": str(MEMBER.parents[1]),
        "XLA_FLAGS": " ".join(flags),
        "JAX_PLATFORMS": "cpu",
    }
    started = [
        subprocess.Popen(
            [sys.executable, MEMBER, json.dumps(task), folder, str(rank)],
            env=environment
            | {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(rank),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        return [
            Ended(errors=process.communicate(timeout=timeout)[1], code=process.wait())
            for process in started
        ]
    finally:
        for process in started:
            process.kill()
            process.communicate()
