"""Costs of a collection on many devices: bytes sent and memory on each.

Paper: nothing; its graphs fit one machine, with up to 2.2 million regions.
Data: none. Programs are compiled for shapes, on host devices, and not run; the bytes of
their collective operations and the compiler's figures of memory are compared with the
arithmetic of `diffjax.distributed.estimate_cost`, which is then extended to 10^9
regions.
Recorded: "compiled", per number of devices and step: bytes that a device sends in a
round, its memory, and the same by arithmetic. "simulated", per number of regions and of
devices: bytes that a device sends in an iteration of one query and to build the graph,
and the most memory at any time.
Expected: bytes as compiled; of 10^9 regions, 128-D, k 50, on 1,024 devices, 5 GB on
each and 4 GB sent in an iteration: the search directions, which every device gathers.
Cost: one minute.
Command: python -m experiments distributed_cost
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class DistributedCostConfig:
    """Sizes of the compiled programs and of the arithmetic."""

    devices: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of host devices to compile for."""
    nodes: int = 100_000
    """Regions in compiled programs, a multiple of all of these."""
    images: int = 5_000
    """Images of the compiled programs."""
    many_devices: tuple[int, ...] = (8, 64, 256, 1024)
    """Numbers of devices in the arithmetic."""
    many_nodes: tuple[int, ...] = (10**6, 10**7, 10**8, 10**9)
    """Numbers of regions in the arithmetic, 20 an image."""
    dim: int = 128
    k: int = 50
    queries: int = 1
    regions: int = 1


def full() -> DistributedCostConfig:
    """Settings of the records."""
    return DistributedCostConfig()


def quick() -> DistributedCostConfig:
    """Small programs, several queries of several regions, in half a minute."""
    return DistributedCostConfig(
        nodes=4096, images=200, dim=16, k=10, queries=3, regions=2
    )
