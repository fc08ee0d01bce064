"""A program for one of several processes: a whole search, or one that is cut off."""

import json
import os
import pathlib
import sys
import threading
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


def own_part(array: jax.Array) -> np.ndarray:
    """The rows of a row-sharded array that this process has."""
    parts = {
        shard.index[0].start or 0: shard.data for shard in array.addressable_shards
    }
    return np.concatenate([parts[start] for start in sorted(parts)])


def slopes(graph, y, mesh):
    """Derivatives of a number by alpha and by y."""

    def total(alpha, y, graph):
        found = diffuse(graph, y, alpha=alpha, rtol=1e-7, max_steps=100, mesh=mesh)
        return (found.value**2).sum()

    return jax.jit(jax.grad(total, (0, 1)))(jnp.float32(0.9), y, graph)


def search(
    given: Any, task: dict[str, Any], *, with_slopes: bool
) -> dict[str, np.ndarray]:
    """Does every step on its own and all at once; what is spread is `part ...`."""
    mesh = distributed.row_mesh()
    n, k = len(given["vectors"]), min(task["k"], len(given["vectors"]))
    own = distributed.process_rows(n, mesh)
    vectors = distributed.shard_rows(given["vectors"][own], n, mesh)
    image_ids = distributed.shard_rows(given["image_ids"][own], n, mesh)
    real = distributed.row_mask(n, mesh)
    lists = knn_dense(vectors, k, where=real, mesh=mesh)
    a = affinity(lists, mesh=mesh)
    graph = distributed.build_graph(vectors, n, k=k, mesh=mesh)
    asked = given["queries"], given["query_ids"]
    count = own.stop - own.start
    spread = {
        "indices": lists.indices,
        "similarities": lists.similarities,
        "edges": a.indices,
        "weights": graph.weights,
        "degrees": graph.degrees,
    }
    for rule in ("paper", "official"):
        spread[f"y {rule}"] = query_vectors(
            vectors, *asked, k=k, rule=rule, where=real, mesh=mesh
        )
    same = {}
    for name, images in {
        "regions": {},
        "images": {
            "image_ids": image_ids,
            "num_images": int(given["image_ids"][-1]) + 1,
        },
    }.items():
        answers = distributed.search(
            graph, vectors, n, *asked, k=k, top=task["top"], mesh=mesh, **images
        )
        same[f"best {name}"] = answers.images
        same[f"scores of {name}"] = answers.scores
        spread["f"] = answers.solution.value
        same["num_steps"] = answers.solution.num_steps
    if with_slopes:
        by_alpha, by_y = slopes(graph, spread["y paper"], mesh)
        spread["slope by y"], same["slope by alpha"] = by_y, by_alpha
    found = {f"part {name}": own_part(x)[:count] for name, x in spread.items()}
    return found | {name: np.asarray(array) for name, array in same.items()}


def uneven() -> list[str]:
    """What is said to three rows for more devices."""
    mesh = distributed.row_mesh()
    lists = Neighbors(jnp.zeros((3, 1), jnp.int32), jnp.zeros((3, 1)))
    graph = Graph(jnp.full((3, 1), -1, jnp.int32), jnp.zeros((3, 1)))
    eye, said = jnp.eye(3), []
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
            said.append(str(error))
    return said


def cut_off(given: Any, task: dict[str, Any]) -> None:
    """Starts a solve without an end, in the middle of which one process dies."""
    mesh = distributed.row_mesh()
    n = len(given["vectors"])
    own = distributed.process_rows(n, mesh)
    vectors = distributed.shard_rows(given["vectors"][own], n, mesh)
    graph = distributed.build_graph(vectors, n, k=task["k"], mesh=mesh)
    y = vectors[:, :1] ** 2
    # Conjugate gradient would be done before long.
    slow = {"alpha": 0.9999999, "rtol": 0.0, "solver": "iterate", "mesh": mesh}
    # The number of steps is an argument of the compiled program: this compiles it.
    diffuse(graph, y, max_steps=1, **slow).value.block_until_ready()
    if jax.process_index() == task["dies"]:
        threading.Timer(1.0, os._exit, (9,)).start()
    sys.stderr.write("solving\n")
    sys.stderr.flush()
    diffuse(graph, y, max_steps=10**9, **slow).value.block_until_ready()
    sys.stderr.write("solved\n")


def fail(given: Any, task: dict[str, Any]) -> None:
    """Has a fault of its own in one process."""
    if jax.process_index() == task["fails"]:
        raise KeyError("a fault of its own")
    cut_off(given, {**task, "dies": -1})


def main() -> None:
    task, folder, rank = json.loads(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    with distributed.process_group(patience=PATIENCE):
        if jax.device_count() == 8:
            (folder / "uneven.json").write_text(json.dumps(uneven()))
        for name in task["data"]:
            given = np.load(folder / f"{name}.npz")
            if task["does"] == "search":
                found: dict[str, Any] = search(
                    given, task, with_slopes=name == task["slopes"]
                )
                np.savez(folder / f"{name}-{rank}.npz", **found)
            else:
                {"cut off": cut_off, "fail": fail}[task["does"]](given, task)


if __name__ == "__main__":
    main()
