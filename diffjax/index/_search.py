"""The ways to answer: on the whole graph, around queries, on lists, from rows."""

import functools
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax.diffusion import (
    OfflineRows,
    combine_offline_rows,
    densify,
    diffuse,
    diffuse_local,
    query_vectors,
)
from diffjax.graph import ReorderedGraph, normalize, shortlist, truncate
from diffjax.pooling import pool
from diffjax.ranking import fill_outside_by_similarity, fill_outside_with_zeros
from diffjax.regions import global_descriptors
from diffjax.types import Solution

from ._config import IndexConfig, Tail

_TAILS: Mapping[Tail, Callable[[Array, Array, Array], Array]] = MappingProxyType(
    {"global": fill_outside_by_similarity, "zero": fill_outside_with_zeros}
)
# What the small graphs that are solved side by side may take together.
_BYTES_AT_ONCE = 2**28


class Collection(NamedTuple):
    """What of an index a search reads.

    Attributes:
        vectors: Unit region vectors.
        image_ids: Image of every region.
        layout: S with its nodes in their order; A where short lists are cut out of it
            before they are normalised.
        weights: Pooling weight of every region; None is sum pooling.
        descriptors: Global descriptors of the images, for short lists.
        rows: Solutions made beforehand, for offline diffusion.
    """

    vectors: Float[Array, "n p"]
    image_ids: Int[np.ndarray, " n"]
    layout: ReorderedGraph
    weights: Float[Array, " n"] | None
    descriptors: Float[Array, "m p"] | None
    rows: OfflineRows | None


class Scores(NamedTuple):
    """Scores of all images and the diffusion behind them.

    Attributes:
        scores: Image scores, one column per query.
        solution: The diffusion, node by node, 0 on nodes that were left out.
    """

    scores: Float[Array, "m q"]
    solution: Solution


def score_images(
    collection: Collection,
    regions: Float[Array, "r p"],
    query_ids: Int[Array | np.ndarray, " r"],
    *,
    config: IndexConfig,
    num_queries: int,
    num_images: int,
) -> Scores:
    """Scores all images for some queries, in the way that the settings name.

    Args:
        collection: What is searched.
        regions: Query regions, prepared as the database's.
        query_ids: Query of every row.
        config: Settings.
        num_queries: Number of queries q.
        num_images: Number of images m.

    Returns:
        One column of scores per query.
    """
    if collection.descriptors is not None and config.shortlist is not None:
        ids = np.asarray(collection.image_ids)
        starts = collection.layout.graph.starts
        return _score_shortlisted(
            collection._replace(image_ids=jnp.asarray(ids, jnp.int32)),
            regions,
            jnp.asarray(query_ids, jnp.int32),
            config=config,
            num_queries=num_queries,
            max_regions=int(np.bincount(ids).max()),
            max_degree=int(np.diff(np.asarray(starts)).max(initial=0)),
        )
    n = collection.vectors.shape[0]
    k = min(config.query_k, n)
    y = query_vectors(
        collection.vectors,
        regions,
        query_ids,
        k=k,
        gamma=config.exponent_of_queries,
        bias=config.bias,
        rule=config.rule,
        num_queries=num_queries,
    )
    if collection.rows is not None:
        solution = _from_rows(collection.rows, y, k=k, rtol=config.rtol)
    elif config.reach is not None:
        reach = config.reach
        solution = _around(collection.layout, y, k=k, reach=reach, config=config)
    else:
        into, graph = collection.layout.permute(y), collection.layout.graph
        found = diffuse(graph, into, alpha=config.alpha, **_solving(config))
        solution = found._replace(value=collection.layout.unpermute(found.value))
    scores = pool(
        solution.value,
        collection.image_ids,
        weights=collection.weights,
        num_images=num_images,
    )
    return Scores(scores, solution)


def _solving(config):
    return {
        "rtol": config.rtol,
        "max_steps": config.max_steps,
        "solver": config.solver,
        "keep_best": config.keep_best,
    }


def _around(
    layout: ReorderedGraph, y: Array, *, k: int, reach: int, config: IndexConfig
) -> Solution:
    """Diffuses over what each query reaches; other nodes have the background alone."""
    values, nodes = jax.lax.top_k(y.T, k)
    found = diffuse_local(
        layout.graph,
        jnp.where(values > 0, layout.inverse_order[nodes], -1),
        values,
        size=reach,
        alpha=config.alpha,
        rtol=config.rtol,
        max_steps=config.max_steps,
    )
    return Solution(
        value=layout.unpermute(densify(found, layout.graph)),
        residual=found.residual,
        num_steps=found.num_steps,
        converged=found.converged,
    )


