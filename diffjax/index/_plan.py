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

from ._config import IndexConfig
from ._memory import available_memory, free_disk

# Rows whose lists, and the lists of all their neighbours, are compared at a time.
EDGE_ROWS = 4096

# What faiss and compiled programs hold beside blocks: products of a block.
_WORK = 64 * 2**20


class Phase(NamedTuple):
    """What a phase of a build on one machine's disk takes, in bytes.

    `diffjax.distributed.Phase` is of a step on many devices.

    Attributes:
        name: The phase.
        held: Memory that it must have.
        mapped: Files that it looks through: in memory while there is room, and where
            there is none, read again.
        written: Files that it leaves, those included that a later one removes.
    """

    name: str
    held: int
    mapped: int
    written: int


class Plan(NamedTuple):
    """What the build of a index on one machine's disk.

    `diffjax.distributed.Plan` is of a collection on many devices.

    Attributes:
        phases: One after the other.
        vectors: Bytes of the prepared vectors, n p 4.
        lists: Bytes of the neighbour lists, n k 8.
    """

    phases: tuple[Phase, ...]
    vectors: int
    lists: int

    @property
    def held(self) -> int:
        """Memory that there must be."""
        return max(phase.held for phase in self.phases)

    @property
    def written(self) -> int:
        """Disk that there must be."""
        return sum(phase.written for phase in self.phases)

    def lines(self) -> list[str]:
        """Says it in words, a line each."""
        lines = [
            f"{phase.name}: {_size(phase.held)} of memory, looks through "
            f"{_size(phase.mapped)}, writes {_size(phase.written)}"
            for phase in self.phases
        ]
        most = self.lists // 8
        if most > np.iinfo(np.int32).max:
            # How many of them are mutual is known after the search.
            lines.append(
                f"at most {most:,} edges: 2^31 and more need jax_enable_x64, and are "
                "refused without it once they are found"
            )
        return [
            *lines,
            f"in all: {_size(self.held)} of memory, {_size(self.written)} of disk",
            f"for {_size(self.vectors)} of vectors, {_size(self.lists)} of lists",
        ]


def plan(
    n: int,
    dim: int,
    *,
    given_bytes: int | None = None,
    config: IndexConfig | None = None,
) -> Plan:
    """Computes what `Index.build` with a path takes of one machine's memory and disk.

    Nothing is ever n x n. `diffjax.distributed.estimate_cost` is of many devices.

    With p the dimensions kept, c clusters, w = probes n / c candidates of a cluster of
    at most 2 n / c members, b rows of a block:

    - prepare holds the sample, 40 c p 4, twice, centroids, 3 c p 4, numbers of rows,
      n 28, and blocks, b (dim + 3 p) 4; it looks through the vectors
      given, and writes n (p 4 + 20);
    - neighbours holds for each core the candidates, w (p 4 + 16) or, where lists are
      gone through again, as many as the members name, their lists, w k 16, members and
      answers of four clusters, 4 (2 n / c) (p 4 + k 24), and n 4; it looks through the
      vectors and the drafts of lists, and writes those, n k 4, and the lists, n k 8;
    - graph holds lists of lists, 4096 k (k 5 + 40), and n 48; it looks through the
      lists, and writes at most an edge, of 12 bytes, for each of their entries, and
      n 24;
    - store holds blocks; it looks through the vectors, and writes n p 2 or a byte for
      each of a code.

    Args:
        n: Number of vectors.
        dim: Their dimensions, as given.
        given_bytes: Of a number of them: 4, or 2 in half precision.
        config: Settings.

    Returns:
        The plan.
    """
    import faiss  # noqa: PLC0415  # Slow to import, and only a build needs it.

    graph = (config or IndexConfig()).resolve(n).graph
    p = min(graph.dim or dim, dim)
    k = min(graph.k, n)
    count = min(graph.clusters or default_cluster_count(n, k), n)
    sample = min(TRAINING_VECTORS_PER_CLUSTER * count, n)
    members = min(2 * -(-n // count), n)
    candidates = max(graph.neighbor_probes * -(-n // count), k) + members
    candidates = min(max(candidates, members * k, MAX_REFINE_CANDIDATES), n)
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
            + _WORK,
            mapped=n * dim * (given_bytes or 4),
            written=vectors + n * 20 + count * (p * 4 + 8),
        ),
        Phase(
            "neighbours",
            held=cores * candidates * (p * 4 + 16)
            + 4 * cores * members * (p * 4 + k * 24)
            + 2 * cores * candidates * k * 8
            + n * 4
            + _WORK,
            mapped=vectors + lists // 2,
            written=lists + lists // 2,
        ),
        Phase(
            "graph",
            held=rows * k * (k * 5 + 40) + n * 48 + _WORK,
            mapped=lists + n * k * 4,
            written=n * k * 12 + n * 24,
        ),
        Phase(
            "store",
            held=block * p * 10 + _WORK,
            mapped=vectors,  # Recall is measured on all of them.
            written=stored[graph.storage],
        ),
    )
    return Plan(phases, vectors, lists)


def check_room(found: Plan, folder: pathlib.Path, *, there: int = 0) -> None:
    """Refuses a build that can't fit.

    Args:
        found: What it takes.
        folder: Where it is written.
        there: Bytes that an earlier run has written already.

    Raises:
        ValueError: With what it needs, what there is, and what to change.
    """
    memory = available_memory()
    if memory is not None and found.held > memory:
        worst = max(found.phases, key=lambda phase: phase.held)
        raise ValueError(
            f"the phase {worst.name!r} needs {_size(worst.held)} of memory, and there "
            f"are {_size(memory)}: take a smaller k, fewer dimensions (dim) or fewer "
            "vectors, or free memory."
        )
    free = free_disk(folder)
    if found.written - there > free:
        raise ValueError(
            f"{folder} needs {_size(found.written - there)} of disk, and there are "
            f"{_size(free)}: take a smaller k or fewer dimensions (dim), or name "
            "another place."
        )


def _size(count: float) -> str:
    for unit in "B", "KiB", "MiB":
        if count < 1024:
            return f"{count:.4g} {unit}"
        count = count / 1024
    return f"{count:.2f} GiB"
