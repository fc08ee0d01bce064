"""A program for eight host devices: writes, as JSON, how far answers are apart."""

import json
import sys

import jax
import jax.numpy as jnp
import kernels
import numpy as np
import pytest

from diffjax.diffusion import _matvec as _sharded
from diffjax.diffusion import diffuse, leading_eigenvectors, multiply
from diffjax.graph import affinity, compress, knn, normalize
from diffjax.images import DescriptorConfig, PictureBatch
from diffjax.images._describer import Describer
from diffjax.types import Graph

SOLVERS = "cg", "chebyshev", "iterate", "unnormalized-jacobi"
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


def apart(one, other) -> float:
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return float(np.abs(one - other).max() / np.abs(other).max())


def total(weights, alpha, y, graph, mesh):
    graph = graph._replace(weights=weights)
    return (diffuse(graph, y, alpha=alpha, mesh=mesh, **LONG).value ** 2).sum()


def batched(y, graph, mesh):
    def one(column):
        found = diffuse(graph, column[:, None], alpha=0.9, mesh=mesh, **LONG)
        return found.value[:, 0]

    return jax.vmap(one, in_axes=1, out_axes=1)(y)


def compressed() -> dict[str, float]:
    """Columns shared among all devices, each inside a kernel at the same time."""
    graph, mesh = compress(make_graph("float32")), make_mesh(8)
    y = np.random.default_rng(3).uniform(size=(N, 64)).astype(np.float32)
    columns = jax.P(None, "rows")

    def solve(graph, y):
        return diffuse(graph, y, alpha=0.9, rtol=1e-7, max_steps=100).value

    def slope(graph, y):
        return jax.grad(lambda y: (multiply(graph, y) ** 2).sum())(y)

    found = {}
    for name, function in {"product": multiply, "cg": solve, "slope": slope}.items():
        shared = jax.shard_map(
            function, mesh=mesh, in_specs=(jax.P(), columns), out_specs=columns
        )
        alone = function(graph, jnp.asarray(y))
        for _ in range(3):
            found[f"compressed {name}"] = apart(jax.jit(shared)(graph, y), alone)
    with pytest.MonkeyPatch.context() as patch:
        kernels.switch(patch, usable=False)
        shared = jax.shard_map(
            solve, mesh=mesh, in_specs=(jax.P(), columns), out_specs=columns
        )
        found["compressed cg in JAX"] = apart(
            jax.jit(shared)(graph, y), solve(graph, jnp.asarray(y))
        )
    kernels.forget()
    found["compressed eager"] = apart(
        jax.shard_map(
            multiply, mesh=mesh, in_specs=(jax.P(), columns), out_specs=columns
        )(graph, jnp.asarray(y)),
        multiply(graph, jnp.asarray(y)),
    )
    return found


def described() -> dict[str, float]:
    """Pictures shared among all devices, and described by one."""
    draw = np.random.default_rng(2)
    images = draw.integers(256, size=(8, 64, 64, 3), dtype=np.uint8)
    batch = PictureBatch(images, np.full((8, 2), 64, np.int32))
    all_of_them = Describer(CONFIG)
    shared = all_of_them((batch,), (None,) * 8)
    alone = Describer(CONFIG, mesh=make_mesh(1))
    each = [
        alone((PictureBatch(images[i : i + 1], batch.sizes[:1]),), (None,)).vectors
        for i in range(8)
    ]
    shards = {
        shard.data.shape for shard in jnp.asarray(shared.vectors).addressable_shards
    }
    return {
        "described": apart(shared.vectors, np.concatenate(each)),
        "pictures at a time": all_of_them.batch_size,
        "pictures on each of 8": max(shape[0] for shape in shards),
    }


def main() -> None:
    # Here, not on import: whoever collects doctests imports this file, too.
    jax.config.update("jax_enable_x64", True)
    found: dict[str, float] = {"devices": jax.device_count()}
    y64 = np.random.default_rng(1).uniform(size=(N, 4))
    for count in (2, 8):
        mesh = make_mesh(count)
        for dtype in ("float32", "float64"):
            graph, y = make_graph(dtype), jnp.asarray(y64, dtype)
            settings = {"rtol": 1e-7, "max_steps": 500} if dtype == "float32" else LONG
            for solver in SOLVERS:
                own, shared = (
                    diffuse(graph, y, alpha=0.9, solver=solver, mesh=m, **settings)
                    for m in (None, mesh)
                )
                found[f"{solver} {dtype} on {count}"] = apart(shared.value, own.value)
        graph, y = make_graph("float64"), jnp.asarray(y64)
        known = {"basis": leading_eigenvectors(graph, 6), "start": 2 * y}
        own, shared = (
            diffuse(graph, y, alpha=0.9, mesh=m, **known, **LONG) for m in (None, mesh)
        )
        found[f"known on {count}"] = apart(shared.value, own.value)
        gradient = jax.jit(jax.grad(total, (0, 1, 2)), static_argnums=4)
        arguments = graph.weights, jnp.asarray(0.9), y, graph
        pairs = zip(gradient(*arguments, mesh), gradient(*arguments, None), strict=True)
        found[f"gradient on {count}"] = max(apart(*pair) for pair in pairs)
        alone = diffuse(graph, y, alpha=0.9, **LONG).value
        found[f"vmap on {count}"] = apart(batched(y, graph, mesh), alone)
    found |= described() | compressed()
    mesh = make_mesh(8)
    filled = _sharded.pad_to_mesh(
        make_graph("float64"), jnp.asarray(y64), None, None, mesh
    )
    program = jax.make_jaxpr(_sharded.sharded_multiply(mesh))(filled.graph, filled.y)
    (inner,) = (e for e in program.eqns if e.primitive.name == "shard_map")
    found["rows on each of 8"] = inner.params["jaxpr"].invars[0].aval.shape[0]
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
