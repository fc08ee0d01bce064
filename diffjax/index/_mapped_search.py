"""Answers from a mapped index: near clusters, the nodes reached, their images."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax.diffusion import diffuse, diffuse_local
from diffjax.graph import Clusters
from diffjax.types import Graph

from ._config import IndexConfig
from ._mapped_vectors import StoredVectors

# Nodes of components that are gone through as a whole.
_SMALL = 2**17


class Seeds(NamedTuple):
    """Right-hand sides, sparse.

    Attributes:
        nodes: Where they are not 0; -1 in empty places.
        values: Their values there.
    """

    nodes: Int[np.ndarray, "q s"]
    values: Float[np.ndarray, "q s"]


class Components(NamedTuple):
    """Connected components of the graph.

    Attributes:
        labels: Of every node.
        totals: Sum of the degrees in each.
        members: The nodes of one component after the other.
        firsts: Where each component starts there, and the end: c + 1.
    """

    labels: Int[np.ndarray, " n"]
    totals: Float[np.ndarray, " c"]
    members: Int[np.ndarray, " n"]
    firsts: Int[np.ndarray, " firsts"]

    def nodes(
        self, which: Int[np.ndarray, " own"], *, most: int
    ) -> Int[np.ndarray, " l"] | None:
        """All nodes of some components; None if they are more than `most`."""
        if (self.firsts[which + 1] - self.firsts[which]).sum() > most:
            return None
        parts = [self.members[self.firsts[c] : self.firsts[c + 1]] for c in which]
        return np.concatenate([np.zeros(0, np.int32), *parts])


class Spread(NamedTuple):
    """What a query's scores are, on the nodes that it reaches.

    Attributes:
        nodes: These, ascending.
        values: Their scores.
        components: Those that the query is in.
        background: Score of every other node there, divided by the root of its degree.
        residual: Relative residual in the whole graph.
        missed: Share of the exact scores outside, see `LocalSolution`.
        num_steps: Iterations.
    """

    nodes: Int[np.ndarray, " l"]
    values: Float[np.ndarray, " l"]
    components: Int[np.ndarray, " own"]
    background: float
    residual: float
    missed: float
    num_steps: int


class ImageRows(NamedTuple):
    """Which nodes an image has, and which image a node.

    Attributes:
        ids: Image of every node.
        starts: First row of every image, as rows were handed over, and the end: m + 1.
        places: Node of every row.
    """

    ids: Int[np.ndarray, " n"]
    starts: Int[np.ndarray, " starts"]
    places: Int[np.ndarray, " n"]

    def of(
        self, images: Int[np.ndarray, " t"]
    ) -> tuple[Int[np.ndarray, " r"], Int[np.ndarray, " t"]]:
        """Rows of some images, one image after the other, and where each starts."""
        first = self.starts[images].astype(np.int64)
        counts = self.starts[images + 1] - first
        starts = np.cumsum(counts) - counts
        return np.repeat(first - starts, counts) + np.arange(counts.sum()), starts


class Best(NamedTuple):
    """The best images of a query.

    Attributes:
        images: Numbers, best first; -1 where fewer are reached.
        scores: Their scores, 0 there.
        rows: The row of each that adds most; -1 where none adds anything.
    """

    images: Int[np.ndarray, " t"]
    scores: Float[np.ndarray, " t"]
    rows: Int[np.ndarray, " t"]


def find_seeds(
    vectors: StoredVectors,
    clusters: Clusters,
    regions: Float[np.ndarray, "r p"],
    query_ids: Int[np.ndarray, " r"],
    *,
    probes: int,
    config: IndexConfig,
    num_queries: int,
) -> Seeds:
    """Builds right-hand sides as `query_vectors` does, from the nearest clusters.

    Args:
        vectors: Of the index.
        clusters: Its clusters.
        regions: Prepared regions of the queries.
        query_ids: Query of each.
        probes: Clusters that each region is compared with.
        config: Settings.
        num_queries: Number of queries q.

    Returns:
        At most `query_k` nodes of each query.
    """
    k = min(config.query_k, len(clusters.order))
    nodes = np.full((num_queries, k), -1, np.int32)
    values = np.zeros((num_queries, k), np.float32)
    near = _nearest(vectors, clusters, regions, k=k, probes=probes)
    gamma, bias = np.float32(config.exponent_of_queries), np.float32(config.bias)
    for query in range(num_queries):
        own = [near[row] for row in np.flatnonzero(query_ids == query)]
        if not own:
            continue
        places = np.concatenate([found for found, _ in own])
        terms = np.concatenate([products for _, products in own]) - bias
        if config.rule == "paper":
            terms = np.maximum(terms, 0) ** gamma
        # Sums below 0 lose to the zeros of all other nodes.
        named, inverse = np.unique(places, return_inverse=True)
        sums = np.bincount(inverse, terms).astype(np.float32)
        best = np.argsort(-sums, kind="stable")[:k]
        best = best[sums[best] > 0]
        kept = sums[best] if config.rule == "paper" else sums[best] ** gamma
        nodes[query, : len(best)], values[query, : len(best)] = named[best], kept
    return Seeds(nodes, values)


def _nearest(vectors, clusters, regions, *, k, probes):
    """The k nearest of each region among the members of its nearest clusters."""
    count = len(clusters.centroids)
    probes = min(probes, count)
    toward = -(regions @ clusters.centroids.T)
    chosen = np.argpartition(toward, probes - 1, axis=1)[:, :probes]
    found: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in regions]
    for cluster in np.unique(chosen):
        start, stop = (int(each) for each in clusters.starts[cluster : cluster + 2])
        asking = np.flatnonzero((chosen == cluster).any(axis=1))
        products = regions[asking] @ vectors.read(start, stop).T
        for row, own in zip(asking, products, strict=True):
            found[row].append((np.arange(start, stop), own))
    near = []
    for parts in found:
        places = np.concatenate([part for part, _ in parts])
        products = np.concatenate([own for _, own in parts])
        if len(products) > k:
            best = np.argpartition(-products, k - 1)[:k]
            places, products = places[best], products[best]
        near.append((places, products))
    return near


def spread_seeds(
    graph: Graph,
    components: Components,
    seeds: Seeds,
    *,
    config: IndexConfig,
    max_degree: int,
) -> list[Spread]:
    """Diffuses over what each query reaches, or over the whole graph.

    Args:
        graph: S, mapped.
        components: Of the graph.
        seeds: Right-hand sides.
        config: Settings; `reach` says which of the two.
        max_degree: Most entries of any row.

    Returns:
        What each query spreads to.
    """
    if config.reach is None:
        return _everywhere(graph, seeds, config)
    own = [np.unique(components.labels[nodes[nodes >= 0]]) for nodes in seeds.nodes]
    totals = [components.totals[labels].sum() for labels in own]
    found = _solve_local(
        graph,
        jnp.asarray(seeds.nodes),
        jnp.asarray(seeds.values),
        config.alpha,
        jnp.asarray(totals, graph.weights.dtype),
        size=max(config.reach, seeds.nodes.shape[1]),
        rtol=config.rtol,
        max_steps=config.max_steps,
        max_degree=max_degree,
    )
    found = jax.tree.map(np.asarray, found)
    here = found.nodes >= 0
    return [
        Spread(
            found.nodes[query][here[query]],
            found.values[query][here[query]],
            labels,
            float(found.background[query]),
            float(found.residual[query]),
            float(found.unreached_mass[query]),
            int(found.num_steps[query]),
        )
        for query, labels in enumerate(own)
    ]


@functools.partial(jax.jit, static_argnames=("size", "rtol", "max_steps", "max_degree"))
def _solve_local(
    graph, nodes, values, alpha, totals, *, size, rtol, max_steps, max_degree
):
    # A graph that is traced is not looked at as a whole.
    return diffuse_local(
        graph,
        nodes,
        values,
        size=size,
        alpha=alpha,
        rtol=rtol,
        max_steps=max_steps,
        max_degree=max_degree,
        degree_sums=totals,
    )


def _everywhere(graph: Graph, seeds: Seeds, config: IndexConfig) -> list[Spread]:
    n, q = graph.num_nodes, len(seeds.nodes)
    y = np.zeros((n, q), np.float32)
    query, slot = np.nonzero(seeds.nodes >= 0)
    y[seeds.nodes[query, slot], query] = seeds.values[query, slot]
    found = _solve_all(
        graph,
        jnp.asarray(y),
        config.alpha,
        rtol=config.rtol,
        max_steps=config.max_steps,
        solver=config.solver,
        keep_best=config.keep_best,
    )
    value, every = np.asarray(found.value), np.arange(n)
    return [
        Spread(
            every,
            value[:, query],
            np.zeros(0, np.int32),
            0.0,
            float(found.residual[query]),
            0.0,
            int(found.num_steps[query]),
        )
        for query in range(q)
    ]


@functools.partial(
    jax.jit, static_argnames=("rtol", "max_steps", "solver", "keep_best")
)
def _solve_all(graph: Graph, y: Array, alpha, *, rtol, max_steps, solver, keep_best):
    return diffuse(
        graph,
        y,
        alpha=alpha,
        rtol=rtol,
        max_steps=max_steps,
        solver=solver,
        keep_best=keep_best,
    )


def pool_reached(
    spread: Spread,
    images: ImageRows,
    weights: Float[np.ndarray, " n"] | None,
    components: Components,
    degrees: Float[np.ndarray, " n"],
    *,
    top: int,
) -> Best:
    """Pools scores into those of the images that are reached, all their regions.

    Where a query's components are small, of all images in them: what is not reached
    there may have more of the background than what is. In large ones a background is
    spread too thin for that.

    Args:
        spread: Scores of nodes.
        images: Which node is of which image.
        weights: Pooling weights; None for sums.
        components: Of the graph.
        degrees: Of the graph.
        top: Images wanted.

    Returns:
        The best, ties by lower image; of regions that add equally much the first row.
    """

    def added(nodes):
        """What nodes add to their images."""
        place = np.minimum(np.searchsorted(spread.nodes, nodes), len(spread.nodes) - 1)
        reached = spread.nodes[place] == nodes
        connected = np.isin(components.labels[nodes], spread.components)
        background = np.float32(spread.background) * np.sqrt(degrees[nodes])
        own = np.where(reached, spread.values[place], background * connected)
        return own if weights is None else weights[nodes] * own

    found = Best(np.full(top, -1), np.zeros(top, np.float32), np.full(top, -1))
    if not len(spread.nodes):
        return found
    if len(spread.nodes) == len(images.ids):
        every = spread.values if weights is None else weights * spread.values
        candidates = np.arange(len(images.starts) - 1)
        scores = np.bincount(images.ids, every, minlength=len(candidates))
    else:
        connected = components.nodes(spread.components, most=_SMALL)
        nodes = spread.nodes if connected is None else connected
        candidates = np.unique(images.ids[nodes])
        rows, starts = images.of(candidates)
        scores = np.add.reduceat(added(images.places[rows]).astype(np.float64), starts)
    scores = scores.astype(np.float32)
    best = np.argsort(-scores, kind="stable")[:top]
    found.images[: len(best)] = candidates[best]
    found.scores[: len(best)] = scores[best]
    for slot, image in enumerate(candidates[best]):
        rows, _ = images.of(np.array([image]))
        own = added(images.places[rows])
        if own.max() > 0:
            found.rows[slot] = rows[np.argmax(own)]
    return found
