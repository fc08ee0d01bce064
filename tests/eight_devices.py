"""Program for eight host devices: writes relative differences of results as JSON."""

import itertools
import json
import sys

import jax
import jax.numpy as jnp
import kernels
import numpy as np
import pytest

from diffjax.diffusion import _matvec, diffuse, leading_eigenvectors, multiply
from diffjax.graph import affinity, compress, knn, normalize
from diffjax.images import DescriptorConfig, PictureBatch
from diffjax.images._describer import Describer
from diffjax.types import Graph

SOLVERS = "cg", "chebyshev", "iterate", "unnormalized-jacobi"
SOME_SOLVES = (
    ("cg", "float64", 2),
    ("cg", "float64", 8),
    ("cg", "float32", 8),
    ("chebyshev", "float64", 8),
    ("unnormalized-jacobi", "float64", 8),
)
N = 86
CONFIG = DescriptorConfig(side=64, map="stage2")
LONG = {"rtol": 1e-13, "max_steps": 500}


def make_mesh(count: int) -> jax.sharding.Mesh:
    kinds = (jax.sharding.AxisType.Auto,)
    devices = jax.devices()[:count]
    return jax.make_mesh((count,), ("rows",), axis_types=kinds, devices=devices)


def make_graph(dtype) -> Graph:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(8, 12))
    vectors = centres[rng.integers(8, size=N)] + 0.8 * rng.normal(size=(N, 12))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return normalize(affinity(knn(vectors.astype(dtype), 9)))


def relative_difference(one, other) -> float:
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return float(np.abs(one - other).max() / np.abs(other).max())


def make_y(dtype) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).uniform(size=(N, 4)), dtype)


def total(weights, alpha, y, graph, mesh):
    graph = graph._replace(weights=weights)
    return (diffuse(graph, y, alpha=alpha, mesh=mesh, **LONG).value ** 2).sum()


def batched(y, graph, mesh):
    def one(column):
        got = diffuse(graph, column[:, None], alpha=0.9, mesh=mesh, **LONG)
        return got.value[:, 0]

    return jax.vmap(one, in_axes=1, out_axes=1)(y)


def solved(solver, dtype, count) -> dict[str, float]:
    """Scores of a solver on a mesh, compared with those of one device."""
    graph, y = make_graph(dtype), make_y(dtype)
    settings = {"rtol": 1e-7, "max_steps": 500} if dtype == "float32" else LONG
    alone, shared = (
        diffuse(graph, y, alpha=0.9, solver=solver, mesh=mesh, **settings).value
        for mesh in (None, make_mesh(count))
    )
    return {f"{solver} {dtype} on {count}": relative_difference(shared, alone)}


def transformed() -> dict[str, float]:
    """Solves from a guess, gradients and batches on eight devices; rows of each."""
    mesh, graph, y = make_mesh(8), make_graph("float64"), make_y("float64")
    guess = {"basis": leading_eigenvectors(graph, 6), "start": 2 * y}
    alone, shared = (
        diffuse(graph, y, alpha=0.9, mesh=m, **guess, **LONG).value
        for m in (None, mesh)
    )
    report = {"known on 8": relative_difference(shared, alone)}
    gradient = jax.jit(jax.grad(total, (0, 1, 2)), static_argnums=4)
    arguments = graph.weights, jnp.asarray(0.9), y, graph
    pairs = zip(gradient(*arguments, mesh), gradient(*arguments, None), strict=True)
    report["gradient on 8"] = max(relative_difference(*pair) for pair in pairs)
    report["vmap on 8"] = relative_difference(batched(y, graph, mesh), alone)
    padded = _matvec.pad_to_mesh(graph, y, None, None, mesh)
    program = jax.make_jaxpr(_matvec.sharded_multiply(mesh))(padded.graph, padded.y)
    (inner,) = (e for e in program.eqns if e.primitive.name == "shard_map")
    report["rows on each of 8"] = inner.params["jaxpr"].invars[0].aval.shape[0]
    return report


def compressed() -> dict[str, float]:
    """Columns sharded over all devices, which call kernels at the same time."""
    graph, mesh = compress(make_graph("float32")), make_mesh(8)
    y = np.random.default_rng(3).uniform(size=(N, 64)).astype(np.float32)
    columns = jax.P(None, "rows")

    def solve(graph, y):
        return diffuse(graph, y, alpha=0.9, rtol=1e-7, max_steps=100).value

    def slope(graph, y):
        return jax.grad(lambda y: (multiply(graph, y) ** 2).sum())(y)

    report = {}
    for name, function in {"product": multiply, "cg": solve, "slope": slope}.items():
        shared = jax.shard_map(
            function, mesh=mesh, in_specs=(jax.P(), columns), out_specs=columns
        )
        alone = function(graph, jnp.asarray(y))
        program = jax.jit(shared)
        report[f"compressed {name}"] = max(
            relative_difference(program(graph, y), alone) for _ in range(3)
        )
    with pytest.MonkeyPatch.context() as patch:
        kernels.switch(patch, usable=False)
        shared = jax.shard_map(
            solve, mesh=mesh, in_specs=(jax.P(), columns), out_specs=columns
        )
        report["compressed cg in JAX"] = relative_difference(
            jax.jit(shared)(graph, y), solve(graph, jnp.asarray(y))
        )
    kernels.forget()
    report["compressed eager"] = relative_difference(
        jax.shard_map(
            multiply, mesh=mesh, in_specs=(jax.P(), columns), out_specs=columns
        )(graph, jnp.asarray(y)),
        multiply(graph, jnp.asarray(y)),
    )
    return report


def described() -> dict[str, float]:
    """Pictures sharded over all devices, and described by one."""
    draw = np.random.default_rng(2)
    images = draw.integers(256, size=(8, 64, 64, 3), dtype=np.uint8)
    batch = PictureBatch(images, np.full((8, 2), 64, np.int32))
    on_all_devices = Describer(CONFIG)
    shared = on_all_devices((batch,), (None,) * 8)
    alone = Describer(CONFIG, mesh=make_mesh(1))
    one_by_one = [
        alone((PictureBatch(images[i : i + 1], batch.sizes[:1]),), (None,)).vectors
        for i in range(8)
    ]
    shards = {
        shard.data.shape for shard in jnp.asarray(shared.vectors).addressable_shards
    }
    return {
        "described": relative_difference(shared.vectors, np.concatenate(one_by_one)),
        "pictures at a time": on_all_devices.batch_size,
        "pictures on each of 8": max(shape[0] for shape in shards),
    }


def main() -> None:
    # Here, not on import, because collecting doctests imports this file, too.
    jax.config.update("jax_enable_x64", True)
    report: dict[str, float] = {"devices": jax.device_count()}
    if sys.argv[1] == "every solver":
        cases = itertools.product(SOLVERS, ("float32", "float64"), (2, 8))
    else:
        cases = SOME_SOLVES
        report |= transformed() | described() | compressed()
    for case in cases:
        report |= solved(*case)
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
