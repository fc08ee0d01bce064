"""The method of the paper in four steps: candidates, solve, pool, rank.

`retrieve` is the whole of it. The steps work on arrays only: they know of no file, no
picture and no index, and the index, learning and the search on many devices share them.
"""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from diffjax.diffusion import (
    LocalSolution,
    OfflineRows,
    combine_offline_rows,
    diffuse,
    diffuse_local,
)
from diffjax.graph import normalize, shortlist, truncate
from diffjax.pooling import pool
from diffjax.ranking import fill_outside_by_similarity, fill_outside_with_zeros, rank
from diffjax.regions import global_descriptors
from diffjax.types import Scalar, SearchResult, Solution

from ._candidates import candidates
from ._collection import Collection, ReachedImages, Seeds, ShortlistedNodes
from ._config import OutsideShortlist, SearchConfig

# Bytes of the small graphs of short lists that are solved side by side.
_SHORTLIST_BYTES = 2**28
# Nodes of components that are pooled as a whole.
_MAX_COMPONENT_NODES = 2**17
# Numbers of right-hand sides that are solved on the whole graph at a time.
_NUMBERS_AT_ONCE = 2**24

_FILL_OUTSIDE: Mapping[OutsideShortlist, Callable[[Array, Array, Array], Array]] = (
    MappingProxyType(
        {"similarity": fill_outside_by_similarity, "zero": fill_outside_with_zeros}
    )
)


def retrieve(
    collection: Collection,
    regions: Float[Array, "r p"],
    query_ids: Int[np.ndarray, " r"],
    *,
    config: SearchConfig,
    gamma: float,
    bias: float,
    num_queries: int,
    top: int,
) -> SearchResult:
    """Ranks the images of a collection for some queries.

    Args:
        collection: Arrays of the collection.
        regions: Unit vectors of the query regions, prepared as the collection's.
        query_ids: Query of every row, from 0 upwards.
        config: Settings of the search, resolved for this collection.
        gamma: Exponent of the query's kernel.
        bias: Offset that the kernel subtracts.
        num_queries: Number of queries q.
        top: Number of images per query.

    Returns:
        Images, scores and best regions of every query, and the diffusion behind them.

    References:
        Iscen et al., CVPR 2017, sections 4.2 to 4.4, https://arxiv.org/abs/1611.05113.
    """
    within = shortlist_nodes(collection, regions, query_ids, config, num_queries)
    seeds = candidates(
        *(collection, regions, query_ids),
        config=config,
        gamma=gamma,
        bias=bias,
        num_queries=num_queries,
        within=within,
    )
    solution = solve(collection, seeds, config=config, within=within)
    scores = pool_images(collection, solution, config=config, within=within)
    return rank_images(collection, scores, solution, top=top)


def shortlist_nodes(
    collection: Collection,
    regions: Float[Array, "r p"],
    query_ids: Int[np.ndarray, " r"],
    config: SearchConfig,
    num_queries: int,
) -> ShortlistedNodes | None:
    """Lists the images of best global similarity, and their nodes.

    Args:
        collection: Arrays of the collection.
        regions: Unit vectors of the query regions.
        query_ids: Query of every row, from 0 upwards.
        config: `shortlist` is used.
        num_queries: Number of queries q.

    Returns:
        The short list of every query; None where the settings have none, or it would
        hold all images.
    """
    if config.shortlist is None or config.shortlist >= collection.num_images:
        return None  # A list of all images cuts nothing.
    image_ids, starts = collection.image_ids, collection.image_starts
    if collection.descriptors is None or image_ids is None or starts is None:
        raise ValueError(
            "descriptors, image_ids and image_starts are needed for a short list."
        )
    similarities = _global_similarities(
        collection.descriptors, regions, query_ids, num_queries=num_queries
    )
    listed = shortlist(
        similarities,
        image_ids,
        size=config.shortlist,
        max_regions=int(np.diff(starts).max()),
    )
    nodes = _nodes_of_regions(listed.nodes, collection.inverse_order)
    return ShortlistedNodes(listed.images, nodes, similarities)


