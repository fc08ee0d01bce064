"""The whole search, on rows that are spread over many devices."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from diffjax._sharding import distributed_top_k, row_spec
from diffjax.diffusion import QueryRule, diffuse, query_vectors
from diffjax.graph import affinity, knn_dense, normalize
from diffjax.pooling import pool
from diffjax.types import Graph, Scalar, Solution

from ._sharded_rows import row_mask


class DistributedResult(NamedTuple):
    """The best images, or vectors, of every query; the same on all devices.

    Attributes:
        images: Their numbers, best first.
        scores: Their scores, in the units of the diffusion's right-hand side.
        solution: The diffusion behind them, its `value` row-sharded.
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
    """Searches the neighbours of all vectors and makes the normalised graph of them.

    `knn_dense`, `affinity` and `normalize` on a mesh, one after the other: no device
    holds more than its rows, those of one other, and the degrees of all.

    Args:
        vectors: What `shard_rows` gave: finite, of unit length.
        n: How many of them are no padding.
        k: Neighbours per vector, itself counted, 1 to n.
        gamma: Exponent of the kernel, above 0.
        bias: What the kernel takes off each similarity.
        mesh: The devices.

    Returns:
        S in the padded form, row-sharded; padding is nodes without edges.

    Raises:
        ValueError: If a setting is outside its range.

    References:
        Iscen et al., CVPR 2017, eq. 1, 2, 5 and 6, https://arxiv.org/abs/1611.05113.
    """
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1..{n} (n), got {k}.")

    def weigh() -> Graph:
        lists = knn_dense(vectors, k, where=row_mask(n, mesh), mesh=mesh)
        return affinity(lists, gamma=gamma, bias=bias, mesh=mesh)

    # The lists are forgotten before the weights are divided.
    return normalize(weigh(), mesh=mesh)


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
    """Finds the best images of queries that are not in the collection.

    `query_vectors`, `diffuse` and `pool` on a mesh, one after the other. All processes
    ask the same queries and get the same answers. An image's rows may lie on several
    devices.

    Args:
        graph: What `build_graph` gave.
        vectors: The vectors it was built of.
        n: How many of them are no padding.
        queries: Query vectors of unit length, the regions of one query after those of
            another; the same in all processes.
        query_ids: Which query each belongs to, from 0 upwards; None if each is one.
        k: Neighbours per region of a query, 1 to n.
        image_ids: Image of every row, row-sharded, from 0 upwards without going back;
            what padding has does not matter. None if each row is an image.
        num_images: Number of images; needed with `image_ids`.
        weights: Weights of the rows in their images, row-sharded; None for 1.
        top: Images given, fewer if there are not so many.
        gamma: Exponent of the kernel, above 0.
        bias: What the kernel takes off each similarity.
        rule: See `query_vectors`.
        alpha: How far scores spread, in [0, 1).
        rtol: Relative residual at which a query stops.
        max_steps: Most iterations.
        mesh: The devices.

    Returns:
        Images, scores and the solution.

    Raises:
        ValueError: If a setting is outside its range, `num_images` is missing, or there
            are not as many ids or weights as vectors.

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
                f"{list(rows.shape)}: spread them by shard_rows."
            )
    mask = row_mask(n, mesh)
    y = query_vectors(
        *(vectors, jnp.asarray(queries), query_ids),
        k=k,
        gamma=gamma,
        bias=bias,
        rule=rule,
        where=mask,
        mesh=mesh,
    )
    solution = diffuse(graph, y, alpha=alpha, rtol=rtol, max_steps=max_steps, mesh=mesh)
    if image_ids is None or num_images is None:
        images, scores = _top_rows(
            solution.value, weights, mask, top=min(top, n), mesh=mesh
        )
    else:
        pooled = pool(
            solution.value,
            _ids_of_padding_to_last_image(image_ids, mask, num_images=num_images),
            weights=weights,
            num_images=num_images,
            mesh=mesh,
        )
        images, scores = _top_images(pooled, top=min(top, num_images))
    return DistributedResult(images, scores, solution)


@functools.partial(jax.jit, static_argnames=("top", "mesh"))
def _top_rows(scores, weights, mask, *, top, mesh):
    """Each device's best rows, then the best of those."""
    rows, same = row_spec(mesh), PartitionSpec()
    weighted = scores if weights is None else weights[:, None] * scores

    def best(scores: Array, mask: Array) -> tuple[Array, Array]:
        counted: Array = jnp.where(mask[:, None], scores, -jnp.inf)
        values, numbers = distributed_top_k(counted.T, top, mesh)
        return numbers, values

    # What all gathered is the same for all, which `check_vma` does not know.
    spread = {"in_specs": rows, "out_specs": same, "check_vma": False}
    return jax.shard_map(best, mesh=mesh, **spread)(weighted, mask)


@functools.partial(jax.jit, static_argnames="num_images")
def _ids_of_padding_to_last_image(image_ids, mask, *, num_images):
    """Gives padding, whose scores are 0, to the last image, where the order has it."""
    return jnp.where(mask, image_ids, num_images - 1)


@functools.partial(jax.jit, static_argnames="top")
def _top_images(scores, *, top):
    values, images = jax.lax.top_k(scores.T, top)
    return images, values
