"""Training graphs: vectors of a collection, their neighbour graphs, query vectors."""

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

# Below any similarity less any bias: such a pair is no edge, for all parameters.
NO_EDGE = -2.0
# Spare edge slots, so that other neighbours need no new program.
_SPARE_FACTOR = 1.1

# Each view has its own dimensions.
Vectors = Float[Array | np.ndarray, "n _"]


class DescriptorView(NamedTuple):
    """View of the regions: one kind of descriptors, and their neighbour graph.

    Attributes:
        vectors: Unit vectors, one row per region.
        edges: Mutual neighbours in the compressed form, with similarities x_i'x_j as
            weights. Spare slots are pairs of the last node with itself.
    """

    vectors: Float[Array, "n _"]
    edges: Graph


class TrainingGraphs(NamedTuple):
    """Collection with the neighbour graphs on which parameters are learned.

    See `training_graphs`.

    Attributes:
        views: One or several views of the same regions, each with its graph.
        image_ids: Image of every region.
        scales: Scale of every region, from 0 upwards, if its weight is learned.
        edges: Union of the edges of all graphs; weights have no meaning.
        union_positions: For every graph the positions of its edges in the union; None
            for one graph.
    """

    views: tuple[DescriptorView, ...]
    image_ids: Int[Array | np.ndarray, " n"]
    scales: Int[Array | np.ndarray, " n"] | None
    edges: Graph
    union_positions: tuple[Int[Array, " _"], ...] | None


class QueryDescriptors(NamedTuple):
    """Region vectors of queries.

    Attributes:
        vectors: For every view the unit vectors of the queries' regions.
        query_ids: Query of every region, from 0 upwards.
    """

    vectors: tuple[Float[Array | np.ndarray, "r _"], ...]
    query_ids: Int[Array | np.ndarray, " r"]


def training_graphs(
    vectors: Vectors | Sequence[Vectors],
    image_ids: Int[Array | np.ndarray, " n"] | None = None,
    *,
    k: int | Sequence[int],
    scales: Int[Array | np.ndarray, " n"] | None = None,
    method: NeighborMethod = "exact",
) -> TrainingGraphs:
    """Builds the views of a collection and their neighbour graphs, to learn on.

    Args:
        vectors: Region vectors, scaled to unit length here; or several kinds of
            descriptors of the same regions, one per view.
        image_ids: Image of every region, from 0 upwards; None if each is an image.
        k: Neighbours of each region, itself included; or one number per graph. A single
            `vectors` or `k` is shared by all graphs.
        scales: Scale of every region, from 0 upwards, to learn `scale_weights`.
        method: Method of the neighbour search; see `knn`.

    Returns:
        The collection with its graphs. Negative similarities are edges, too: with a
        negative bias they have a weight.

    Raises:
        ValueError: If numbers of graphs or of regions differ, `k` is outside 1..n, a
            vector is zero or not finite, or ids or scales are invalid.
    """
    descriptions = list(vectors) if isinstance(vectors, Sequence) else [vectors]
    ks = [k] if isinstance(k, int) else list(k)
    num_graphs = max(len(descriptions), len(ks))
    if not descriptions or not ks or {len(descriptions), len(ks)} - {1, num_graphs}:
        raise ValueError(
            "k must be one number or one for each of "
            f"{len(descriptions)} descriptions, got {len(ks)}."
        )
    units = []
    for description in descriptions:
        check_vectors("vectors", description)
        units.append(l2_normalize(jnp.asarray(description)))
    n = units[0].shape[0]
    counts = {unit.shape[0] for unit in units}
    if len(counts) > 1:
        raise ValueError(
            f"vectors must have as many rows in every description, got {sorted(counts)}"
            "."
        )
    ids = np.arange(n) if image_ids is None else np.asarray(image_ids)
    check_ids("image_ids", ids, rows=n)
    units = units if len(units) == num_graphs else units * num_graphs
    ks = ks if len(ks) == num_graphs else ks * num_graphs
    edges_by_view = [
        _mutual_neighbors(unit, view_k, method=method)
        for unit, view_k in zip(units, ks, strict=True)
    ]
    assembled = _assemble_graphs(
        units,
        edges_by_view,
        image_ids=np.asarray(ids, np.int32),
        scales=None if scales is None else _check_scales(scales, rows=n),
    )
    return _fill_similarities(assembled)


def refresh_neighbors(
    training_graphs: TrainingGraphs,
    parameters: Parameters,
    *,
    k: int | Sequence[int],
    method: NeighborMethod = "exact",
) -> TrainingGraphs:
    """Searches the neighbours of projected vectors, and rebuilds the graphs.

    Runs on the host, between gradient steps: neighbours are a discrete choice.

    Args:
        training_graphs: The collection with its graphs, concrete.
        parameters: Parameters with the projection.
        k: Neighbours of each region, or one number per graph.
        method: Method of the neighbour search; see `knn`.

    Returns:
        The collection with the graphs of the new neighbours. The number of edge slots
        stays as it was if it suffices, so that no other program is compiled.

    Raises:
        ValueError: If `k` is outside 1..n, or is not one number per graph.
    """
    num_graphs = len(training_graphs.views)
    ks = [k] * num_graphs if isinstance(k, int) else list(k)
    if len(ks) != num_graphs:
        raise ValueError(f"k must be one number or {num_graphs}, got {len(ks)}.")
    units = [view.vectors for view in training_graphs.views]
    edges_by_view = [
        _mutual_neighbors(
            project_vectors(unit, parameters.projection), view_k, method=method
        )
        for unit, view_k in zip(units, ks, strict=True)
    ]
    assembled = _assemble_graphs(
        units,
        edges_by_view,
        image_ids=training_graphs.image_ids,
        scales=training_graphs.scales,
    )
    sizes = [
        capacity if needed <= capacity else int(needed * _SPARE_FACTOR)
        for needed, capacity in zip(
            edge_capacities(assembled), edge_capacities(training_graphs), strict=True
        )
    ]
    return _fill_similarities(with_edge_capacities(assembled, sizes))


