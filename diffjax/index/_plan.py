"""Plan of a build on disk: memory and disk of each phase, before it begins."""

import pathlib
from typing import NamedTuple

import numpy as np

from diffjax.graph import (
    CLUSTER_BLOCK_ROWS,
    MAX_REFINE_CANDIDATES,
    TRAINING_VECTORS_PER_CLUSTER,
    default_cluster_count,
)

from ._available_memory import available_memory, free_disk
from ._config import IndexConfig

# Rows whose lists, and the lists of all their neighbours, are compared at a time.
EDGE_ROWS = 4096

# Bytes that faiss and compiled programs take beside blocks, for products of a block.
_WORKSPACE_BYTES = 64 * 2**20


class Phase(NamedTuple):
    """Memory and disk of one phase of a build on disk, in bytes.

    `diffjax.distributed.StepCost` is the cost of a step on many devices.

    Attributes:
        name: Name of the phase.
        held: Memory that the phase needs.
        mapped: Size of the mapped files that it reads: cached while memory lasts, else
            read again from the disk.
        written: Size of the files that it writes, also of those that a later phase
            removes.
    """

    name: str
    held: int
    mapped: int
    written: int


class Plan(NamedTuple):
    """Memory and disk of a build on disk, phase by phase.

    `diffjax.distributed.CostEstimate` is the cost of a search on many devices.

    Attributes:
        phases: Phases in their order.
        vectors: Bytes of the prepared vectors, n p 4.
        lists: Bytes of the neighbour lists, n k 8.
    """

    phases: tuple[Phase, ...]
    vectors: int
    lists: int

    @property
    def held(self) -> int:
        """Bytes of memory that the build needs."""
        return max(phase.held for phase in self.phases)

    @property
    def written(self) -> int:
        """Bytes of disk that the build needs."""
        return sum(phase.written for phase in self.phases)

    def lines(self) -> list[str]:
        """Lines of text that describe the plan."""
        lines = [
            f"{phase.name}: {_size_text(phase.held)} of memory, looks through "
            f"{_size_text(phase.mapped)}, writes {_size_text(phase.written)}"
            for phase in self.phases
        ]
        max_edges = self.lists // 8
        if max_edges > np.iinfo(np.int32).max:
            # The number of mutual ones is known after the search.
            lines.append(
                f"at most {max_edges:,} edges: 2^31 and more need jax_enable_x64, and "
                "are refused without it once they are found"
            )
        memory, disk = _size_text(self.held), _size_text(self.written)
        vectors, lists = _size_text(self.vectors), _size_text(self.lists)
        return [
            *lines,
            f"in all: {memory} of memory, {disk} of disk",
            f"for {vectors} of vectors, {lists} of lists",
        ]


