"""Database augmentation: every image becomes the mean of itself and its nearest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_in_range, check_not_halved
from diffjax.regions import global_descriptors
from diffjax.types import Scalar

from ._checks import check_count, check_regions
from ._expansion import expand


def database_augmentation(
    vectors: Float[Array, "n d"],
    image_ids: Int[Array | np.ndarray, " n"],
    queries: Float[Array, "r d"],
    query_ids: Int[Array | np.ndarray, " r"],
    *,
    num_images: int | None = None,
    num_queries: int | None = None,
    k: int = 10,
    power: Scalar = 0.0,
) -> Float[Array, "m q"]:
    r"""Scores images by the means of themselves and their nearest images (DBA).

    v(X)'g(Q), where v(X) is `augment_descriptors` of the global descriptors g of
    `nearest_neighbors`. The query stays as it is. The augmented database is computed
    anew by every call, which compares all images with one another: who asks often
    keeps it, and gives it to `nearest_neighbors` with one vector per image.

    Args:
        vectors: Region vectors of the database, unit length.
        image_ids: Image of every region, from 0 upwards.
        queries: Region vectors of the queries.
        query_ids: Query of every row of `queries`, from 0 upwards.
        num_images: Number of images m; needed where `image_ids` is traced.
        num_queries: Number of queries q; needed where `query_ids` is traced.
        k: Other images that are taken in, ties by lower index; 0 for none, all others
            where there are fewer. A Python number.
        power: Exponent of their weights, at least 0; may be traced and differentiated.

    Returns:
        Image scores in [-1, 1], one column per query; 0 for an image or a query whose
        descriptor is zero, as without regions. Differentiable in the vectors and in
        `power`.

    Raises:
        ValueError: If ids go back or skip a number, dimensions differ, a count is
            missing under jit or too small, or `k` or `power` is negative.

    References:
        As of `augment_descriptors`.
    """
    counts = check_regions(
        vectors,
        image_ids,
        queries,
        query_ids,
        num_images=num_images,
        num_queries=num_queries,
    )
    _check_settings(k, power)
    return _database_augmentation(
        vectors,
        jnp.asarray(image_ids),
        queries,
        jnp.asarray(query_ids),
        power,
        k=min(k, counts["num_images"]),
        **counts,
    )


def augment_descriptors(
    descriptors: Float[Array, "m d"], *, k: int = 10, power: Scalar = 0.0
) -> Float[Array, "m d"]:
    r"""Replaces every descriptor by the mean of itself and its k nearest others.

    v_i / |v_i| with v_i = g_i + sum over its k nearest j != i of max(g_i'g_j, 0)^power
    g_j; with power 0 every weight is 1. A few images at a time are compared with all
    others, in memory of that many times m + k d.

    Args:
        descriptors: One vector per image, of unit length, or zero: such an image stays
            as it is and is nobody's neighbour.
        k: Neighbours that are added, the image itself not among them, ties by lower
            index; 0 for none, all others where there are fewer. A Python number.
        power: Exponent of the weights, at least 0; may be traced and differentiated.

    Returns:
        One vector of unit length, or zeros, per image.

    Raises:
        ValueError: If `k` or `power` is negative, or descriptors are double where JAX
            is single.

    References:
        Turcot and Lowe, Better matching with fewer features, ICCV workshops 2009, and
        Arandjelovic and Zisserman, Three things everyone should know to improve object
        retrieval, CVPR 2012, for the idea, on sets of local features; Gordo et al.,
        End-to-end learning of deep visual representations for image retrieval, IJCV
        2017, https://arxiv.org/abs/1610.07940, for vectors. The papers were not at
        hand. Weights are powers of the similarity as in the program of the last
        authors' laboratory, not of the neighbour's rank, which others take.
    """
    check_not_halved("descriptors", descriptors)
    _check_settings(k, power)
    return _augment_descriptors(descriptors, power, k=min(k, descriptors.shape[0]))


def _check_settings(k, power):
    check_count("k", k)
    check_in_range("power", power, low=0, high=np.inf, closed_low=True)


@functools.partial(jax.jit, static_argnames="k")
def _augment_descriptors(descriptors, power, *, k):
    own = jnp.arange(descriptors.shape[0], dtype=jnp.int32)
    return expand(descriptors, descriptors, own, power, k=k)


@functools.partial(jax.jit, static_argnames=("num_images", "num_queries", "k"))
def _database_augmentation(
    vectors, image_ids, queries, query_ids, power, *, num_images, num_queries, k
):
    database = global_descriptors(vectors, image_ids, num_images=num_images)
    augmented = _augment_descriptors(database, power, k=k)
    wanted = global_descriptors(queries, query_ids, num_images=num_queries)
    return jnp.matmul(augmented, wanted.T, precision=jax.lax.Precision.HIGHEST)