@functools.partial(jax.jit, static_argnames="num_queries")
def _global_similarities(descriptors, regions, query_ids, *, num_queries):
    queries = global_descriptors(regions, query_ids, num_images=num_queries)
    return jnp.matmul(descriptors, queries.T, precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _nodes_of_regions(regions, inverse_order):
    if inverse_order is None:
        return regions
    return jnp.where(regions >= 0, inverse_order[regions], jnp.full_like(regions, -1))


def solve(
    collection: Collection,
    seeds: Seeds,
    *,
    config: SearchConfig,
    alpha: Scalar | None = None,
    within: ShortlistedNodes | None = None,
    mesh: Mesh | None = None,
) -> Solution | LocalSolution:
    """Solves (I - alpha S) f = y: on all nodes, locally, or by offline rows.

    Args:
        collection: Arrays of the collection.
        seeds: Right-hand sides y.
        config: Settings of the solver.
        alpha: Alpha where it is traced; None is that of `config`. Offline rows have
            their own.
        within: Nodes that each query is limited to; None is all.
        mesh: Devices that share the rows of the collection, for a solve on all nodes.

    Returns:
        A `LocalSolution` where queries are diffused over `local_nodes` nodes, else a
        `Solution` on all nodes, 0 outside of `within`.

    Raises:
        ValueError: If alpha is given where rows were solved offline with their own, or
            a mesh where not all nodes are solved for.

    References:
        Iscen et al., CVPR 2017, eq. 4 and section 4.4, for short lists; Yang et al.,
        AAAI 2019, https://arxiv.org/abs/1811.10907, for rows solved beforehand.
    """
    is_offline = within is None and collection.offline_rows is not None
    if is_offline and alpha is not None:
        raise ValueError("alpha must be None with offline rows, which have their own.")
    if mesh is not None and (within is not None or is_offline or config.local_nodes):
        raise ValueError(
            "mesh must be None for a short list, offline rows or a local solve."
        )
    alpha = config.alpha if alpha is None else alpha
    graph, n = collection.graph, collection.graph.num_nodes
    solving = {"rtol": config.rtol, "max_steps": config.max_steps}
    solving |= {"solver": config.solver, "keep_best": config.keep_best}
    if within is not None:
        return _solve_shortlist(
            *(graph, seeds.values, within.nodes, alpha),
            solving=tuple(solving.items()),
            renormalize=config.renormalize_shortlist,
            max_degree=collection.max_degree,
        )
    if is_offline:
        y = _densify_seeds(seeds, n)
        k = min(config.query_k, n)
        return _combine_rows(collection.offline_rows, y, k=k, rtol=config.rtol)
    if config.local_nodes:
        return _solve_local(collection, seeds, alpha, config)
    y = _densify_seeds(seeds, n)
    if mesh is not None:
        return diffuse(graph, y, alpha=alpha, mesh=mesh, **solving)
    # So many columns at a time that a few right-hand sides fit in memory.
    step = max(_NUMBERS_AT_ONCE // max(n, 1), 1)
    if y.shape[1] <= step:
        return diffuse(graph, y, alpha=alpha, **solving)
    solutions = [
        diffuse(graph, y[:, first : first + step], alpha=alpha, **solving)
        for first in range(0, y.shape[1], step)
    ]
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays, axis=-1), *solutions)


def _densify_seeds(seeds: Seeds, n: int) -> Array:
    if seeds.nodes is None:
        return jnp.asarray(seeds.values)
    nodes, values = np.asarray(seeds.nodes), np.asarray(seeds.values)
    y = np.zeros((n, len(nodes)), values.dtype)
    query, slot = np.nonzero(nodes >= 0)
    y[nodes[query, slot], query] = values[query, slot]
    return jax.device_put(y)


def _solve_local(
    collection: Collection, seeds: Seeds, alpha: Scalar, config: SearchConfig
) -> LocalSolution:
    """Diffuses each query over the nodes that it reaches."""
    components = collection.components
    if components is None:
        raise ValueError("components of the graph are needed for a local solve.")
    if seeds.nodes is None:
        k = min(config.query_k, collection.graph.num_nodes)
        seeds = _sparsify_seeds(seeds.values, k=k)
    nodes = np.asarray(seeds.nodes)
    degree_sums = [
        components.degree_sums[np.unique(components.labels[row[row >= 0]])].sum()
        for row in nodes
    ]
    return _diffuse_local(
        collection.graph,
        jax.device_put(nodes),
        jax.device_put(seeds.values),
        alpha,
        jax.device_put(np.asarray(degree_sums, collection.graph.weights.dtype)),
        size=max(config.local_nodes or 0, nodes.shape[1]),
        rtol=config.rtol,
        max_steps=config.max_steps,
        max_degree=collection.max_degree,
    )


@functools.partial(jax.jit, static_argnames="k")
def _sparsify_seeds(y: Array, *, k: int) -> Seeds:
    values, nodes = jax.lax.top_k(y.T, k)
    return Seeds(values, jnp.where(values > 0, nodes, jnp.full_like(nodes, -1)))


@functools.partial(jax.jit, static_argnames=("size", "rtol", "max_steps", "max_degree"))
def _diffuse_local(
    graph, nodes, values, alpha, degree_sums, *, size, rtol, max_steps, max_degree
):
    # A graph that is traced is not checked as a whole, which would read all of it.
    return diffuse_local(
        *(graph, nodes, values),
        size=size,
        alpha=alpha,
        rtol=rtol,
        max_steps=max_steps,
        max_degree=max_degree,
        degree_sums=degree_sums,
    )


