"""Re-ranking by the ranks that the nearest neighbours of the query give."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax.regions import global_descriptors

from ._checks import check_regions

# Ranks that are held at a time: 64 MiB in single precision.
_HELD = 2**24


def scsm_reranking(
    vectors: Float[Array, "n d"],
    image_ids: Int[Array | np.ndarray, " n"],
    queries: Float[Array, "r d"],
    query_ids: Int[Array | np.ndarray, " r"],
    *,
    num_images: int | None = None,
    num_queries: int | None = None,
    k: int = 10,
) -> Float[Array, "m q"]:
    r"""Scores images by their ranks for the query and for its k nearest images.

    score(x) = 1 / R(q, x) + sum_{i=1..k} 1 / (i + 1) 1 / R(N_i, x)

    R(a, x) is the rank of image x, from 1, when all images are ordered by the inner
    product of global descriptors with a, ties by lower index; N_i is the i-th image in
    the order of the query. N_i ranks itself like any other image, so mostly first. Only
    the re-ranking of the paper is built: its spatially constrained similarity needs
    local features, and a global descriptor stands in its place. k 0 is k-NN.

    The scores are functions of ranks: constant almost everywhere, so that their
    gradient is 0.

    Args:
        vectors: Region vectors of the database, unit length.
        image_ids: Image of every region, from 0 upwards.
        queries: Region vectors of the queries.
        query_ids: Query of every row of `queries`, from 0 upwards.
        num_images: Number of images m; needed where `image_ids` is traced.
        num_queries: Number of queries q; needed where `query_ids` is traced.
        k: Neighbours that rank, at least 0; m at most are used. A Python number. The
            default is not the paper's.

    Returns:
        Image scores above 0, one column per query; 0 for an image, and for all images
        of a query, without regions.

    Raises:
        ValueError: If ids go back or skip a number, dimensions differ, a count is
            missing under jit or too small, or `k` is below 0.

    References:
        Shen, Lin, Brandt, Avidan and Wu, Object retrieval and localization with
        spatially-constrained similarity measure and k-NN re-ranking, CVPR 2012; cited
        without an equation number, as the paper was not at hand.
    """
    counts = check_regions(
        vectors,
        image_ids,
        queries,
        query_ids,
        num_images=num_images,
        num_queries=num_queries,
    )
    if k < 0:
        raise ValueError(f"k must be at least 0, got {k}.")
    return _scsm_reranking(
        vectors,
        jnp.asarray(image_ids),
        queries,
        jnp.asarray(query_ids),
        k=min(k, counts["num_images"]),
        **counts,
    )


@functools.partial(jax.jit, static_argnames=("num_images", "num_queries", "k"))
def _scsm_reranking(
    vectors, image_ids, queries, query_ids, *, num_images, num_queries, k
):
    database = global_descriptors(vectors, image_ids, num_images=num_images)
    wanted = global_descriptors(queries, query_ids, num_images=num_queries)
    if num_images == 0:
        return jnp.zeros((0, num_queries), database.dtype)
    real = jnp.any(database != 0, axis=1)
    weights = 1 / jnp.arange(2, k + 2, dtype=database.dtype)

    def inverse_ranks(vector):
        similar = jnp.matmul(database, vector, precision=jax.lax.Precision.HIGHEST)
        # Images without regions rank after all others.
        order = jnp.argsort(-jnp.where(real, similar, -jnp.inf), stable=True)
        by_rank = 1 / jnp.arange(1, num_images + 1, dtype=similar.dtype)
        return jnp.zeros_like(similar).at[order].set(by_rank), order

    def score(query):
        own, order = inverse_ranks(query)
        near = order[:k]
        ranks, _ = jax.vmap(inverse_ranks)(database[near])
        counted = jnp.where(real[near], weights, jnp.zeros_like(weights))
        # By sums, not a product of matrices, which would round differently in a batch.
        total = own + jnp.sum(counted[:, None] * ranks, axis=0)
        return jnp.where(real & jnp.any(query != 0), total, jnp.zeros_like(total))

    batch = max(_HELD // max(num_images * (k + 1), 1), 1)
    batch = min(batch, max(num_queries, 1))
    return jax.lax.map(score, wanted, batch_size=batch).T
