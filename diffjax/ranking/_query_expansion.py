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

_ROWS_AT_ONCE = 64


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
    the global descriptor of `nearest_neighbors`. All answers count alike, also those of
    negative similarity, and they are asked for once.

    Args:
        vectors: Region vectors of the database, unit length.
        image_ids: Image of every region, from 0 upwards.
        queries: Region vectors of the queries.
        query_ids: Query of every row of `queries`, from 0 upwards.
        num_images: Number of images m; needed where `image_ids` is traced.
        num_queries: Number of queries q; needed where `query_ids` is traced.
        k: Answers that are taken in, ties by lower index; 0 for none, all images where
            there are fewer. A Python number.

    Returns:
        Image scores in [-1, 1], one column per query. An image whose descriptor is
        zero, as without regions, is nobody's answer and scores 0; a query whose
        descriptor is zero has no answers, and all its scores are 0.

    Raises:
        ValueError: If ids go back or skip a number, dimensions differ, a count is
            missing under jit or too small, or `k` is below 0.

    References:
        Chum et al., Total recall: automatic query expansion with a generative feature
        model for object retrieval, ICCV 2007 (average query expansion). The paper was
        not at hand; built is its common reading for global descriptors, without the
        spatial verification that chooses the answers there.
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
    nearest to Q, s_i = g(X_i)'g(Q) (alpha-QE; alpha is `power` here). With power 0
    every weight is 1, that of a negative similarity as well, and this is
    `average_query_expansion`.

    Args:
        vectors: Region vectors of the database, unit length.
        image_ids: Image of every region, from 0 upwards.
        queries: Region vectors of the queries.
        query_ids: Query of every row of `queries`, from 0 upwards.
        num_images: Number of images m; needed where `image_ids` is traced.
        num_queries: Number of queries q; needed where `query_ids` is traced.
        k: Answers that are taken in, ties by lower index; 0 for none, all images where
            there are fewer. A Python number.
        power: Exponent of the weights, at least 0; may be traced and differentiated.

    Returns:
        Image scores as of `average_query_expansion`. Differentiable in the vectors and
        in `power`; which images are the answers is a discrete choice.

    Raises:
        ValueError: As in `average_query_expansion`, or if `power` is negative.

    References:
        Radenovic, Tolias and Chum, Fine-tuning CNN image retrieval with no human
        annotation, TPAMI 2018, https://arxiv.org/abs/1711.02512 (alpha-weighted query
        expansion). The text was not at hand; built is its common reading, in which the
        query itself, being of similarity 1, has the weight 1.
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
    wanted = global_descriptors(queries, query_ids, num_images=num_queries)
    nowhere = jnp.full(num_queries, -1, jnp.int32)
    expanded = add_nearest_descriptors(wanted, database, nowhere, power, k=k)
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

    A few rows at a time, so memory is that many times m + k d, also for gradients.

    Args:
        rows: Unit length, or zero: such a row stays as it is.
        database: Unit length, or zero: such a vector is not near anything.
        self_indices: Where in the database each row stands itself, so that it is not
            added a second time; -1 for nowhere.
        power: Exponent of the weights max(s, 0)^power, with 0^0 = 1.
        k: How many are added, 0 to m; all others if there are fewer.
    """
    real = jnp.any(database != 0, axis=1)
    numbers = jnp.arange(database.shape[0], dtype=self_indices.dtype)
    exponent = jnp.asarray(power, rows.dtype)

    @jax.checkpoint  # Else a gradient would keep the neighbours of all rows, r k d.
    def add(row_and_place: tuple[Array, Array]) -> Float[Array, " d"]:
        row, place = row_and_place
        products = jnp.matmul(database, row, precision=jax.lax.Precision.HIGHEST)
        others = jnp.where(real & (numbers != place), products, -jnp.inf)
        similarities, nearest = jax.lax.top_k(others, k)
        # What is not there has no weight, and nothing is near a row without direction.
        counts = (similarities > -jnp.inf) & jnp.any(row != 0)
        weights = jnp.where(counts, _similarity_weights(similarities, exponent), 0)
        return row + jnp.matmul(
            weights, database[nearest], precision=jax.lax.Precision.HIGHEST
        )

    return l2_normalize(
        jax.lax.map(add, (rows, self_indices), batch_size=_ROWS_AT_ONCE)
    )


def _similarity_weights(
    similarities: Float[Array, " k"], exponent: Float[Array, ""]
) -> Float[Array, " k"]:
    """Computes max(s, 0)^exponent, with derivative 0 in s and exponent at s <= 0."""
    positive = similarities > 0
    base = jnp.where(positive, similarities, jnp.ones_like(similarities))
    at_zero = (exponent == 0).astype(similarities.dtype)
    return jnp.where(positive, base**exponent, at_zero)


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
    r"""Scores images by R-match, expands each query region, and scores them again.

    With X_1, ..., X_k the best images of Q by `r_match`, a query region z becomes
    v / |v|, v = z + sum over i of the x in X_i of largest x'z; R-match again with
    these. So each region looks for its own match in images that all regions chose.

    Args:
        vectors: Region vectors of the database, unit length.
        image_ids: Image of every region, from 0 upwards.
        queries: Region vectors of the queries, unit length. One that is zero is not
            expanded.
        query_ids: Query of every row of `queries`, from 0 upwards.
        num_images: Number of images m; needed where `image_ids` is traced.
        num_queries: Number of queries q; needed where `query_ids` is traced.
        k: Images whose matches are taken in, ties of images and of regions by lower
            index; 0 for none, all images where there are fewer. A Python number.

    Returns:
        Image scores, one column per query; -inf for an image without regions, which is
        never among the k.

    Raises:
        ValueError: If ids go back or skip a number, dimensions differ, a count is
            missing under jit or too small, or `k` is below 0.

    References:
        Iscen et al., CVPR 2017, section 5.4, https://arxiv.org/abs/1611.05113, extend
        average query expansion (Chum et al., ICCV 2007) to regions in words only; the
        formula is our reading of them.
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
        return scores  # Nothing to expand, or nothing to expand it by.
    few = min(k, counts["num_images"])
    expanded = _expand_regions(vectors, image_ids, queries, query_ids, scores, k=few)
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
    """Adds its best matches in the k best images of its query to every region."""
    num_regions, num_images = vectors.shape[0], scores.shape[0]
    best, images = jax.lax.top_k(scores.T, k)
    numbers = jnp.arange(num_regions, dtype=jnp.int32)
    in_order = functools.partial(
        jax.ops.segment_min, num_segments=num_images, indices_are_sorted=True
    )

    @jax.checkpoint  # Else a gradient would keep the matches of all regions, r k d.
    def add(region_and_query: tuple[Array, Array]) -> Float[Array, " d"]:
        region, query = region_and_query
        # Which region matches is a discrete choice: no gradient passes through it.
        products = jax.lax.stop_gradient(
            jnp.matmul(vectors, region, precision=jax.lax.Precision.HIGHEST)
        )
        least = in_order(-products, image_ids)
        first = in_order(
            jnp.where(-products == least[image_ids], numbers, num_regions), image_ids
        )
        # An image without regions scores -inf, and a zero region matches nothing.
        counts = (best[query] > -jnp.inf) & jnp.any(region != 0)
        matches = vectors[jnp.where(counts, first[images[query]], 0)]
        return region + jnp.where(counts[:, None], matches, 0).sum(0)

    return l2_normalize(jax.lax.map(add, (queries, query_ids), batch_size=16))


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
    check_not_downcast("descriptors", descriptors)
    _check_augmentation_settings(k, power)
    return _augment_descriptors(descriptors, power, k=min(k, descriptors.shape[0]))


def _check_augmentation_settings(k, power):
    check_not_negative("k", k)
    check_in_range("power", power, low=0, high=np.inf, closed_low=True)


@functools.partial(jax.jit, static_argnames="k")
def _augment_descriptors(descriptors, power, *, k):
    own = jnp.arange(descriptors.shape[0], dtype=jnp.int32)
    return add_nearest_descriptors(descriptors, descriptors, own, power, k=k)


@functools.partial(jax.jit, static_argnames=("num_images", "num_queries", "k"))
def _database_augmentation(
    vectors, image_ids, queries, query_ids, power, *, num_images, num_queries, k
):
    database = global_descriptors(vectors, image_ids, num_images=num_images)
    augmented = _augment_descriptors(database, power, k=k)
    wanted = global_descriptors(queries, query_ids, num_images=num_queries)
    return jnp.matmul(augmented, wanted.T, precision=jax.lax.Precision.HIGHEST)
