"""Candidates of queries: their nearest nodes, among all vectors or in clusters."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from diffjax.diffusion import (
    query_vectors,
)
from diffjax.types import Scalar

from ._collection import Collection, Seeds, ShortlistedNodes
from ._config import SearchConfig

# Nodes whose vectors are read at a time where there are no clusters.
_BLOCK_NODES = 2**14


def candidates(
    collection: Collection,
    regions: Float[Array, "r p"],
    query_ids: Int[Array | np.ndarray, " r"] | None,
    *,
    config: SearchConfig,
    gamma: Scalar,
    bias: Scalar = 0.0,
    num_queries: int | None = None,
    within: ShortlistedNodes | None = None,
    where: Bool[Array, " n"] | None = None,
    mesh: Mesh | None = None,
) -> Seeds:
    """Finds the candidates of each query: its nearest nodes, weighted by similarity.

    Args:
        collection: Arrays of the collection.
        regions: Unit vectors of the query regions.
        query_ids: Query of every row; None if each row is a query.
        config: `query_k`, `rule` and `probes` are used.
        gamma: Exponent of the kernel; may be traced and differentiated.
        bias: Offset that the kernel subtracts; may be traced and differentiated.
        num_queries: Number of queries q.
        within: Nodes to choose from; None is all.
        where: Which nodes are vectors, the others being padding; None is all.
        mesh: Devices that share the rows of the collection.

    Returns:
        Dense seeds of `query_vectors`; sparse ones where clusters are searched or a
        short list is given.

    References:
        Iscen et al., CVPR 2017, eq. 7 and 8, https://arxiv.org/abs/1611.05113.
    """
    vectors, n = collection.vectors, collection.graph.num_nodes
    if within is None and (vectors is None or config.probes):
        return _cluster_candidates(
            *(collection, regions, query_ids, config),
            gamma=float(gamma),
            bias=float(bias),
            num_queries=num_queries or 1,
        )
    slots = n if within is None else within.nodes.shape[1]
    settings: dict[str, Any] = {"k": min(config.query_k, slots), "rule": config.rule}
    settings["num_queries"] = num_queries
    if within is not None:
        nodes = within.nodes
        if vectors is None:
            vectors, nodes = _read_listed(collection, nodes)
        values = _query_vectors_without_padding(
            *(vectors, regions, query_ids, nodes, (gamma, bias)), **settings
        )
        return Seeds(values.T, within.nodes)
    if vectors is None:
        raise ValueError("vectors are needed where no clusters are searched.")
    if query_ids is not None and where is None and mesh is None:
        return Seeds(
            _query_vectors_without_padding(
                *(vectors, regions, query_ids, None, (gamma, bias)), **settings
            )
        )
    return Seeds(
        query_vectors(
            *(vectors, regions, query_ids),
            gamma=gamma,
            bias=bias,
            where=where,
            mesh=mesh,
            **settings,
        )
    )


@functools.partial(jax.jit, static_argnames=("k", "rule", "num_queries"))
def _query_vectors_without_padding(
    vectors, regions, query_ids, nodes, kernel, *, k, rule, num_queries
):
    """Builds right-hand sides; rows of zeros, which are padding, add nothing.

    With a negative bias they would be similar to every node.
    """
    is_region = jnp.any(regions != 0, axis=1)
    # A query past the last, which is dropped.
    dropped = jnp.full_like(query_ids, num_queries)
    ids = jax.lax.select(is_region, query_ids, dropped)
    return query_vectors(
        vectors,
        regions,
        ids,
        k=k,
        gamma=kernel[0],
        bias=kernel[1],
        rule=rule,
        nodes=nodes,
        num_queries=num_queries,
    )


def _read_listed(
    collection: Collection, nodes: Int[Array, "q t"]
) -> tuple[Float[Array, "u p"], Int[Array, "q t"]]:
    """Reads the vectors of listed nodes; returns them, and every node's row in them."""
    if collection.read_vectors is None:
        raise ValueError("vectors or read_vectors are needed for a short list.")
    host = np.asarray(nodes)
    listed = np.unique(host[host >= 0])
    blocks = []
    for block in np.unique(listed // _BLOCK_NODES):
        start = int(block) * _BLOCK_NODES
        rows = collection.read_vectors(start, start + _BLOCK_NODES)
        is_in_block = listed // _BLOCK_NODES == block
        blocks.append(rows[listed[is_in_block] - start])
    vectors = np.concatenate(blocks)
    # One of a few numbers of rows, so that few programs are compiled.
    padding = (1 << max(len(vectors) - 1, 0).bit_length()) - len(vectors)
    rows = np.where(host >= 0, np.searchsorted(listed, host), -1).astype(np.int32)
    return jnp.asarray(np.pad(vectors, ((0, padding), (0, 0)))), jnp.asarray(rows)


def _cluster_candidates(
    collection, regions, query_ids, config, *, gamma, bias, num_queries
) -> Seeds:
    """Computes the right-hand sides of `query_vectors` from the nearest clusters."""
    k = min(config.query_k, collection.graph.num_nodes)
    rows = np.asarray(regions)
    nodes = np.full((num_queries, k), -1, np.int32)
    values = np.zeros((num_queries, k), rows.dtype)
    # Rows of zeros are padding.
    filled = np.flatnonzero(np.abs(rows).max(axis=1, initial=0) > 0)
    nearest = _nearest_in_clusters(
        collection, rows[filled], k=k, probes=config.probes or None
    )
    gamma, bias = rows.dtype.type(gamma), rows.dtype.type(bias)
    ids = np.arange(len(rows)) if query_ids is None else np.asarray(query_ids)
    ids = ids[filled]
    for query in range(num_queries):
        lists = [nearest[row] for row in np.flatnonzero(ids == query)]
        if not lists:
            continue
        candidate_nodes = np.concatenate(
            [nodes_of_region for nodes_of_region, _ in lists]
        )
        terms = np.concatenate([similarities for _, similarities in lists]) - bias
        if config.rule == "paper":
            terms = np.maximum(terms, 0) ** gamma
        # Sums below 0 lose to the zeros of all other nodes.
        distinct, inverse = np.unique(candidate_nodes, return_inverse=True)
        sums = np.bincount(inverse, terms).astype(rows.dtype)
        best = np.argsort(-sums, kind="stable")[:k]
        best = best[sums[best] > 0]
        raised = sums[best] if config.rule == "paper" else sums[best] ** gamma
        nodes[query, : len(best)], values[query, : len(best)] = distinct[best], raised
    return Seeds(values, nodes)


def _nearest_in_clusters(collection, regions, *, k, probes):
    """Lists the k nearest nodes of each region among those of its nearest clusters."""
    clusters, n = collection.clusters, collection.graph.num_nodes
    if clusters is None:  # One cluster, read in blocks.
        starts = np.append(np.arange(0, n, _BLOCK_NODES), n)
        probed = np.tile(np.arange(len(starts) - 1), (len(regions), 1))
    else:
        starts, count = clusters.starts, len(clusters.centroids)
        probes = min(probes or count, count)
        toward = -(regions @ clusters.centroids.T)
        probed = np.argpartition(toward, probes - 1, axis=1)[:, :probes]
    blocks: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in regions]
    for cluster in np.unique(probed):
        start, stop = (int(bound) for bound in starts[cluster : cluster + 2])
        rows = np.flatnonzero((probed == cluster).any(axis=1))
        similarities = regions[rows] @ collection.read_vectors(start, stop).T
        for row, row_similarities in zip(rows, similarities, strict=True):
            blocks[row].append((np.arange(start, stop), row_similarities))
    nearest = []
    for row_blocks in blocks:
        nodes = np.concatenate([block for block, _ in row_blocks])
        similarities = np.concatenate([values for _, values in row_blocks])
        if len(similarities) > k:
            best = np.argpartition(-similarities, k - 1)[:k]
            nodes, similarities = nodes[best], similarities[best]
        nearest.append((nodes, similarities))
    return nearest
