"""Every public function of arrays lowers for every kind of device."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.diffusion import (
    OfflineRows,
    combine_offline_rows,
    diffuse,
    diffuse_conventional,
    query_vectors,
    solve_offline_rows,
)
from diffjax.graph import (
    affinity,
    compress,
    edge_similarities,
    insert,
    knn,
    knn_dense,
    normalize,
    shortlist,
    truncate,
)
from diffjax.learning import (
    QueryDescriptors,
    parameters,
    replace_shrinkage_by_projection,
    scatter_matrices,
    score_images,
    training_graphs,
)
from diffjax.pooling import gmp_weights, pool
from diffjax.ranking import nearest_neighbors, r_match, rank
from diffjax.regions import reduce_regions

PLATFORMS = "cpu", "cuda", "tpu"
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(12, 4)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
IDS = np.repeat(np.arange(6), 2).astype(np.int32)
QUERIES = VECTORS[:2]
QUERY_IDS = np.arange(2, dtype=np.int32)
COUNTS = {"num_images": 6, "num_queries": 2}
Y = np.ones((12, 2), np.float32)


@functools.cache
def cases() -> dict[str, Any]:
    """Functions by name, with arguments of arrays only."""
    return {name: rest for name, *rest in make_cases()}


def make_cases():
    lists = knn(VECTORS, 4)
    padded = affinity(lists)
    a = compress(padded)
    s = normalize(a)
    n = len(VECTORS)
    rows = OfflineRows(lists.indices, jnp.zeros(lists.indices.shape), jnp.zeros(n))
    part = functools.partial
    yield "affinity", affinity, (lists,)
    yield "affinity of a graph", affinity, (a,)
    yield "normalize", normalize, (a,)
    yield "truncate", part(truncate, max_degree=4), (a, np.arange(5))
    yield "edge_similarities", edge_similarities, (a, VECTORS)
    yield "insert", insert, (lists, VECTORS, QUERIES)
    yield "knn_dense", part(knn_dense, k=3), (VECTORS,)
    yield "shortlist", part(shortlist, size=2, max_regions=2), (Y[:6], IDS)
    yield "query_vectors", part(query_vectors, k=3), (VECTORS, QUERIES)
    for solver in ("cg", "iterate", "unnormalized", "unnormalized-jacobi", "direct"):
        yield f"diffuse {solver}", part(diffuse, solver=solver), (s, Y)
    yield "diffuse padded", diffuse, (normalize(padded), Y)
    counts = {"num_queries": 2, "max_regions": 1}
    yield (
        "diffuse_conventional",
        part(diffuse_conventional, **counts),
        (VECTORS, lists, QUERIES, QUERY_IDS),
    )
    yield (
        "solve_offline_rows",
        part(solve_offline_rows, max_degree=4),
        (s, lists.indices),
    )
    yield "combine_offline_rows", part(combine_offline_rows, k=3), (rows, Y)
    yield "gmp_weights", part(gmp_weights, num_images=6, max_regions=2), (VECTORS, IDS)
    yield "pool", part(pool, num_images=6), (Y, IDS)
    yield "rank", rank, (Y,)
    for scorer in (nearest_neighbors, r_match):
        arguments = VECTORS, IDS, QUERIES, QUERY_IDS
        yield scorer.__name__, part(scorer, **COUNTS), arguments

    def reduced(vectors, ids, key):
        return reduce_regions(
            vectors, ids, components=2, key=key, num_images=6, max_regions=2
        )

    yield "reduce_regions", reduced, (VECTORS, IDS, jax.random.key(0))
    collection_graphs = training_graphs(VECTORS, IDS, k=4)
    asked = QueryDescriptors((QUERIES,), QUERY_IDS)
    settings = {**COUNTS, "query_k": 3, "max_regions": 2}
    projected = parameters(("projection",), dim=4, rank=3)
    yield (
        "score_images",
        part(score_images, **settings),
        (projected, collection_graphs, asked),
    )
    measured = scatter_matrices(collection_graphs, [np.array([0, 1]), np.array([2, 3])])
    yield (
        "gradient of whiten",
        jax.grad(
            lambda p: jnp.sum(
                jax.tree.leaves(replace_shrinkage_by_projection(p, measured, dim=2))[-1]
            )
        ),
        (parameters(("shrinkage", "emphasis")),),
    )
    yield (
        "gradient of a search",
        jax.grad(lambda x, y: diffuse(s, y * x, alpha=x).value.sum()),
        (jnp.float32(0.5), Y),
    )


@pytest.mark.parametrize("part", range(4))
def test_lowers_for_every_kind_of_device_with_products_of_full_precision(part):
    # Four tests, because workers share them out; names are known after the first.
    for name, (function, arguments) in list(cases().items())[part::4]:
        traced = jax.jit(function).trace(*jax.tree.map(jnp.asarray, arguments))
        highest = (jax.lax.Precision.HIGHEST,) * 2
        for equation in equations(traced.jaxpr.jaxpr):
            if equation.primitive.name == "dot_general":
                assert equation.params["precision"] == highest, (name, equation)
        assert traced.lower(lowering_platforms=PLATFORMS).as_text(), name


def equations(jaxpr):
    """All equations of a program, including those of inner functions."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)
