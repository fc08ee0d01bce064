"""Member of a process group: searches collections, or dies in the middle of a solve."""

import json
import os
import pathlib
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import distributed
from diffjax.diffusion import diffuse, query_vectors
from diffjax.graph import affinity, knn_dense, normalize
from diffjax.pooling import pool
from diffjax.types import Graph, Neighbors

PATIENCE = 20  # Seconds; what the machine may need to start the slowest process.
# Well above rounding, so that the numbers of steps are equal.
RTOL = 1e-4


def main() -> None:
    """Does what the command line says, as one process of a group.

    The first argument is a task in JSON: "data" names the `.npz` files of the folder,
    which is the second argument. If "search" is there, each is searched and the results
    are written to `NAME-RANK.npz`; "derivatives" names the one of which derivatives are
    taken, too. The rank in "dies" then ends amid a solve of the first, or that in
    "fails" raises an exception while the others solve.
    """
    task, folder = json.loads(sys.argv[1]), pathlib.Path(sys.argv[2])
    rank = int(os.environ["JAX_PROCESS_ID"])
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    with distributed.process_group(patience=PATIENCE):
        data = {name: np.load(folder / f"{name}.npz") for name in task["data"]}
        if task.get("search"):
            messages = uneven_rows_messages()
            (folder / f"uneven-{rank}.json").write_text(json.dumps(messages))
            for name, arrays in data.items():
                is_differentiated = name == task["derivatives"]
                results: dict[str, Any] = search(
                    arrays, task, with_derivatives=is_differentiated
                )
                np.savez(folder / f"{name}-{rank}.npz", **results)
        if rank == task.get("fails"):
            raise KeyError("a fault of its own")
        if task.get("dies") is not None or "fails" in task:
            first = data[task["data"][0]]
            solve_until_killed(first, k=task["k"], dies=task.get("dies"))


def search(
    data: Mapping[str, np.ndarray], task: dict[str, Any], *, with_derivatives: bool
) -> dict[str, np.ndarray]:
    """Searches step by step and at once; "shard ..." are the row-sharded results."""
    mesh = distributed.row_mesh()
    n, k = len(data["vectors"]), min(task["k"], len(data["vectors"]))
    rows = distributed.process_rows(n, mesh)
    vectors = distributed.shard_rows(data["vectors"][rows], n, mesh)
    image_ids = distributed.shard_rows(data["image_ids"][rows], n, mesh)
    mask = distributed.row_mask(n, mesh)
    lists = knn_dense(vectors, k, where=mask, mesh=mesh)
    affinities = affinity(lists, mesh=mesh)
    graph = distributed.build_graph(vectors, n, k=k, mesh=mesh)
    queries = data["queries"], data["query_ids"]
    sharded = {
        "indices": lists.indices,
        "similarities": lists.similarities,
        "edges": affinities.indices,
        "weights": graph.weights,
        "degrees": graph.degrees,
    }
    for rule in ("paper", "official"):
        sharded[f"y {rule}"] = query_vectors(
            vectors,
            jnp.asarray(queries[0]),
            queries[1],
            k=k,
            rule=rule,
            where=mask,
            mesh=mesh,
        )
    replicated = {}
    num_images = int(data["image_ids"][-1]) + 1
    for name, images in {
        "regions": {},
        "images": {"image_ids": image_ids, "num_images": num_images},
    }.items():
        answers = distributed.search(
            *(graph, vectors, n, *queries),
            k=k,
            top=task["top"],
            rtol=RTOL,
            mesh=mesh,
            **images,
        )
        replicated[f"best {name}"] = answers.images
        replicated[f"scores of {name}"] = answers.scores
        sharded["f"] = answers.solution.value
        replicated["num_steps"] = answers.solution.num_steps
    if with_derivatives:
        by_alpha, by_y = derivatives(graph, sharded["y paper"], mesh)
        sharded["derivative by y"] = by_y
        replicated["derivative by alpha"] = by_alpha
    count = rows.stop - rows.start
    local = {f"shard {name}": local_rows(x)[:count] for name, x in sharded.items()}
    return local | {name: np.asarray(x) for name, x in replicated.items()}


def derivatives(graph, y, mesh):
    """Derivatives of the sum of squares of f by alpha and by y."""

    def total(alpha, y, graph):
        solution = diffuse(graph, y, alpha=alpha, rtol=1e-7, max_steps=100, mesh=mesh)
        return (solution.value**2).sum()

    return jax.jit(jax.grad(total, (0, 1)))(jnp.float32(0.9), y, graph)


def local_rows(array: jax.Array) -> np.ndarray:
    """The rows of a row-sharded array that this process has, in their order."""
    shards = {
        shard.index[0].start or 0: shard.data for shard in array.addressable_shards
    }
    return np.concatenate([shards[start] for start in sorted(shards)])


def uneven_rows_messages() -> list[str]:
    """The errors of each step for 3 rows, which more devices can not share."""
    mesh = distributed.row_mesh()
    lists = Neighbors(jnp.zeros((3, 1), jnp.int32), jnp.zeros((3, 1)))
    graph = Graph(jnp.full((3, 1), -1, jnp.int32), jnp.zeros((3, 1)))
    eye, messages = jnp.eye(3), []
    for call in (
        lambda: knn_dense(eye, 1, mesh=mesh),
        lambda: affinity(lists, mesh=mesh),
        lambda: normalize(graph, mesh=mesh),
        lambda: query_vectors(eye, eye, k=1, mesh=mesh),
        lambda: pool(eye, mesh=mesh),
    ):
        try:
            call()
        except ValueError as error:
            messages.append(str(error))
    return messages


def solve_until_killed(
    data: Mapping[str, np.ndarray], *, k: int, dies: int | None
) -> None:
    """Starts a solve without an end, in the middle of which one process dies."""
    mesh = distributed.row_mesh()
    n = len(data["vectors"])
    rows = distributed.process_rows(n, mesh)
    vectors = distributed.shard_rows(data["vectors"][rows], n, mesh)
    graph = distributed.build_graph(vectors, n, k=k, mesh=mesh)
    y = vectors[:, :1] ** 2
    # Conjugate gradient would be done before long.
    slow = {"alpha": 0.9999999, "rtol": 0.0, "solver": "iterate", "mesh": mesh}
    # The number of steps is an argument of the compiled program: this compiles it.
    diffuse(graph, y, max_steps=1, **slow).value.block_until_ready()
    if jax.process_index() == dies:
        threading.Timer(1.0, os._exit, (9,)).start()
    # The clock is that of all processes of the machine.
    sys.stderr.write(f"solving since {time.monotonic()}\n")
    sys.stderr.flush()
    diffuse(graph, y, max_steps=10**9, **slow).value.block_until_ready()
    sys.stderr.write("solved\n")


if __name__ == "__main__":
    main()
