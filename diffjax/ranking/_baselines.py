"""Baseline scorers without a graph: nearest neighbours and R-match."""

import functools
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax.regions import global_descriptors

from ._validation import check_scorer_arguments


class Scorer(Protocol):
    """Scorer: a function from regions and queries to image scores, higher is better."""

    def __call__(
        self,
        vectors: Float[Array, "n d"],
        image_ids: Int[Array | np.ndarray, " n"],
        queries: Float[Array, "r d"],
        query_ids: Int[Array | np.ndarray, " r"],
        *,
        num_images: int | None = None,
        num_queries: int | None = None,
    ) -> Float[Array, "m q"]:
        """Returns one column of image scores per query."""
        ...


def nearest_neighbors(
    vectors: Float[Array, "n d"],
    image_ids: Int[Array | np.ndarray, " n"],
    queries: Float[Array, "r d"],
    query_ids: Int[Array | np.ndarray, " r"],
    *,
    num_images: int | None = None,
    num_queries: int | None = None,
) -> Float[Array, "m q"]:
    r"""Scores images by the similarity of global descriptors: g(X)'g(Q).

    g is the sum of an image's region vectors, L2-normalised, as in R-MAC; with one
    vector per image g is that vector.

    Args:
        vectors: Region vectors of the database, unit length.
        image_ids: Image of every region, from 0 upwards.
        queries: Region vectors of the queries.
        query_ids: Query of every row of `queries`, from 0 upwards.
        num_images: Number of images m; needed where `image_ids` is traced.
        num_queries: Number of queries q; needed where `query_ids` is traced.

    Returns:
        Image scores in [-1, 1], one column per query; 0 for an image without regions.

    Raises:
        ValueError: If ids decrease or skip a number, dimensions differ, or a count is
            missing under jit or too small.

    References:
        Tolias, Sicre and Jegou, ICLR 2016, https://arxiv.org/abs/1511.05879.
    """
    counts = check_scorer_arguments(
        vectors,
        image_ids,
        queries,
        query_ids,
        num_images=num_images,
        num_queries=num_queries,
    )
    return _nearest_neighbors(
        vectors, jnp.asarray(image_ids), queries, jnp.asarray(query_ids), **counts
    )


def r_match(
    vectors: Float[Array, "n d"],
    image_ids: Int[Array | np.ndarray, " n"],
    queries: Float[Array, "r d"],
    query_ids: Int[Array | np.ndarray, " r"],
    *,
    num_images: int | None = None,
    num_queries: int | None = None,
) -> Float[Array, "m q"]:
    r"""Scores images by cross-matching regions: sum over z in Q of max_{x in X} x'z.

    Args:
        vectors: Region vectors of the database, unit length.
        image_ids: Image of every region, from 0 upwards.
        queries: Region vectors of the queries.
        query_ids: Query of every row of `queries`, from 0 upwards.
        num_images: Number of images m; needed where `image_ids` is traced.
        num_queries: Number of queries q; needed where `query_ids` is traced.

    Returns:
        Image scores, one column per query; -inf for an image without regions.

    Raises:
        ValueError: If ids decrease or skip a number, dimensions differ, or a count is
            missing under jit or too small.

    References:
        Razavian et al., ICLR workshop 2015, https://arxiv.org/abs/1412.6574, in the
        form that Iscen et al., CVPR 2017, section 5.2, call R-match.
    """
    counts = check_scorer_arguments(
        vectors,
        image_ids,
        queries,
        query_ids,
        num_images=num_images,
        num_queries=num_queries,
    )
    return _r_match(
        vectors, jnp.asarray(image_ids), queries, jnp.asarray(query_ids), **counts
    )


@functools.partial(jax.jit, static_argnames=("num_images", "num_queries"))
def _nearest_neighbors(
    vectors, image_ids, queries, query_ids, *, num_images, num_queries
):
    database = global_descriptors(vectors, image_ids, num_images=num_images)
    descriptors = global_descriptors(queries, query_ids, num_images=num_queries)
    return jnp.matmul(database, descriptors.T, precision=jax.lax.Precision.HIGHEST)


@functools.partial(jax.jit, static_argnames=("num_images", "num_queries"))
def _r_match(vectors, image_ids, queries, query_ids, *, num_images, num_queries):
    def best_per_image(region):
        similarities = jnp.matmul(vectors, region, precision=jax.lax.Precision.HIGHEST)
        return jax.ops.segment_max(
            similarities, image_ids, num_segments=num_images, indices_are_sorted=True
        )

    best_similarities = jax.lax.map(best_per_image, queries, batch_size=16)
    return jax.ops.segment_sum(
        best_similarities, query_ids, num_segments=num_queries, indices_are_sorted=True
    ).T