def edge_capacities(training_graphs: TrainingGraphs) -> list[int]:
    """Numbers of edge slots: of each graph, and of the union."""
    view_edges = [view.edges for view in training_graphs.views]
    return [edges.indices.shape[0] for edges in (*view_edges, training_graphs.edges)]


def with_edge_capacities(
    training_graphs: TrainingGraphs, sizes: Sequence[int]
) -> TrainingGraphs:
    """Adds spare edge slots, which change no result.

    Args:
        training_graphs: The collection with its graphs.
        sizes: Numbers of slots, in the order of `edge_capacities`, none smaller.

    Returns:
        The collection with so many slots.
    """
    *view_sizes, union_size = sizes
    views = tuple(
        view._replace(edges=_pad_edges(view.edges, size))
        for view, size in zip(training_graphs.views, view_sizes, strict=True)
    )
    if training_graphs.union_positions is None:
        return training_graphs._replace(views=views, edges=views[0].edges)
    union_positions = tuple(
        # A spare slot adds weight 0, wherever it adds it.
        jnp.asarray(np.pad(np.asarray(slot), (0, size - slot.shape[0])))
        for slot, size in zip(training_graphs.union_positions, view_sizes, strict=True)
    )
    return training_graphs._replace(
        views=views,
        edges=_pad_edges(training_graphs.edges, union_size),
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
        The projected vectors; a zero vector stays zero.
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
    """Computes the similarities of edges; spare slots get one that is no edge.

    Args:
        edges: Edges of a view.
        vectors: Vectors of the view, projected or not.

    Returns:
        The edges with similarities x_i'x_j as weights.
    """
    weighted = edge_similarities(edges, vectors)
    is_padding = edges.rows == edges.indices
    no_edge = jnp.full_like(weighted.weights, NO_EDGE)
    return weighted._replace(weights=jnp.where(is_padding, no_edge, weighted.weights))


def _mutual_neighbors(vectors: Array, k: int, *, method: NeighborMethod) -> Graph:
    """Graph of mutual neighbours of any similarity; `knn` checks that k is in 1..n."""
    # All pairs are above the bias, so that all become edges.
    return compress(affinity(knn(vectors, k, method=method), bias=NO_EDGE))


def _fill_similarities(training_graphs: TrainingGraphs) -> TrainingGraphs:
    """Computes the similarities of the edges of all views."""
    views = tuple(
        view._replace(edges=edges_with_similarities(view.edges, view.vectors))
        for view in training_graphs.views
    )
    edges = (
        views[0].edges
        if training_graphs.union_positions is None
        else training_graphs.edges
    )
    return training_graphs._replace(views=views, edges=edges)


def _assemble_graphs(units, edges, *, image_ids, scales) -> TrainingGraphs:
    """Collection of these graphs, with the union of their edges."""
    views = tuple(DescriptorView(u, e) for u, e in zip(units, edges, strict=True))
    if len(views) == 1:
        return TrainingGraphs(views, image_ids, scales, edges[0], None)
    n = edges[0].num_nodes
    keys = [
        np.repeat(np.arange(n), np.diff(np.asarray(e.starts, np.int64))) * n
        + np.asarray(e.indices, np.int64)
        for e in edges
    ]
    union_keys = np.unique(np.concatenate(keys))
    counts = np.bincount(union_keys // n, minlength=n)
    union = Graph(
        indices=jnp.asarray((union_keys % n).astype(np.int32)),
        weights=jnp.zeros(union_keys.size, edges[0].weights.dtype),
        starts=jnp.asarray(np.r_[0, np.cumsum(counts)].astype(np.int32)),
    )
    union_positions = tuple(
        jnp.asarray(np.searchsorted(union_keys, key).astype(np.int32)) for key in keys
    )
    return TrainingGraphs(views, image_ids, scales, union, union_positions)


def _pad_edges(edges: Graph, size: int) -> Graph:
    """Adds spare slots, which are no edges: the last node with itself."""
    num_padding = size - edges.indices.shape[0]
    if edges.starts is None or num_padding == 0:
        return edges
    last = edges.num_nodes - 1
    # On the host, as JAX would compile a program for every new shape.
    starts = np.array(edges.starts)
    starts[-1] += num_padding
    return Graph(
        indices=jnp.asarray(
            np.pad(np.asarray(edges.indices), (0, num_padding), constant_values=last)
        ),
        weights=jnp.asarray(
            np.pad(np.asarray(edges.weights), (0, num_padding), constant_values=NO_EDGE)
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