@functools.partial(jax.jit, static_argnames=("k", "rtol"))
def _from_rows(rows: OfflineRows, y: Array, *, k: int, rtol: float) -> Solution:
    """Combines rows; the residual is the bound that those of the rows give."""
    size = jnp.linalg.norm(y, axis=0)
    bound = jnp.sum(rows.residual[:, None] * jnp.abs(y), axis=0)
    residual = bound / jnp.maximum(size, jnp.finfo(y.dtype).tiny)
    return Solution(
        value=combine_offline_rows(rows, y, k=k),
        residual=residual,
        num_steps=jnp.zeros(y.shape[1], jnp.int32),
        converged=residual <= rtol,
    )


@functools.partial(
    jax.jit,
    static_argnames=(
        "config",
        "num_queries",
        "max_regions",
        "max_degree",
    ),
)
def _score_shortlisted(
    collection,
    regions,
    query_ids,
    *,
    config,
    num_queries,
    max_regions,
    max_degree,
):
    vectors, ids = collection.vectors, collection.image_ids
    layout: ReorderedGraph = collection.layout
    asked = global_descriptors(regions, query_ids, num_images=num_queries)
    similarity = jnp.matmul(
        collection.descriptors, asked.T, precision=jax.lax.Precision.HIGHEST
    )
    lists = shortlist(similarity, ids, size=config.shortlist, max_regions=max_regions)
    slots = lists.nodes.shape[1]
    y = query_vectors(
        vectors,
        regions,
        query_ids,
        k=min(config.query_k, slots),
        gamma=config.exponent_of_queries,
        bias=config.bias,
        rule=config.rule,
        nodes=lists.nodes,
        num_queries=num_queries,
    )

    def solve(query: tuple[Array, Array]) -> Solution:
        nodes, column = query
        own = jnp.where(
            nodes >= 0, layout.inverse_order[nodes], jnp.full_like(nodes, -1)
        )
        part = truncate(layout.graph, own, max_degree=max_degree)
        part = normalize(part) if config.cut == "early" else part
        found = diffuse(part, column[:, None], alpha=config.alpha, **_solving(config))
        return jax.tree.map(lambda each: each[..., 0], found)

    each = slots * max(max_degree, 1) * (4 + vectors.dtype.itemsize)
    batch = min(max(_BYTES_AT_ONCE // each, 1), num_queries)
    found = jax.lax.map(solve, (lists.nodes, y.T), batch_size=batch)
    weights = jnp.ones_like(ids, vectors.dtype)
    weights = weights if collection.weights is None else collection.weights
    there = lists.nodes >= 0
    weighted = found.value * jnp.where(there, weights[lists.nodes], 0)
    pooled = weighted.reshape(num_queries, config.shortlist, max_regions).sum(2).T
    n = vectors.shape[0]
    column = jnp.arange(num_queries)[:, None]
    everywhere = jnp.zeros((n, num_queries), vectors.dtype)
    everywhere = everywhere.at[jnp.where(there, lists.nodes, n), column].set(
        found.value, mode="drop"
    )
    scores = _TAILS[config.tail](pooled, lists.images, similarity)
    return Scores(scores, found._replace(value=everywhere))


def warn_of_residuals(
    residual: Float[Array | np.ndarray, " q"], config: IndexConfig
) -> None:
    """Warns the caller of a search of queries that are far from solved."""
    residual = np.asarray(residual)
    # What leads out of the regions that are reached stays, and is meant to.
    most = config.warn_residual if config.reach is None else np.inf
    # Not "above": a residual that is not a number must warn, too.
    bad = np.flatnonzero(~(residual <= most))
    if not bad.size:
        return
    worst = residual[bad].max()
    remedy = f"raise max_steps above {config.max_steps} or lower alpha."
    if not np.isfinite(worst):
        remedy = "look for numbers too large or too small in vectors or settings."
    warnings.warn(
        f"{bad.size} of {residual.size} queries are far from solved, the worst with "
        f"relative residual {worst:.2g}: {remedy}",
        stacklevel=3,
    )
