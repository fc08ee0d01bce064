"""Query expansion region by region, by the best matches in the best images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax.regions import l2_normalize

from ._baselines import r_match
from ._checks import check_count, check_regions


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
    check_count("k", k)
    counts = check_regions(
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
    expanded = _expand(vectors, image_ids, queries, query_ids, scores, k=few)
    return r_match(vectors, image_ids, expanded, query_ids, **counts)


@functools.partial(jax.jit, static_argnames="k")
def _expand(
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