def plan(
    n: int,
    dim: int,
    *,
    given_bytes: int | None = None,
    config: IndexConfig | None = None,
) -> Plan:
    """Estimates the memory and disk that `Index.build` takes with a path.

    No array is n x n. For many devices see `diffjax.distributed.estimate_cost`.

    With p the dimensions after whitening, c clusters, w = probes n / c candidates of a
    cluster of at most 2 n / c members, b rows of a block, the bytes of each phase are:

    - prepare: memory for the sample, 40 c p 4, twice, centroids, 3 c p 4, row numbers,
      n 28, and blocks, b (dim + 3 p) 4; it reads the given vectors, and writes
      n (p 4 + 20);
    - neighbours: memory per core for the candidates, w (p 4 + 16) or, where lists are
      refined, as many as the members list, their lists, w k 16, members and results of
      four clusters, 4 (2 n / c) (p 4 + k 24), and n 4; it reads the vectors and the
      drafts of lists, and writes the drafts, n k 4, and the lists, n k 8;
    - graph: memory for lists of lists, 4096 k (k 5 + 40), and n 48; it reads the lists,
      and writes at most an edge, of 12 bytes, for each of their entries, and n 24;
    - store: memory for blocks; it reads the vectors, and writes n p 2 bytes, or those
      of the codes.

    Args:
        n: Number of vectors.
        dim: Dimensions of the given vectors.
        given_bytes: Bytes per number of the given vectors: 4, or 2 in half precision.
        config: Settings; None for the defaults.

    Returns:
        The plan.
    """
    import faiss  # noqa: PLC0415  # Slow to import, and only a build needs it.

    graph = (config or IndexConfig()).resolve(n).graph
    p = min(graph.dim or dim, dim)
    k = min(graph.k, n)
    count = min(graph.clusters or default_cluster_count(n, k), n)
    sample = min(TRAINING_VECTORS_PER_CLUSTER * count, n)
    max_members = min(2 * -(-n // count), n)
    max_candidates = max(graph.neighbor_probes * -(-n // count), k) + max_members
    max_candidates = min(max(max_candidates, max_members * k, MAX_REFINE_CANDIDATES), n)
    block = min(CLUSTER_BLOCK_ROWS, max(n, 1024))
    rows, cores = min(EDGE_ROWS, n), faiss.omp_get_max_threads()
    vectors, lists = n * p * 4, n * k * 8
    stored = {"float32": 0, "float16": n * p * 2, "pq": n * graph.code_bytes}
    phases = (
        Phase(
            "prepare",
            held=2 * sample * p * 4
            + 3 * count * p * 4
            + n * 28
            + block * (dim + 3 * p) * 4
            + _WORKSPACE_BYTES,
            mapped=n * dim * (given_bytes or 4),
            written=vectors + n * 20 + count * (p * 4 + 8),
        ),
        Phase(
            "neighbours",
            held=cores * max_candidates * (p * 4 + 16)
            + 4 * cores * max_members * (p * 4 + k * 24)
            + 2 * cores * max_candidates * k * 8
            + n * 4
            + _WORKSPACE_BYTES,
            mapped=vectors + lists // 2,
            written=lists + lists // 2,
        ),
        Phase(
            "graph",
            held=rows * k * (k * 5 + 40) + n * 48 + _WORKSPACE_BYTES,
            mapped=lists + n * k * 4,
            written=n * k * 12 + n * 24,
        ),
        Phase(
            "store",
            held=block * p * 10 + _WORKSPACE_BYTES,
            mapped=vectors,  # Recall is measured on all of them.
            written=stored[graph.storage],
        ),
    )
    return Plan(phases, vectors, lists)


def check_memory_and_disk(
    build_plan: Plan, folder: pathlib.Path, *, written_bytes: int = 0
) -> None:
    """Refuses a build that needs more memory or disk than is available.

    Args:
        build_plan: Memory and disk of the build.
        folder: Folder of the index.
        written_bytes: Bytes that an earlier run has written already.

    Raises:
        ValueError: With the needed and available bytes, and the remedy.
    """
    memory = available_memory()
    if memory is not None and build_plan.held > memory:
        largest_phase = max(build_plan.phases, key=lambda phase: phase.held)
        raise ValueError(
            f"the phase {largest_phase.name!r} needs "
            f"{_size_text(largest_phase.held)} of memory, and there are "
            f"{_size_text(memory)}: take a smaller k, fewer dimensions (dim) or fewer "
            "vectors, or free memory."
        )
    free_bytes = free_disk(folder)
    missing_bytes = build_plan.written - written_bytes
    if missing_bytes > free_bytes:
        raise ValueError(
            f"{folder} needs {_size_text(missing_bytes)} of disk, and there are "
            f"{_size_text(free_bytes)}: take a smaller k or fewer dimensions (dim), "
            "or name another place."
        )


def _size_text(count: float) -> str:
    for unit in "B", "KiB", "MiB":
        if count < 1024:
            return f"{count:.4g} {unit}"
        count = count / 1024
    return f"{count:.2f} GiB"
