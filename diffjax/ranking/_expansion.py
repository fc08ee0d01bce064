"""Query expansion: the best answers of a query become part of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_in_range
from diffjax.regions import global_descriptors, l2_normalize
from diffjax.types import Scalar

from ._checks import check_count, check_regions

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
    check_count("k", k)
    check_in_range("power", power, low=0, high=np.inf, closed_low=True)
    counts = check_regions(
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
    expanded = expand(wanted, database, nowhere, power, k=k)
    return jnp.matmul(database, expanded.T, precision=jax.lax.Precision.HIGHEST)


def expand(
    rows: Float[Array, "r d"],
    database: Float[Array, "m d"],
    places: Int[Array, " r"],
    power: Scalar,
    *,
    k: int,
) -> Float[Array, "r d"]:
    """Adds to every row its k nearest in the database, and scales to unit length.

    A few rows at a time, so memory is that many times m + k d, also for gradients.

    Args:
        rows: Unit length, or zero: such a row stays as it is.
        database: Unit length, or zero: such a vector is not near anything.
        places: Where in the database each row stands itself, so that it is not added
            a second time; -1 for nowhere.
        power: Exponent of the weights max(s, 0)^power, with 0^0 = 1.
        k: How many are added, 0 to m; all others if there are fewer.
    """
    real = jnp.any(database != 0, axis=1)
    numbers = jnp.arange(database.shape[0], dtype=places.dtype)
    exponent = jnp.asarray(power, rows.dtype)

    @jax.checkpoint  # Else a gradient would keep the neighbours of all rows, r k d.
    def add(row_and_place: tuple[Array, Array]) -> Float[Array, " d"]:
        row, place = row_and_place
        products = jnp.matmul(database, row, precision=jax.lax.Precision.HIGHEST)
        others = jnp.where(real & (numbers != place), products, -jnp.inf)
        similarities, nearest = jax.lax.top_k(others, k)
        # What is not there has no weight, and nothing is near a row without direction.
        counts = (similarities > -jnp.inf) & jnp.any(row != 0)
        weights = jnp.where(counts, _weights(similarities, exponent), 0)
        return row + jnp.matmul(
            weights, database[nearest], precision=jax.lax.Precision.HIGHEST
        )

    return l2_normalize(jax.lax.map(add, (rows, places), batch_size=_ROWS_AT_ONCE))


def _weights(
    similarities: Float[Array, " k"], exponent: Float[Array, ""]
) -> Float[Array, " k"]:
    """Computes max(s, 0)^exponent, with derivative 0 in s and exponent at s <= 0."""
    positive = similarities > 0
    base = jnp.where(positive, similarities, jnp.ones_like(similarities))
    at_zero = (exponent == 0).astype(similarities.dtype)
    return jnp.where(positive, base**exponent, at_zero)
