"""Costs of compiled programs: bytes sent between devices, memory on each.

Nothing runs: programs are compiled for shapes. As a program,
`python -m experiments.speed._compiled_costs '{"n": 4096, ...}'` writes JSON, on host
devices as many as XLA_FLAGS says.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffjax.diffusion import diffuse, query_vectors
from diffjax.distributed import row_mesh
from diffjax.graph import affinity, knn_dense, normalize
from diffjax.pooling import pool
from diffjax.types import Graph, Neighbors

_COLLECTIVE = re.compile(
    r"= (?P<shapes>.*?) (?P<kind>all-gather|all-reduce|all-to-all|collective-permute|"
    r"reduce-scatter)(-start)?\(.*?op_name=\"(?P<name>[^\"]*)\""
)
_SHAPE = re.compile(r"(pred|[a-z]+(\d+))\[([\d,]*)\]")


class ProgramCost(NamedTuple):
    """Costs of one program on each device.

    Attributes:
        sent: Bytes sent in every round of a loop.
        sent_once: Bytes sent outside of loops.
        arguments: Bytes of the arguments.
        output: Bytes of the results.
        temporary: Further bytes while the program runs.
    """

    sent: float
    sent_once: float
    arguments: int
    output: int
    temporary: int


def measure_program(
    program: Callable[..., Any], *shapes: Any, devices: int
) -> ProgramCost:
    """Compiles a program and reads its costs.

    Args:
        program: Function to compile.
        shapes: Shapes of the arguments, `jax.ShapeDtypeStruct`s with their sharding.
        devices: Number of devices.

    Returns:
        The costs. All-gathers and all-reduces are counted as on a ring.
    """
    compiled = jax.jit(program).lower(*shapes).compile()
    sent = {True: 0.0, False: 0.0}
    text = compiled.as_text() or ""
    for line in text.splitlines():
        collective = _COLLECTIVE.search(line)
        if collective:
            shapes_sent = _SHAPE.findall(collective["shapes"])
            size = sum(_shape_bytes(*shape) for shape in shapes_sent)
            share = _sent_share(collective["kind"], devices)
            sent["/while/" in collective["name"]] += size * share
    memory: Any = compiled.memory_analysis()
    return ProgramCost(
        sent=sent[True],
        sent_once=sent[False],
        arguments=memory.argument_size_in_bytes,
        output=memory.output_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
    )


def _shape_bytes(kind: str, bits: str, shape: str) -> int:
    numbers = math.prod(int(length) for length in shape.split(",") if length)
    return numbers * (1 if kind == "pred" else int(bits) // 8)


def _sent_share(kind: str, devices: int) -> float:
    """Bytes that each device sends, as a share of its result."""
    others = (devices - 1) / devices
    shares: Mapping[str, float] = {
        "all-gather": others,
        "all-reduce": 2 * others,
        "reduce-scatter": devices - 1,
        "all-to-all": others,
        "collective-permute": 1 if devices > 1 else 0,
    }
    return shares[kind]


def measure_phases(
    mesh: Mesh, *, n: int, d: int, k: int, queries: int, regions: int, images: int
) -> dict[str, ProgramCost]:
    """Compiles all steps of a search, and reads the costs of each.

    Args:
        mesh: The devices.
        n: Number of vectors, a multiple of the devices.
        d: Dimensions of the vectors.
        k: Neighbours of each vector, and of each region of a query.
        queries: Queries at a time.
        regions: Regions of each query.
        images: Images that the vectors belong to.

    Returns:
        Costs by step.
    """
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    replicated = NamedSharding(mesh, PartitionSpec())

    def shard(*shape: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)

    vectors, mask = shard(n, d), shard(n, dtype=jnp.bool_)
    indices, weights = shard(n, k, dtype=jnp.int32), shard(n, k)
    columns = shard(n, queries)
    query_vector_shape = jax.ShapeDtypeStruct(
        (queries * regions, d), jnp.float32, sharding=replicated
    )
    query_ids = np.repeat(np.arange(queries, dtype=np.int32), regions)
    programs: dict[str, tuple[Callable[..., Any], Any]] = {
        "search": (
            lambda x, mask: knn_dense(x, k, where=mask, mesh=mesh),
            (vectors, mask),
        ),
        "affinity": (lambda x: affinity(x, mesh=mesh), (Neighbors(indices, weights),)),
        "normalize": (lambda a: normalize(a, mesh=mesh), (Graph(indices, weights),)),
        "query": (
            lambda x, z, mask: query_vectors(
                x, z, query_ids, k=k, where=mask, mesh=mesh
            ),
            (vectors, query_vector_shape, mask),
        ),
        "solve": (
            lambda s, y: diffuse(s, y, mesh=mesh),
            (Graph(indices, weights, degrees=shard(n)), columns),
        ),
        "pool": (
            lambda f, ids: pool(f, ids, num_images=images, mesh=mesh),
            (columns, shard(n, dtype=jnp.int32)),
        ),
    }
    return {
        name: measure_program(program, *shapes, devices=mesh.size)
        for name, (program, shapes) in programs.items()
    }


def main() -> None:
    """Compiles for every number of devices, and writes the costs as JSON."""
    sizes = json.loads(sys.argv[1])
    costs = {}
    for devices in sizes.pop("devices"):
        mesh = Mesh(row_mesh().devices[:devices], "rows")
        steps = measure_phases(mesh, **sizes)
        costs[devices] = {name: cost._asdict() for name, cost in steps.items()}
    print(json.dumps(costs))


if __name__ == "__main__":
    main()
