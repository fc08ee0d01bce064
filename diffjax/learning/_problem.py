"""What parameters are learned on: vectors, the edges between them, and queries."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_ids, check_vectors
from diffjax.graph import NeighborMethod, affinity, compress, edge_similarities, knn
from diffjax.regions import l2_normalize
from diffjax.types import Graph

from ._parameters import Parameters

# Below any similarity less any bias: such a pair is no edge, whatever is learned.
NO_EDGE = -2.0
# Places kept free for edges, so that new neighbours need no new program.
_SPARE_FACTOR = 1.1

# Of each description its own dimensions.
Vectors = Float[Array | np.ndarray, "n _"]


class DescriptorView(NamedTuple):
    """One description of the regions and the graph it gives.

    Attributes:
        vectors: Unit vectors, one row per region.
        edges: Mutual neighbours in the compressed form, with similarities x_i'x_j as
            weights. Places that are kept free are pairs of the last node with itself.
    """

    vectors: Float[Array, "n _"]
    edges: Graph


class LearningProblem(NamedTuple):
    """A collection whose diffusion is learned; see `problem`.

    Attributes:
        views: One or several descriptions of the same regions, each with its graph.
        image_ids: Image of every region.
        scales: Scale of every region, from 0 upwards, if its weight is learned.
        edges: Edges of all graphs; only their places count.
        union_positions: For every graph where its edges are among those of all; None
            for one.
    """

    views: tuple[DescriptorView, ...]
    image_ids: Int[Array | np.ndarray, " n"]
    scales: Int[Array | np.ndarray, " n"] | None
    edges: Graph
    union_positions: tuple[Int[Array, " _"], ...] | None


class QueryDescriptors(NamedTuple):
    """Regions of queries.

    Attributes:
        vectors: For every view the unit vectors of the queries' regions.
        query_ids: Query of every region, from 0 upwards.
    """

    vectors: tuple[Float[Array | np.ndarray, "r _"], ...]
    query_ids: Int[Array | np.ndarray, " r"]


def problem(
    vectors: Vectors | Sequence[Vectors],
    image_ids: Int[Array | np.ndarray, " n"] | None = None,
    *,
    k: int | Sequence[int],
    scales: Int[Array | np.ndarray, " n"] | None = None,
    method: NeighborMethod = "exact",
) -> LearningProblem:
    """Finds the neighbours of a collection, once for every description and k.

    Args:
        vectors: Region vectors, scaled to unit length here; or several descriptions of
            the same regions.
        image_ids: Image of every region, from 0 upwards; None if each is an image.
        k: Neighbours of each region, itself counted; or one number for each graph.
            Where one of the two is single, all graphs share it.
        scales: Scale of every region, from 0 upwards, to learn `scale_weights`.
        method: How neighbours are searched; see `knn`.

    Returns:
        The collection with its graphs. Negative similarities are edges here: a negative
        bias would make them so.

    Raises:
        ValueError: If numbers of graphs or of regions differ, `k` is outside 1..n, a
            vector is zero or not finite, or ids or scales are not as they must be.
    """
    several = list(vectors) if isinstance(vectors, Sequence) else [vectors]
    ks = [k] if isinstance(k, int) else list(k)
    graphs = max(len(several), len(ks))
    if not several or not ks or {len(several), len(ks)} - {1, graphs}:
        raise ValueError(
            f"k must be one number or one for each of {len(several)} descriptions, got "
            f"{len(ks)}."
        )
    units = []
    for each in several:
        check_vectors("vectors", each)
        units.append(l2_normalize(jnp.asarray(each)))
    n = units[0].shape[0]
    counts = {unit.shape[0] for unit in units}
    if len(counts) > 1:
        raise ValueError(
            f"vectors must have as many rows in every description, got {sorted(counts)}"
            "."
        )
    ids = np.arange(n) if image_ids is None else np.asarray(image_ids)
    check_ids("image_ids", ids, rows=n)
    units = units if len(units) == graphs else units * graphs
    ks = ks if len(ks) == graphs else ks * graphs
    found = [
        _mutual_neighbors(u, each, method=method)
        for u, each in zip(units, ks, strict=True)
    ]
    made = _assemble_problem(
        units,
        found,
        image_ids=np.asarray(ids, np.int32),
        scales=None if scales is None else _check_scales(scales, rows=n),
    )
    return _with_similarities(made)


def refresh_neighbors(
    problem: LearningProblem,
    parameters: Parameters,
    *,
    k: int | Sequence[int],
    method: NeighborMethod = "exact",
) -> LearningProblem:
    """Finds neighbours anew, of the vectors as the projection moves them.

    Done on the host, between steps of learning: neighbours are a discrete choice.

    Args:
        problem: The collection, concrete.
        parameters: Where the projection is taken from.
        k: Neighbours of each region, or one number for each graph.
        method: How neighbours are searched; see `knn`.

    Returns:
        The collection with the graphs of the new neighbours, with as many places for
        edges as before where they suffice, so that no program is compiled anew.

    Raises:
        ValueError: If `k` is outside 1..n, or as many graphs have not as many k.
    """
    graphs = len(problem.views)
    ks = [k] * graphs if isinstance(k, int) else list(k)
    if len(ks) != graphs:
        raise ValueError(f"k must be one number or {graphs}, got {len(ks)}.")
    units = [view.vectors for view in problem.views]
    found = [
        _mutual_neighbors(
            project_vectors(unit, parameters.projection), each, method=method
        )
        for unit, each in zip(units, ks, strict=True)
    ]
    made = _assemble_problem(
        units, found, image_ids=problem.image_ids, scales=problem.scales
    )
    sizes = [
        had if needed <= had else int(needed * _SPARE_FACTOR)
        for needed, had in zip(
            edge_capacities(made), edge_capacities(problem), strict=True
        )
    ]
    return _with_similarities(with_edge_capacities(made, sizes))


def edge_capacities(problem: LearningProblem) -> list[int]:
    """Counts the places for edges, of each graph and of all together."""
    each = [view.edges for view in problem.views]
    return [edges.indices.shape[0] for edges in (*each, problem.edges)]


def with_edge_capacities(
    problem: LearningProblem, sizes: Sequence[int]
) -> LearningProblem:
    """Keeps more places free for edges: what is computed stays the same.

    Args:
        problem: The collection.
        sizes: As `edge_capacities` counts them, as many as there are or more.

    Returns:
        The collection with so many places.
    """
    *each, total = sizes
    views = tuple(
        view._replace(edges=_pad_edges(view.edges, size))
        for view, size in zip(problem.views, each, strict=True)
    )
    if problem.union_positions is None:
        return problem._replace(views=views, edges=views[0].edges)
    union_positions = tuple(
        # What adds weight 0 may add it anywhere.
        jnp.asarray(np.pad(np.asarray(slot), (0, size - slot.shape[0])))
        for slot, size in zip(problem.union_positions, each, strict=True)
    )
    return problem._replace(
        views=views,
        edges=_pad_edges(problem.edges, total),
        union_positions=union_positions,
    )


def project_vectors(
    vectors: Float[Array | np.ndarray, "n d"], projection: Float[Array, "p d"] | None
) -> Float[Array, "n _"]:
    """Computes P x / |P x| for every vector x; the vectors themselves without P.

    Args:
        vectors: One row per region.
        projection: P, or None.

    Returns:
        The moved vectors; a zero vector stays zero.
    """
    vectors = jnp.asarray(vectors)
    if projection is None:
        return vectors
    moved = jnp.matmul(
        vectors,
        jnp.asarray(projection, vectors.dtype).T,
        precision="highest",
    )
    return l2_normalize(moved)


def edges_with_similarities(edges: Graph, vectors: Float[Array, "n _"]) -> Graph:
    """Computes similarities on the edges; on free places one that is no edge.

    Args:
        edges: Edges of a view.
        vectors: Its vectors, or what they were moved to.

    Returns:
        The edges with similarities x_i'x_j as weights.
    """
    found = edge_similarities(edges, vectors)
    free = edges.rows == edges.indices
    no_edge = jnp.full_like(found.weights, NO_EDGE)
    return found._replace(weights=jnp.where(free, no_edge, found.weights))


def _mutual_neighbors(vectors: Array, k: int, *, method: NeighborMethod) -> Graph:
    """Mutual neighbours of any similarity; that k is in 1..n is for `knn` to check."""
    # All pairs are above the bias, so that all are kept.
    return compress(affinity(knn(vectors, k, method=method), bias=NO_EDGE))


def _with_similarities(problem: LearningProblem) -> LearningProblem:
    """Computes the similarities of all views, when shapes are final."""
    views = tuple(
        view._replace(edges=edges_with_similarities(view.edges, view.vectors))
        for view in problem.views
    )
    edges = views[0].edges if problem.union_positions is None else problem.edges
    return problem._replace(views=views, edges=edges)


def _assemble_problem(units, edges, *, image_ids, scales) -> LearningProblem:
    """A problem of these graphs, and of the union of their edges."""
    views = tuple(DescriptorView(u, e) for u, e in zip(units, edges, strict=True))
    if len(views) == 1:
        return LearningProblem(views, image_ids, scales, edges[0], None)
    n = edges[0].num_nodes
    keys = [
        np.repeat(np.arange(n), np.diff(np.asarray(e.starts, np.int64))) * n
        + np.asarray(e.indices, np.int64)
        for e in edges
    ]
    every = np.unique(np.concatenate(keys))
    counts = np.bincount(every // n, minlength=n)
    union = Graph(
        indices=jnp.asarray((every % n).astype(np.int32)),
        weights=jnp.zeros(every.size, edges[0].weights.dtype),
        starts=jnp.asarray(np.r_[0, np.cumsum(counts)].astype(np.int32)),
    )
    union_positions = tuple(
        jnp.asarray(np.searchsorted(every, key).astype(np.int32)) for key in keys
    )
    return LearningProblem(views, image_ids, scales, union, union_positions)


def _pad_edges(edges: Graph, size: int) -> Graph:
    """Adds places that are no edges: the last node with itself."""
    free = size - edges.indices.shape[0]
    if edges.starts is None or free == 0:
        return edges
    last = edges.num_nodes - 1
    # On the host: shapes that are new every time would be compiled every time.
    starts = np.array(edges.starts)
    starts[-1] += free
    return Graph(
        indices=jnp.asarray(
            np.pad(np.asarray(edges.indices), (0, free), constant_values=last)
        ),
        weights=jnp.asarray(
            np.pad(np.asarray(edges.weights), (0, free), constant_values=NO_EDGE)
        ),
        starts=jnp.asarray(starts),
    )


def _check_scales(
    scales: Int[Array | np.ndarray, " n"], *, rows: int
) -> Int[np.ndarray, " n"]:
    host = np.asarray(scales)
    if host.shape != (rows,):
        raise ValueError(f"scales must have one per row, {rows}, got {host.shape}.")
    if host.min(initial=0) < 0:
        raise ValueError(f"scales must count from 0, got {host.min()}.")
    return host.astype(np.int32)
