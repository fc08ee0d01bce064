"""Query expansion (AQE, alpha-QE, R-match) and database augmentation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_in_range, check_not_downcast
from diffjax.regions import global_descriptors, l2_normalize
from diffjax.types import Scalar

from ._baselines import r_match
from ._validation import check_not_negative, check_scorer_arguments

_ROWS_PER_BATCH = 64


def average_query_expansion(
    vectors: Float[Array, "n d"],
    image_ids: Int[Array | np.ndarray, " n"],
    queries: Float[Array, "r d"],
    query_ids: Int[Array | np.ndarray, " r"],
    *,
    num_images: int | None = None,
    num_queries: int | None = None,
    k: int = 10,
) -> Float[Array, "m q"]:
    r"""Scores images by the mean of the query and its k best answers (AQE).

    g(X)'v / |v| with v = g(Q) + sum of g(X_i) over the k images X_i nearest to Q; g is
    the global descriptor of `nearest_neighbors`. All answers have the same weight, also
    those of negative similarity, and the query is expanded once.

    Args:
        vectors: Region vectors of the database, unit length.
        image_ids: Image of every region, from 0 upwards.
        queries: Region vectors of the queries.
        query_ids: Query of every row of `queries`, from 0 upwards.
        num_images: Number of images m; needed where `image_ids` is traced.
        num_queries: Number of queries q; needed where `query_ids` is traced.
        k: Number of answers that are added, ties by lower index; 0 adds none, and with
            fewer images all are added. A Python number.

    Returns:
        Image scores in [-1, 1], one column per query. An image whose descriptor is
        zero, as without regions, is never an answer and scores 0; a query whose
        descriptor is zero has no answers, and all its scores are 0.

    Raises:
        ValueError: If ids decrease or skip a number, dimensions differ, a count is
            missing under jit or too small, or `k` is below 0.

    References:
        Chum et al., Total recall: automatic query expansion with a generative feature
        model for object retrieval, ICCV 2007 (average query expansion). The paper was
        not available; this is its common interpretation for global descriptors, without
        the spatial verification that chooses the answers in the paper.
    """
    return alpha_query_expansion(
        vectors,
        image_ids,
        queries,
        query_ids,
        num_images=num_images,
        num_queries=num_queries,
        k=k,
        power=0.0,
    )


def alpha_query_expansion(
    vectors: Float[Array, "n d"],
    image_ids: Int[Array | np.ndarray, " n"],
    queries: Float[Array, "r d"],
    query_ids: Int[Array | np.ndarray, " r"],
    *,
    num_images: int | None = None,
    num_queries: int | None = None,
    k: int = 50,
    power: Scalar = 3.0,
) -> Float[Array, "m q"]:
    r"""Scores images by the query and its k best answers, weighted by similarity.

    g(X)'v / |v| with v = g(Q) + sum of max(s_i, 0)^power g(X_i) over the k images X_i
    nearest to Q, s_i = g(X_i)'g(Q) (alpha-QE; alpha is called `power`). With power 0
    every weight is 1, also that of a negative similarity, as in
    `average_query_expansion`.

    Args:
        vectors: Region vectors of the database, unit length.
        image_ids: Image of every region, from 0 upwards.
        queries: Region vectors of the queries.
        query_ids: Query of every row of `queries`, from 0 upwards.
        num_images: Number of images m; needed where `image_ids` is traced.
        num_queries: Number of queries q; needed where `query_ids` is traced.
        k: Number of answers that are added, ties by lower index; 0 adds none, and with
            fewer images all are added. A Python number.
        power: Exponent of the weights, at least 0; may be traced and differentiated.

    Returns:
        Image scores as of `average_query_expansion`. Differentiable in the vectors and
        in `power`; which images are the answers is a discrete choice.

    Raises:
        ValueError: As in `average_query_expansion`, or if `power` is negative.

    References:
        Radenovic, Tolias and Chum, Fine-tuning CNN image retrieval with no human
        annotation, TPAMI 2018, https://arxiv.org/abs/1711.02512 (alpha-weighted query
        expansion). The text was not available; this is its common interpretation, in
        which the query itself, being of similarity 1, has the weight 1.
    """
    check_not_negative("k", k)
    check_in_range("power", power, low=0, high=np.inf, closed_low=True)
    counts = check_scorer_arguments(
        vectors,
        image_ids,
        queries,
        query_ids,
        num_images=num_images,
        num_queries=num_queries,
    )
    return _alpha_query_expansion(
        vectors,
        jnp.asarray(image_ids),
        queries,
        jnp.asarray(query_ids),
        power,
        k=min(k, counts["num_images"]),
        **counts,
    )


@functools.partial(jax.jit, static_argnames=("num_images", "num_queries", "k"))
def _alpha_query_expansion(
    vectors, image_ids, queries, query_ids, power, *, num_images, num_queries, k
):
    database = global_descriptors(vectors, image_ids, num_images=num_images)
    descriptors = global_descriptors(queries, query_ids, num_images=num_queries)
    not_in_database = jnp.full(num_queries, -1, jnp.int32)
    expanded = add_nearest_descriptors(
        descriptors, database, not_in_database, power, k=k
    )
    return jnp.matmul(database, expanded.T, precision=jax.lax.Precision.HIGHEST)


def add_nearest_descriptors(
    rows: Float[Array, "r d"],
    database: Float[Array, "m d"],
    self_indices: Int[Array, " r"],
    power: Scalar,
    *,
    k: int,
) -> Float[Array, "r d"]:
    """Adds to every row its k nearest in the database, and scales to unit length.

    Rows are expanded in batches, so memory is m + k d times the rows of a batch, also
    for gradients.

    Args:
        rows: Vectors of unit length; a zero row is not changed.
        database: Vectors of unit length; a zero vector is never near a row.
        self_indices: Position of each row in the database, so that it is not added a
            second time; -1 if it is not in the database.
        power: Exponent of the weights max(s, 0)^power, with 0^0 = 1.
        k: Number of added vectors, 0 to m; all others if there are fewer.
    """
    has_direction = jnp.any(database != 0, axis=1)
    numbers = jnp.arange(database.shape[0], dtype=self_indices.dtype)
    exponent = jnp.asarray(power, rows.dtype)

    @jax.checkpoint  # Else a gradient would keep the neighbours of all rows, r k d.
    def expand_row(row_and_index: tuple[Array, Array]) -> Float[Array, " d"]:
        row, self_index = row_and_index
        products = jnp.matmul(database, row, precision=jax.lax.Precision.HIGHEST)
        is_candidate = has_direction & (numbers != self_index)
        similarities, nearest = jax.lax.top_k(
            jnp.where(is_candidate, products, -jnp.inf), k
        )
        # Empty slots have no weight, and nothing is near a row without direction.
        is_neighbor = (similarities > -jnp.inf) & jnp.any(row != 0)
        weights = jnp.where(is_neighbor, _similarity_weights(similarities, exponent), 0)
        return row + jnp.matmul(
            weights, database[nearest], precision=jax.lax.Precision.HIGHEST
        )

    return l2_normalize(
        jax.lax.map(expand_row, (rows, self_indices), batch_size=_ROWS_PER_BATCH)
    )


def _similarity_weights(
    similarities: Float[Array, " k"], exponent: Float[Array, ""]
) -> Float[Array, " k"]:
    """Computes max(s, 0)^exponent, with derivative 0 in s and exponent at s <= 0."""
    is_positive = similarities > 0
    base = jnp.where(is_positive, similarities, jnp.ones_like(similarities))
    zero_to_the_exponent = (exponent == 0).astype(similarities.dtype)
    return jnp.where(is_positive, base**exponent, zero_to_the_exponent)


def r_match_expansion(
    vectors: Float[Array, "n d"],
    image_ids: Int[Array | np.ndarray, " n"],
    queries: Float[Array, "r d"],
    query_ids: Int[Array | np.ndarray, " r"],
    *,
    num_images: int | None = None,
    num_queries: int | None = None,
    k: int = 10,
) -> Float[Array, "m q"]:
    r"""Scores images by R-match, after expansion of each query region.

    With X_1, ..., X_k the best images of Q by `r_match`, a query region z becomes
    v / |v|, v = z + sum over i of the x in X_i of largest x'z; the images are scored by
    R-match with the expanded regions. So each region adds its own matches, in images
    that are chosen by all regions together.

    Args:
        vectors: Region vectors of the database, unit length.
        image_ids: Image of every region, from 0 upwards.
        queries: Region vectors of the queries, unit length. One that is zero is not
            expanded.
        query_ids: Query of every row of `queries`, from 0 upwards.
        num_images: Number of images m; needed where `image_ids` is traced.
        num_queries: Number of queries q; needed where `query_ids` is traced.
        k: Number of images whose matches are added, ties of images and of regions by
            lower index; 0 adds none, and with fewer images all are used. A Python
            number.

    Returns:
        Image scores, one column per query; -inf for an image without regions, which is
        never among the k.

    Raises:
        ValueError: If ids decrease or skip a number, dimensions differ, a count is
            missing under jit or too small, or `k` is below 0.

    References:
        Iscen et al., CVPR 2017, section 5.4, https://arxiv.org/abs/1611.05113, extend
        average query expansion (Chum et al., ICCV 2007) to regions in words only; the
        formula is our interpretation.
    """
    check_not_negative("k", k)
    counts = check_scorer_arguments(
        vectors,
        image_ids,
        queries,
        query_ids,
        num_images=num_images,
        num_queries=num_queries,
    )
    image_ids, query_ids = jnp.asarray(image_ids), jnp.asarray(query_ids)
    scores = r_match(vectors, image_ids, queries, query_ids, **counts)
    if 0 in (vectors.shape[0], queries.shape[0]):
        return scores  # There are no regions to expand, or none to add.
    k = min(k, counts["num_images"])
    expanded = _expand_regions(vectors, image_ids, queries, query_ids, scores, k=k)
    return r_match(vectors, image_ids, expanded, query_ids, **counts)


@functools.partial(jax.jit, static_argnames="k")
def _expand_regions(
    vectors: Float[Array, "n d"],
    image_ids: Int[Array, " n"],
    queries: Float[Array, "r d"],
    query_ids: Int[Array, " r"],
    scores: Float[Array, "m q"],
    *,
    k: int,
) -> Float[Array, "r d"]:
    """Adds to every region its best matches in the k best images of its query."""
    num_regions, num_images = vectors.shape[0], scores.shape[0]
    best_scores, best_images = jax.lax.top_k(scores.T, k)
    numbers = jnp.arange(num_regions, dtype=jnp.int32)
    min_per_image = functools.partial(
        jax.ops.segment_min, num_segments=num_images, indices_are_sorted=True
    )

    @jax.checkpoint  # Else a gradient would keep the matches of all regions, r k d.
    def expand_region(region_and_query: tuple[Array, Array]) -> Float[Array, " d"]:
        region, query = region_and_query
        # Which region matches is a discrete choice: no gradient passes through it.
        distances = jax.lax.stop_gradient(
            -jnp.matmul(vectors, region, precision=jax.lax.Precision.HIGHEST)
        )
        smallest = min_per_image(distances, image_ids)
        first_match = min_per_image(
            jnp.where(distances == smallest[image_ids], numbers, num_regions), image_ids
        )
        # An image without regions scores -inf, and a zero region matches nothing.
        has_match = (best_scores[query] > -jnp.inf) & jnp.any(region != 0)
        matches = vectors[jnp.where(has_match, first_match[best_images[query]], 0)]
        return region + jnp.where(has_match[:, None], matches, 0).sum(0)

    return l2_normalize(jax.lax.map(expand_region, (queries, query_ids), batch_size=16))


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
    r"""Scores images by the mean of each image and its nearest images (DBA).

    v(X)'g(Q), where v(X) is `augment_descriptors` of the global descriptors g of
    `nearest_neighbors`. The query is not changed. Every call computes the augmented
    database, which compares all images with one another: for many calls, keep the
    result of `augment_descriptors` and use `nearest_neighbors` with one vector per
    image.

    Args:
        vectors: Region vectors of the database, unit length.
        image_ids: Image of every region, from 0 upwards.
        queries: Region vectors of the queries.
        query_ids: Query of every row of `queries`, from 0 upwards.
        num_images: Number of images m; needed where `image_ids` is traced.
        num_queries: Number of queries q; needed where `query_ids` is traced.
        k: Number of other images that are added, ties by lower index; 0 adds none, and
            with fewer images all others are added. A Python number.
        power: Exponent of their weights, at least 0; may be traced and differentiated.

    Returns:
        Image scores in [-1, 1], one column per query; 0 for an image or a query whose
        descriptor is zero, as without regions. Differentiable in the vectors and in
        `power`.

    Raises:
        ValueError: If ids decrease or skip a number, dimensions differ, a count is
            missing under jit or too small, or `k` or `power` is negative.

    References:
        As of `augment_descriptors`.
    """
    counts = check_scorer_arguments(
        vectors,
        image_ids,
        queries,
        query_ids,
        num_images=num_images,
        num_queries=num_queries,
    )
    _check_augmentation_settings(k, power)
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
    g_j; with power 0 every weight is 1. Images are compared with all others in batches,
    in memory of m + k d times the images of a batch.

    Args:
        descriptors: One vector per image, of unit length, or zero: such an image is not
            changed and is a neighbour of no image.
        k: Number of neighbours that are added, the image itself not among them, ties by
            lower index; 0 adds none, and with fewer images all others are added. A
            Python number.
        power: Exponent of the weights, at least 0; may be traced and differentiated.

    Returns:
        One vector of unit length, or zeros, per image.

    Raises:
        ValueError: If `k` or `power` is negative, or descriptors are float64 without
            `jax_enable_x64`.

    References:
        Turcot and Lowe, Better matching with fewer features, ICCV workshops 2009, and
        Arandjelovic and Zisserman, Three things everyone should know to improve object
        retrieval, CVPR 2012, for the idea, on sets of local features; Gordo et al.,
        End-to-end learning of deep visual representations for image retrieval, IJCV
        2017, https://arxiv.org/abs/1610.07940, for vectors. The papers were not
        available. Weights are powers of the similarity, as in the program of the last
        authors' laboratory; other programs use the neighbour's rank.
    """
    check_not_downcast("descriptors", descriptors)
    _check_augmentation_settings(k, power)
    return _augment_descriptors(descriptors, power, k=min(k, descriptors.shape[0]))


def _check_augmentation_settings(k, power):
    check_not_negative("k", k)
    check_in_range("power", power, low=0, high=np.inf, closed_low=True)


@functools.partial(jax.jit, static_argnames="k")
def _augment_descriptors(descriptors, power, *, k):
    self_indices = jnp.arange(descriptors.shape[0], dtype=jnp.int32)
    return add_nearest_descriptors(descriptors, descriptors, self_indices, power, k=k)


@functools.partial(jax.jit, static_argnames=("num_images", "num_queries", "k"))
def _database_augmentation(
    vectors, image_ids, queries, query_ids, power, *, num_images, num_queries, k
):
    database = global_descriptors(vectors, image_ids, num_images=num_images)
    augmented = _augment_descriptors(database, power, k=k)
    query_descriptors = global_descriptors(queries, query_ids, num_images=num_queries)
    return jnp.matmul(
        augmented, query_descriptors.T, precision=jax.lax.Precision.HIGHEST
    )
