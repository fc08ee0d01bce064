"""What compiled programs send between devices, and the memory they take on each.

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
    """What one program costs each device.

    Attributes:
        sent: Bytes sent, those inside a loop counted once: of the loop's every round.
        sent_once: Bytes sent outside of loops.
        arguments: Bytes of its arguments.
        output: Bytes of its results.
        temporary: Bytes that it takes beside both while it runs.
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
        program: What to compile.
        shapes: Its arguments, `jax.ShapeDtypeStruct`s with their sharding.
        devices: On how many devices it runs.

    Returns:
        Its costs. All-gathers and all-reduces are counted as a ring does them.
    """
    compiled = jax.jit(program).lower(*shapes).compile()
    sent = {True: 0.0, False: 0.0}
    text = compiled.as_text() or ""
    for line in text.splitlines():
        found = _COLLECTIVE.search(line)
        if found:
            size = sum(
                _shape_bytes(*shape) for shape in _SHAPE.findall(found["shapes"])
            )
            sent["/while/" in found["name"]] += size * _sent_share(
                found["kind"], devices
            )
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
    """What each device sends of what it has in the end."""
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
    """Compiles all that a search does, phase by phase, for some sizes.

    Args:
        mesh: The devices.
        n: Vectors, a multiple of the devices.
        d: Their dimensions.
        k: Neighbours of each, and of each region of a query.
        queries: Queries at a time.
        regions: Regions of each query.
        images: Images that the vectors belong to.

    Returns:
        Costs by phase.
    """
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    same = NamedSharding(mesh, PartitionSpec())

    def spread(*shape: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)

    vectors, real = spread(n, d), spread(n, dtype=jnp.bool_)
    indices, weights = spread(n, k, dtype=jnp.int32), spread(n, k)
    columns = spread(n, queries)
    asked = jax.ShapeDtypeStruct((queries * regions, d), jnp.float32, sharding=same)
    query_ids = np.repeat(np.arange(queries, dtype=np.int32), regions)
    programs: dict[str, tuple[Callable[..., Any], Any]] = {
        "search": (
            lambda x, real: knn_dense(x, k, where=real, mesh=mesh),
            (vectors, real),
        ),
        "affinity": (lambda x: affinity(x, mesh=mesh), (Neighbors(indices, weights),)),
        "normalize": (lambda a: normalize(a, mesh=mesh), (Graph(indices, weights),)),
        "query": (
            lambda x, z, real: query_vectors(
                x, z, query_ids, k=k, where=real, mesh=mesh
            ),
            (vectors, asked, real),
        ),
        "solve": (
            lambda s, y: diffuse(s, y, mesh=mesh),
            (Graph(indices, weights, degrees=spread(n)), columns),
        ),
        "pool": (
            lambda f, ids: pool(f, ids, num_images=images, mesh=mesh),
            (columns, spread(n, dtype=jnp.int32)),
        ),
    }
    return {
        name: measure_program(program, *shapes, devices=mesh.size)
        for name, (program, shapes) in programs.items()
    }


def main() -> None:
    """Compiles for as many of the devices as asked, and writes costs as JSON."""
    asked = json.loads(sys.argv[1])
    found = {}
    for devices in asked.pop("devices"):
        mesh = Mesh(row_mesh().devices[:devices], "rows")
        costs = measure_phases(mesh, **asked)
        found[devices] = {name: cost._asdict() for name, cost in costs.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
