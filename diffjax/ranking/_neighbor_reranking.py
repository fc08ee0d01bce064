"""Re-ranking by the query's neighbours: Hello neighbor and SCSM's k-NN re-ranking."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from diffjax.graph import knn_dense
from diffjax.regions import global_descriptors

from ._validation import check_scorer_arguments

# Added to the scores of close images: above the difference of any two inner products.
_CLOSE_SET_BONUS = 3
# Images, and queries, of a batch.
_BLOCK_IMAGES, _BLOCK_QUERIES = 256, 16
# Ranks in memory at a time: 64 MiB in single precision.
_MAX_RANKS_HELD = 2**24


def hello_neighbor(
    vectors: Float[Array, "n d"],
    image_ids: Int[Array | np.ndarray, " n"],
    queries: Float[Array, "r d"],
    query_ids: Int[Array | np.ndarray, " r"],
    *,
    num_images: int | None = None,
    num_queries: int | None = None,
    k: int = 10,
) -> Float[Array, "m q"]:
    r"""Scores images by Hello neighbor: the close set of the query, then the others.

    With N(x) the k nearest other images of x and R(x) the images of N(x) that have x
    among their own k nearest, both in the database without the query:

        R(q) = {x in N(q): x'q >= similarity of x to the last of N(x)},
        C    = R(q) and every R(x), x in R(q), with |R(x) and R(q)| >= |R(x)| / 2,

    where vectors are global descriptors. An image of the close set C scores 3 + x'q,
    any other image the mean of its similarities to q and to the images of C. So close
    images rank first, by similarity to the query. The set is expanded once, not until
    convergence; an image is not in its own R(x). k 0 is k-NN.

    The choice of C is discrete; given C the scores are differentiable.

    Args:
        vectors: Region vectors of the database, unit length.
        image_ids: Image of every region, from 0 upwards.
        queries: Region vectors of the queries.
        query_ids: Query of every row of `queries`, from 0 upwards.
        num_images: Number of images m; needed where `image_ids` is traced.
        num_queries: Number of queries q; needed where `query_ids` is traced.
        k: Number of neighbours, at least 0; with fewer images all are neighbours. A
            Python number. The default is not the paper's.

    Returns:
        Image scores, one column per query: in [2, 4] for close images, in [-1, 1] for
        others; 0 for an image, and for all images of a query, without regions.

    Raises:
        ValueError: If ids decrease or skip a number, dimensions differ, a count is
            missing under jit or too small, or `k` is below 0.

    References:
        Qin, Gammeter, Bossard, Quack and Van Gool, Hello neighbor: accurate object
        retrieval with k-reciprocal nearest neighbors, CVPR 2011. Only its abstract was
        available: parts of the list are ordered by different similarities, and most of
        the work is done offline. The formulas are our interpretation.
    """
    counts = check_scorer_arguments(
        vectors,
        image_ids,
        queries,
        query_ids,
        num_images=num_images,
        num_queries=num_queries,
    )
    if k < 0:
        raise ValueError(f"k must be at least 0, got {k}.")
    return _hello_neighbor(
        vectors, jnp.asarray(image_ids), queries, jnp.asarray(query_ids), k=k, **counts
    )


@functools.partial(jax.jit, static_argnames=("num_images", "num_queries", "k"))
def _hello_neighbor(
    vectors, image_ids, queries, query_ids, *, num_images, num_queries, k
):
    database = global_descriptors(vectors, image_ids, num_images=num_images)
    query_descriptors = global_descriptors(queries, query_ids, num_images=num_queries)
    if num_images == 0:
        return jnp.zeros((0, num_queries), database.dtype)
    has_regions = jnp.any(database != 0, axis=1)
    neighbors, min_similarities = _nearest_other_images(database, has_regions, k=k)
    is_reciprocal = _reciprocal_mask(neighbors)
    matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    def score_query(query):
        similarities = matmul(database, query)
        query_has_regions = jnp.any(query != 0)
        # Images without regions are neighbours of no image.
        nearest = jax.lax.top_k(
            jnp.where(has_regions, similarities, -jnp.inf), min(k, num_images)
        )[1]
        is_mutual = (
            has_regions[nearest]
            & (similarities[nearest] >= min_similarities[nearest])
            & query_has_regions
        )
        mutual_set = jnp.zeros(num_images, jnp.bool_).at[nearest].set(is_mutual)
        close_set = _add_reciprocal_sets(
            mutual_set, nearest, is_mutual, neighbors, is_reciprocal
        )
        # The mean of similarities is the similarity to the mean.
        size = jnp.sum(close_set, dtype=similarities.dtype)
        total = query + matmul(close_set.astype(similarities.dtype), database)
        mean_similarities = matmul(database, total / (1 + size))
        return jnp.where(close_set, _CLOSE_SET_BONUS + similarities, mean_similarities)

    batch = min(_BLOCK_QUERIES, max(num_queries, 1))
    return jax.lax.map(score_query, query_descriptors, batch_size=batch).T


def _nearest_other_images(
    database: Float[Array, "m d"], has_regions: Bool[Array, " m"], *, k: int
) -> tuple[Int[Array, "m k"], Float[Array, " m"]]:
    """Finds the k nearest other images, and the similarity of the last of them.

    Empty slots are -1. The similarity is -inf where there are fewer than k: any query
    would then be among the k nearest.
    """
    m = database.shape[0]
    width = min(k, max(m - 1, 0))
    if width == 0:
        return jnp.zeros((m, 0), jnp.int32), jnp.full(m, -jnp.inf, database.dtype)
    nearest = knn_dense(database, width + 1, where=has_regions)
    # The image itself is moved to the end, also among its duplicates: a stable sort.
    is_self = nearest.indices == jnp.arange(m, dtype=nearest.indices.dtype)[:, None]
    order = jnp.argsort(is_self, axis=1, stable=True)[:, :width]
    neighbors = jnp.take_along_axis(nearest.indices, order, axis=1)
    last = jnp.take_along_axis(nearest.similarities, order[:, -1:], axis=1)[:, 0]
    is_full = (neighbors[:, -1] >= 0) & (width == k)
    return neighbors, jnp.where(is_full, last, jnp.full_like(last, -jnp.inf))


def _reciprocal_mask(neighbors: Int[Array, "m k"]) -> Bool[Array, "m k"]:
    """Whether each neighbour has the image among its own; [block, k, k] at a time."""

    def is_reciprocal(image):
        nearest = neighbors[image]
        return jnp.any(neighbors[nearest] == image, axis=1) & (nearest >= 0)

    if neighbors.size == 0:
        return jnp.zeros(neighbors.shape, jnp.bool_)
    images = jnp.arange(neighbors.shape[0], dtype=neighbors.dtype)
    batch = min(_BLOCK_IMAGES, len(images))
    return jax.lax.map(is_reciprocal, images, batch_size=batch)


def _add_reciprocal_sets(
    mutual_set: Bool[Array, " m"],
    nearest: Int[Array, " j"],
    is_mutual: Bool[Array, " j"],
    neighbors: Int[Array, "m k"],
    is_reciprocal: Bool[Array, "m k"],
) -> Bool[Array, " m"]:
    """Adds the members' reciprocal sets of which at least half is in the set."""
    sets, is_member = neighbors[nearest], is_reciprocal[nearest]
    num_shared = jnp.sum(mutual_set[sets] & is_member, axis=1)
    has_half = is_mutual & (2 * num_shared >= jnp.sum(is_member, axis=1))
    added = jnp.where(is_member & has_half[:, None], sets, mutual_set.shape[0])
    return mutual_set.at[added].set(True, mode="drop")


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
    r"""Scores images by SCSM's k-NN re-ranking: ranks for the query and its neighbours.

    score(x) = 1 / R(q, x) + sum_{i=1..k} 1 / (i + 1) 1 / R(N_i, x)

    R(a, x) is the rank of image x, from 1, when all images are ordered by the inner
    product of global descriptors with a, ties by lower index; N_i is the i-th image in
    the order of the query. N_i ranks itself like any other image, so mostly first. Only
    the re-ranking of the paper is implemented: its spatially constrained similarity
    needs local features, and is replaced by that of global descriptors. k 0 is k-NN.

    The scores are functions of ranks: constant almost everywhere, so that their
    gradient is 0.

    Args:
        vectors: Region vectors of the database, unit length.
        image_ids: Image of every region, from 0 upwards.
        queries: Region vectors of the queries.
        query_ids: Query of every row of `queries`, from 0 upwards.
        num_images: Number of images m; needed where `image_ids` is traced.
        num_queries: Number of queries q; needed where `query_ids` is traced.
        k: Number of neighbours that rank the images, at least 0; at most m are used. A
            Python number. The default is not the paper's.

    Returns:
        Image scores above 0, one column per query; 0 for an image, and for all images
        of a query, without regions.

    Raises:
        ValueError: If ids decrease or skip a number, dimensions differ, a count is
            missing under jit or too small, or `k` is below 0.

    References:
        Shen, Lin, Brandt, Avidan and Wu, Object retrieval and localization with
        spatially-constrained similarity measure and k-NN re-ranking, CVPR 2012; cited
        without an equation number, as the paper was not available.
    """
    counts = check_scorer_arguments(
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
    query_descriptors = global_descriptors(queries, query_ids, num_images=num_queries)
    if num_images == 0:
        return jnp.zeros((0, num_queries), database.dtype)
    has_regions = jnp.any(database != 0, axis=1)
    weights = 1 / jnp.arange(2, k + 2, dtype=database.dtype)

    def reciprocal_ranks(vector):
        """Reciprocal rank of each image for a vector, and the images by rank."""
        similarities = jnp.matmul(database, vector, precision=jax.lax.Precision.HIGHEST)
        # Images without regions rank after all others.
        order = jnp.argsort(
            -jnp.where(has_regions, similarities, -jnp.inf), stable=True
        )
        reciprocals = 1 / jnp.arange(1, num_images + 1, dtype=similarities.dtype)
        return jnp.zeros_like(similarities).at[order].set(reciprocals), order

    def score_query(query):
        for_query, order = reciprocal_ranks(query)
        nearest = order[:k]
        for_neighbors, _ = jax.vmap(reciprocal_ranks)(database[nearest])
        used_weights = jnp.where(has_regions[nearest], weights, jnp.zeros_like(weights))
        # By sums, not a product of matrices, which would round differently in a batch.
        total = for_query + jnp.sum(used_weights[:, None] * for_neighbors, axis=0)
        is_scored = has_regions & jnp.any(query != 0)
        return jnp.where(is_scored, total, jnp.zeros_like(total))

    batch = max(_MAX_RANKS_HELD // max(num_images * (k + 1), 1), 1)
    batch = min(batch, max(num_queries, 1))
    return jax.lax.map(score_query, query_descriptors, batch_size=batch).T
