"""Distributed search: graph, solve and best images of row-sharded vectors."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from diffjax._sharding import distributed_top_k, row_spec
from diffjax.diffusion import QueryRule
from diffjax.graph import affinity, knn_dense, normalize
from diffjax.retrieve import Collection, SearchConfig, candidates, pool_images, solve
from diffjax.types import Graph, Scalar, Solution

from ._sharded_rows import row_mask


class DistributedResult(NamedTuple):
    """Best images, or vectors, of every query; the same on all devices.

    Attributes:
        images: Image (or row) indices, best first.
        scores: Scores of these images, in the units of the right-hand side.
        solution: The solution of the diffusion, with a row-sharded `value`.
    """

    images: Int[Array, "q t"]
    scores: Float[Array, "q t"]
    solution: Solution


def build_graph(
    vectors: Float[Array, "rows d"],
    n: int,
    *,
    k: int,
    gamma: Scalar = 3.0,
    bias: Scalar = 0.0,
    mesh: Mesh,
) -> Graph:
    """Builds the normalised neighbour graph of row-sharded vectors.

    `knn_dense`, `affinity` and `normalize` on a mesh, one after the other: a device
    holds its own rows, those of one other device, and the degrees of all rows.

    Args:
        vectors: Row-sharded vectors from `shard_rows`: finite, of unit length.
        n: Number of rows before padding.
        k: Neighbours per vector, itself counted, 1 to n.
        gamma: Exponent of the kernel, above 0.
        bias: Bias of the kernel, which is subtracted from each similarity.
        mesh: The devices.

    Returns:
        S in the padded form, row-sharded; padding rows are nodes without edges.

    Raises:
        ValueError: If a setting is outside its range.

    References:
        Iscen et al., CVPR 2017, eq. 1, 2, 5 and 6, https://arxiv.org/abs/1611.05113.
    """
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1..{n} (n), got {k}.")

    def weigh_edges() -> Graph:
        lists = knn_dense(vectors, k, where=row_mask(n, mesh), mesh=mesh)
        return affinity(lists, gamma=gamma, bias=bias, mesh=mesh)

    # The neighbour lists are freed before the weights are divided.
    return normalize(weigh_edges(), mesh=mesh)


def search(
    graph: Graph,
    vectors: Float[Array, "rows d"],
    n: int,
    queries: Float[Array | np.ndarray, "r d"],
    query_ids: Int[Array | np.ndarray, " r"] | None = None,
    *,
    k: int,
    image_ids: Int[Array, " rows"] | None = None,
    num_images: int | None = None,
    weights: Float[Array, " rows"] | None = None,
    top: int = 10,
    gamma: Scalar = 3.0,
    bias: Scalar = 0.0,
    rule: QueryRule = "paper",
    alpha: Scalar = 0.99,
    rtol: float = 1e-6,
    max_steps: int = 20,
    mesh: Mesh,
) -> DistributedResult:
    """Searches the best images for queries from outside the collection.

    `query_vectors`, `diffuse` and `pool` on a mesh, one after the other. All processes
    pass the same queries and get the same answers. The rows of an image may lie on
    several devices.

    Args:
        graph: The graph from `build_graph`.
        vectors: The row-sharded vectors that the graph was built from.
        n: Number of rows before padding.
        queries: Region vectors of the queries, of unit length, ordered by query; the
            same in all processes.
        query_ids: Query of every region, from 0 upwards; None if each is a query.
        k: Neighbours per region of a query, 1 to n.
        image_ids: Image of every row, row-sharded, ascending from 0; the ids of padding
            rows do not matter. None if each row is an image.
        num_images: Number of images; needed with `image_ids`.
        weights: Pooling weight of every row, row-sharded; None is 1.
        top: Number of images to return, fewer if the collection has fewer.
        gamma: Exponent of the kernel, above 0.
        bias: Bias of the kernel, which is subtracted from each similarity.
        rule: See `query_vectors`.
        alpha: How far scores spread, in [0, 1).
        rtol: Relative residual at which a query stops.
        max_steps: Most iterations of the solver.
        mesh: The devices.

    Returns:
        Images, scores and the solution.

    Raises:
        ValueError: If a setting is outside its range, `num_images` is missing, or the
            number of ids or weights is not that of the rows.

    References:
        Iscen et al., CVPR 2017, eq. 7, 8, 13 and 17, https://arxiv.org/abs/1611.05113.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}.")
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1..{n} (n), got {k}.")
    if (image_ids is None) != (num_images is None):
        raise ValueError(
            "image_ids and num_images must be given together, or neither of them."
        )
    for name, rows in (("image_ids", image_ids), ("weights", weights)):
        if rows is not None and rows.shape != vectors.shape[:1]:
            raise ValueError(
                f"{name} must be one per row of vectors, {vectors.shape[0]}, got "
                f"{list(rows.shape)}: shard them by shard_rows."
            )
    mask = row_mask(n, mesh)
    config = SearchConfig(query_k=k, rule=rule, rtol=rtol, max_steps=max_steps)
    ids = None
    if image_ids is not None and num_images is not None:
        ids = _ids_of_padding_to_last_image(image_ids, mask, num_images=num_images)
    collection = Collection(vectors, graph, ids, num_images or n, weights)
    seeds = candidates(
        *(collection, jnp.asarray(queries), query_ids),
        config=config,
        gamma=gamma,
        bias=bias,
        where=mask,
        mesh=mesh,
    )
    solution = solve(collection, seeds, config=config, alpha=alpha, mesh=mesh)
    if not isinstance(solution, Solution):
        raise TypeError("a search on a mesh solves on all nodes.")
    if ids is None or num_images is None:
        images, scores = _top_rows(
            solution.value, weights, mask, top=min(top, n), mesh=mesh
        )
    else:
        pooled = pool_images(collection, solution, config=config, mesh=mesh)
        images, scores = _top_images(pooled, top=min(top, num_images))
    return DistributedResult(images, scores, solution)


@functools.partial(jax.jit, static_argnames=("top", "mesh"))
def _top_rows(scores, weights, mask, *, top, mesh):
    """Selects the best rows of each device, then the best of those."""
    row_sharded, replicated = row_spec(mesh), PartitionSpec()
    weighted = scores if weights is None else weights[:, None] * scores

    def select_top(scores: Array, mask: Array) -> tuple[Array, Array]:
        masked: Array = jnp.where(mask[:, None], scores, -jnp.inf)
        values, indices = distributed_top_k(masked.T, top, mesh)
        return indices, values

    # A gathered result is the same on all devices, which `check_vma` does not know.
    specs = {"in_specs": row_sharded, "out_specs": replicated, "check_vma": False}
    return jax.shard_map(select_top, mesh=mesh, **specs)(weighted, mask)


@functools.partial(jax.jit, static_argnames="num_images")
def _ids_of_padding_to_last_image(image_ids, mask, *, num_images):
    """Assigns padding rows, whose scores are 0, to the last image; ids stay sorted."""
    return jnp.where(mask, image_ids, num_images - 1)


@functools.partial(jax.jit, static_argnames="top")
def _top_images(scores, *, top):
    values, images = jax.lax.top_k(scores.T, top)
    return images, values