@functools.partial(jax.jit, static_argnames=("solving", "renormalize", "max_degree"))
def _solve_shortlist(graph, values, nodes, alpha, *, solving, renormalize, max_degree):
    """Solves each query on the graph of its own nodes; [q, t] becomes [n, q]."""
    num_queries, slots = nodes.shape
    # Square roots of the degrees turn S back into A.
    scale = jnp.sqrt(graph.degrees)
    raw = graph._replace(
        weights=graph.weights * scale[graph.rows] * scale[graph.indices], degrees=None
    )
    base_graph = raw if renormalize else graph

    def solve_query(query: tuple[Array, Array]) -> Solution:
        query_nodes, column = query
        subgraph = truncate(base_graph, query_nodes, max_degree=max_degree)
        subgraph = normalize(subgraph) if renormalize else subgraph
        solution = diffuse(subgraph, column[:, None], alpha=alpha, **dict(solving))
        return jax.tree.map(lambda array: array[..., 0], solution)

    query_bytes = slots * max(max_degree, 1) * (4 + graph.weights.dtype.itemsize)
    batch = min(max(_SHORTLIST_BYTES // query_bytes, 1), num_queries)
    solution = jax.lax.map(solve_query, (nodes, values), batch_size=batch)
    n = graph.num_nodes
    column = jnp.arange(num_queries)[:, None]
    dense = jnp.zeros((n, num_queries), values.dtype)
    dense = dense.at[jnp.where(nodes >= 0, nodes, n), column].set(
        solution.value, mode="drop"
    )
    return solution._replace(value=dense)


@functools.partial(jax.jit, static_argnames=("k", "rtol"))
def _combine_rows(rows: OfflineRows, y: Array, *, k: int, rtol: float) -> Solution:
    """Combines solved rows; the residual is the bound that those of the rows give."""
    norm = jnp.linalg.norm(y, axis=0)
    bound = jnp.sum(rows.residual[:, None] * jnp.abs(y), axis=0)
    residual = bound / jnp.maximum(norm, jnp.finfo(y.dtype).tiny)
    return Solution(
        value=combine_offline_rows(rows, y, k=k),
        residual=residual,
        num_steps=jnp.zeros(y.shape[1], jnp.int32),
        converged=residual <= rtol,
    )


def pool_images(
    collection: Collection,
    solution: Solution | LocalSolution,
    *,
    config: SearchConfig,
    within: ShortlistedNodes | None = None,
    mesh: Mesh | None = None,
) -> Float[Array, "m q"] | list[ReachedImages]:
    """Pools the scores of nodes into scores of images.

    Args:
        collection: Arrays of the collection.
        solution: Scores of the nodes.
        config: `outside_shortlist` is used.
        within: Short list of each query; images outside come after those on it.
        mesh: Devices that share the rows of the collection.

    Returns:
        One column of scores per query; of a `LocalSolution` the images that each query
        reaches.

    References:
        Iscen et al., CVPR 2017, eq. 13, https://arxiv.org/abs/1611.05113.
    """
    if isinstance(solution, LocalSolution):
        return _pool_reached(collection, solution)
    values, weights = solution.value, collection.weights
    if collection.inverse_order is not None:
        values, weights = _by_region(values, weights, collection.inverse_order)
    scores = pool(
        values,
        collection.image_ids,
        weights=weights,
        num_images=collection.num_images,
        mesh=mesh,
    )
    if within is None:
        return scores
    listed = jnp.take_along_axis(scores, within.images.T, axis=0)
    fill = _FILL_OUTSIDE[config.outside_shortlist]
    return fill(listed, within.images, within.similarities)


@jax.jit
def _by_region(values, weights, inverse_order):
    """Renumbers values and weights of nodes as regions are numbered."""
    weights = None if weights is None else weights[inverse_order]
    return values[inverse_order], weights


def _pool_reached(
    collection: Collection, solution: LocalSolution
) -> list[ReachedImages]:
    """Pools local solutions into the scores of the images that they reach.

    Every region of these images counts, those that are not reached with the background
    of the solution. Where the components of a query are small, all of their images are
    reached; in large ones the background is spread too thin to name an image.
    """
    components, starts = collection.components, collection.image_starts
    if components is None or starts is None:
        raise ValueError("components and image_starts are needed for a local solve.")
    n = collection.graph.num_nodes
    order = (
        np.arange(n, dtype=np.int32) if collection.order is None else collection.order
    )
    inverse = collection.inverse_order
    inverse_order = order if inverse is None else np.asarray(inverse)
    weights = None if collection.weights is None else np.asarray(collection.weights)
    degrees = np.asarray(collection.graph.degrees)
    solutions = jax.tree.map(np.asarray, solution)
    images_of_query = []
    for query in range(len(solutions.nodes)):
        is_node = solutions.nodes[query] >= 0
        nodes, values = (
            solutions.nodes[query][is_node],
            solutions.values[query][is_node],
        )
        labels = np.unique(components.labels[nodes])
        connected = components.nodes_of(labels, limit=_MAX_COMPONENT_NODES)
        covered = nodes if connected is None else connected
        images = np.unique(np.searchsorted(starts, order[covered], "right") - 1)
        first = starts[images].astype(np.int64)
        counts = starts[images + 1] - first
        offsets = np.cumsum(counts) - counts
        regions = np.repeat(first - offsets, counts) + np.arange(counts.sum())
        members = inverse_order[regions]
        slots = np.minimum(np.searchsorted(nodes, members), max(len(nodes) - 1, 0))
        background = solutions.background[query] * np.sqrt(degrees[members])
        is_connected = np.isin(components.labels[members], labels)
        contributions = background * is_connected
        if len(nodes):
            is_reached = nodes[slots] == members
            contributions = np.where(is_reached, values[slots], contributions)
        if weights is not None:
            contributions = weights[members] * contributions
        sums = np.zeros(0)
        if len(images):
            sums = np.add.reduceat(contributions.astype(np.float64), offsets)
        scores = sums.astype(solutions.values.dtype)
        images_of_query.append(ReachedImages(images, scores, contributions, regions))
    return images_of_query


def rank_images(
    collection: Collection,
    scores: Float[Array, "m q"] | list[ReachedImages],
    solution: Solution | LocalSolution,
    *,
    top: int,
) -> SearchResult:
    """Ranks images by their scores, ties by lower image.

    Args:
        collection: Arrays of the collection.
        scores: Scores of all images, or of those that each query reaches.
        solution: Scores of the nodes that they were pooled from.
        top: Number of images per query; all of them where there are fewer.

    Returns:
        The best images of every query, and for each the region that adds most to its
        score, -1 where none adds anything. Images are -1, and their scores 0, where a
        local solve reaches fewer than `top`.
    """
    top = min(top, collection.num_images)
    if isinstance(solution, LocalSolution):
        return _rank_reached(collection, scores, solution, top)
    values, weights = solution.value, collection.weights
    if collection.inverse_order is not None:
        values, weights = _by_region(values, weights, collection.inverse_order)
    images, best, regions = _rank_all(
        *(scores, values, weights, collection.image_ids), top=top
    )
    return SearchResult(images, best, solution._replace(value=values), regions)


@functools.partial(jax.jit, static_argnames="top")
def _rank_all(scores, values, weights, image_ids, *, top):
    images = rank(scores)[:top]
    added = values if weights is None else weights[:, None] * values
    segments = {"num_segments": scores.shape[0], "indices_are_sorted": True}
    largest = jax.ops.segment_max(added, image_ids, **segments)
    # The first of the regions that add most; a region that adds nothing explains none.
    region = jnp.arange(added.shape[0], dtype=jnp.int32)[:, None]
    is_largest = (added == largest[image_ids]) & (added > 0)
    first = jax.ops.segment_min(
        jnp.where(is_largest, region, region.size), image_ids, **segments
    )
    regions = jnp.take_along_axis(first, images, axis=0)
    best = jnp.take_along_axis(scores, images, axis=0)
    return images.T, best.T, jnp.where(regions < region.size, regions, -1).T


def _rank_reached(collection, scores, solution, top) -> SearchResult:
    count = len(scores)
    images = np.full((count, top), -1, np.int32)
    best_scores = np.zeros((count, top), np.asarray(solution.values).dtype)
    regions = np.full((count, top), -1, np.int32)
    for query, reached in enumerate(scores):
        best = np.argsort(-reached.scores, kind="stable")[:top]
        images[query, : len(best)] = reached.images[best]
        best_scores[query, : len(best)] = reached.scores[best]
        firsts = np.searchsorted(
            reached.regions, collection.image_starts[images[query]]
        )
        lasts = np.searchsorted(
            reached.regions, collection.image_starts[images[query] + 1]
        )
        for slot in range(len(best)):
            added = reached.contributions[firsts[slot] : lasts[slot]]
            if added.max(initial=0) > 0:
                first = firsts[slot] + np.argmax(added)
                regions[query, slot] = reached.regions[first]
    if collection.order is not None:
        nodes = np.asarray(solution.nodes)
        by_region = np.where(nodes >= 0, collection.order[nodes], -1)
        solution = solution._replace(nodes=by_region)
    images, best_scores, regions = jax.device_put((images, best_scores, regions))
    return SearchResult(images, best_scores, solution, regions)
