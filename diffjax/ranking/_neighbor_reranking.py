"""Re-ranking by the query's neighbours: Hello neighbor and SCSM's k-NN re-ranking."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from diffjax.graph import knn_dense
from diffjax.regions import global_descriptors

from ._validation import check_scorer_arguments

# What close images are lifted by: above the difference of any two inner products.
_CLOSE_SET_BONUS = 3
# Images, and queries, that are looked at together.
_BLOCK_IMAGES, _BLOCK_QUERIES = 256, 16


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
    r"""Scores images by whether they are close to the query, then by the close ones.

    With N(x) the k nearest other images of x and R(x) those of them that have x among
    theirs, both in the database alone, which needs no query:

        R(q) = {x in N(q): x'q >= similarity of x to the last of N(x)},
        C    = R(q) and every R(x), x in R(q), with |R(x) and R(q)| >= |R(x)| / 2,

    where vectors are global descriptors. An image of the close set C scores 3 + x'q,
    any other the mean of its similarities to q and to the images of C. So the close
    ones come first, by similarity to the query. The set grows once, not until nothing
    changes; an image does not count in its own R(x). k 0 is k-NN.

    The choice of C is discrete; given C the scores are differentiable.

    Args:
        vectors: Region vectors of the database, unit length.
        image_ids: Image of every region, from 0 upwards.
        queries: Region vectors of the queries.
        query_ids: Query of every row of `queries`, from 0 upwards.
        num_images: Number of images m; needed where `image_ids` is traced.
        num_queries: Number of queries q; needed where `query_ids` is traced.
        k: Neighbours, at least 0. Where there are fewer images all are neighbours. A
            Python number. The default is not the paper's.

    Returns:
        Image scores, one column per query: in [2, 4] for close images, in [-1, 1] for
        others; 0 for an image, and for all images of a query, without regions.

    Raises:
        ValueError: If ids go back or skip a number, dimensions differ, a count is
            missing under jit or too small, or `k` is below 0.

    References:
        Qin, Gammeter, Bossard, Quack and Van Gool, Hello neighbor: accurate object
        retrieval with k-reciprocal nearest neighbors, CVPR 2011. Only its abstract was
        at hand: that parts of the list are ordered by different similarities, and that
        most of the work is done offline. The rest is the reading above.
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
    wanted = global_descriptors(queries, query_ids, num_images=num_queries)
    if num_images == 0:
        return jnp.zeros((0, num_queries), database.dtype)
    has_regions = jnp.any(database != 0, axis=1)
    others, least = _nearest_other_images(database, has_regions, k=k)
    reciprocal = _reciprocal_mask(others)
    times = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    def score(query):
        similar = times(database, query)
        asked = jnp.any(query != 0)
        # Images without regions are nobody's neighbours.
        near = jax.lax.top_k(
            jnp.where(has_regions, similar, -jnp.inf), min(k, num_images)
        )[1]
        mutual = has_regions[near] & (similar[near] >= least[near]) & asked
        first = jnp.zeros(num_images, jnp.bool_).at[near].set(mutual)
        close = _add_reciprocal_sets(first, near, mutual, others, reciprocal)
        # The mean of similarities is the similarity to the mean.
        members = jnp.sum(close, dtype=similar.dtype)
        total = query + times(close.astype(similar.dtype), database)
        mean = times(database, total / (1 + members))
        return jnp.where(close, _CLOSE_SET_BONUS + similar, mean)

    batch = min(_BLOCK_QUERIES, max(num_queries, 1))
    return jax.lax.map(score, wanted, batch_size=batch).T


def _nearest_other_images(
    database: Float[Array, "m d"], has_regions: Bool[Array, " m"], *, k: int
) -> tuple[Int[Array, "m k"], Float[Array, " m"]]:
    """The k nearest other images, -1 in empty slots, and the last one's similarity.

    It is -inf where there are fewer than k, since whatever comes is then among them.
    """
    m = database.shape[0]
    width = min(k, max(m - 1, 0))
    if width == 0:
        return jnp.zeros((m, 0), jnp.int32), jnp.full(m, -jnp.inf, database.dtype)
    found = knn_dense(database, width + 1, where=has_regions)
    # The image itself goes last, wherever it is among its duplicates: a stable sort.
    own = found.indices == jnp.arange(m, dtype=found.indices.dtype)[:, None]
    order = jnp.argsort(own, axis=1, stable=True)[:, :width]
    others = jnp.take_along_axis(found.indices, order, axis=1)
    last = jnp.take_along_axis(found.similarities, order[:, -1:], axis=1)[:, 0]
    full = (others[:, -1] >= 0) & (width == k)
    return others, jnp.where(full, last, jnp.full_like(last, -jnp.inf))


def _reciprocal_mask(others: Int[Array, "m k"]) -> Bool[Array, "m k"]:
    """Which neighbours have the image among theirs; [block, k, k] at a time."""

    def look(node):
        near = others[node]
        return jnp.any(others[near] == node, axis=1) & (near >= 0)

    if others.size == 0:
        return jnp.zeros(others.shape, jnp.bool_)
    nodes = jnp.arange(others.shape[0], dtype=others.dtype)
    return jax.lax.map(look, nodes, batch_size=min(_BLOCK_IMAGES, len(nodes)))


def _add_reciprocal_sets(
    first: Bool[Array, " m"],
    near: Int[Array, " j"],
    mutual: Bool[Array, " j"],
    others: Int[Array, "m k"],
    reciprocal: Bool[Array, "m k"],
) -> Bool[Array, " m"]:
    """Adds the reciprocal sets of the members of a set that lie in it by half."""
    sets, valid = others[near], reciprocal[near]
    shared = jnp.sum(first[sets] & valid, axis=1)
    added = valid & (mutual & (2 * shared >= jnp.sum(valid, axis=1)))[:, None]
    return first.at[jnp.where(added, sets, first.shape[0])].set(True, mode="drop")


# Ranks that are held at a time: 64 MiB in single precision.
_MAX_RANKS_HELD = 2**24


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

    batch = max(_MAX_RANKS_HELD // max(num_images * (k + 1), 1), 1)
    batch = min(batch, max(num_queries, 1))
    return jax.lax.map(score, wanted, batch_size=batch).T
