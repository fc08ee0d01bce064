"""Sparse graph operations: normalise, compress, reorder, truncate, short lists."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from diffjax._arguments import (
    check_ids,
    check_not_downcast,
    is_concrete,
    max_rows_per_id,
)
from diffjax._array_cache import cache_by_identity
from diffjax._sharding import check_divisible_rows, check_padded_form, row_spec
from diffjax.native import has_list_kernel, lists_to_csr
from diffjax.types import Graph, row_starts

from ._reciprocal import offsets_of_counts
from ._validation import check_graph, mark_graph_valid


def normalize(graph: Graph, *, mesh: Mesh | None = None) -> Graph:
    r"""Normalises an affinity: S = D^-1/2 A D^-1/2, D = diag(A 1).

    A node without edges keeps an empty row, so that diffusion leaves its score equal to
    its entry of y. The eigenvalues of S lie in [-1, 1].

    Args:
        graph: The affinity A, in either form, non-negative and symmetric.
        mesh: Devices, also those of other processes, among which the rows of a padded
            graph are shared out, n being a multiple of them. Of the others' rows a
            device gets their degrees, n numbers. None is one device.

    Returns:
        S in the same form, with the degrees of A kept.

    Raises:
        ValueError: If the graph is normalised already, or weights are negative, not
            finite or not symmetric; with a mesh if the graph is in the compressed form
            or n no multiple of the devices.

    References:
        Iscen et al., CVPR 2017, eq. 2, https://arxiv.org/abs/1611.05113.
    """
    check_not_downcast("graph", graph.weights)
    if graph.degrees is not None:
        raise ValueError(
            "graph must be an affinity, got one that is normalised already: a part of "
            "it that was cut late stays as it is."
        )
    check_graph("graph", graph)
    if mesh is not None:
        check_padded_form("graph", graph.starts)
        check_divisible_rows("graph", graph.indices, mesh)
    return mark_graph_valid(_normalize(graph, mesh=mesh))


@functools.partial(jax.jit, static_argnames="mesh")
def _normalize(graph: Graph, *, mesh: Mesh | None) -> Graph:
    degrees = row_sums(graph)
    # Twice `where`: the power of a zero degree has a NaN gradient even if unused.
    safe = jnp.where(degrees > 0, degrees, jnp.ones_like(degrees))
    scale = jnp.where(degrees > 0, jax.lax.rsqrt(safe), jnp.zeros_like(degrees))
    # The two scales first, so that both directions of an edge round alike.
    if mesh is None:
        both = scale[graph.rows] * scale[jnp.maximum(graph.indices, 0)]
    else:
        both = _sharded_edge_scales(graph.indices, scale, mesh)
    return graph._replace(weights=graph.weights * both, degrees=degrees)


def _sharded_edge_scales(
    indices: Int[Array, "n k"], scale: Float[Array, " n"], mesh: Mesh
) -> Float[Array, "n k"]:
    # Left to the compiler, a gather from rows elsewhere may move [n, k] numbers.
    def of_part(indices: Int[Array, "m k"], scale: Float[Array, " m"]):
        everywhere = jax.lax.all_gather(scale, mesh.axis_names, tiled=True)
        return scale[:, None] * everywhere[jnp.maximum(indices, 0)]

    rows = row_spec(mesh)
    return jax.shard_map(of_part, mesh=mesh, in_specs=rows, out_specs=rows)(
        indices, scale
    )


def row_sums(graph: Graph) -> Float[Array, " n"]:
    """Sums the weights of every row, in either form."""
    if graph.starts is None:
        return jnp.sum(graph.weights, axis=1)
    return jax.ops.segment_sum(
        graph.weights,
        graph.rows,
        num_segments=graph.num_nodes,
        indices_are_sorted=True,
    )


def compress(graph: Graph) -> Graph:
    """Drops the empty slots of a graph and sorts each row by column.

    Done once per index, on the host: with k 200 about 75 of 200 slots hold an edge.
    Node numbers stay as they are; see `reorder` for an order that suits the memory.

    Args:
        graph: A graph in either form, concrete.

    Returns:
        The same graph in the compressed form. Edges of weight 0 are dropped.

    Raises:
        ValueError: If weights are negative, not finite or not symmetric, or there are
            2^31 edges or more and jax_enable_x64 is off.
    """
    check_graph("graph", graph)
    if (
        graph.starts is None
        and jax.default_backend() == "cpu"
        and has_list_kernel(graph.indices, graph.weights)
    ):
        return mark_graph_valid(_compress_padded(graph))
    matrix = graph.to_scipy()
    matrix.sort_indices()
    return mark_graph_valid(
        Graph(
            indices=jnp.asarray(matrix.indices.astype(np.int32)),
            weights=jnp.asarray(matrix.data),
            starts=row_starts(matrix.indptr),
            degrees=graph.degrees,
        )
    )


def _compress_padded(graph: Graph) -> Graph:
    ends = offsets_of_counts(_count_edges(graph))
    starts = row_starts(ends)
    columns, weights = lists_to_csr(
        graph.indices, graph.weights, starts, count=int(ends[-1])
    )
    return Graph(columns, weights, starts, graph.degrees)


@jax.jit
def _count_edges(graph: Graph) -> Int[Array, " n"]:
    return jnp.sum((graph.indices >= 0) & (graph.weights != 0), axis=1, dtype=jnp.int32)


class ReorderedGraph(NamedTuple):
    """A graph whose nodes are numbered anew, and the way there and back.

    Attributes:
        graph: The graph, compressed.
        order: Old number of every new node: `y[order]` is y for `graph`.
        inverse_order: New number of every old node: `value[inverse_order]` is what it
            found, as the nodes were numbered before.
    """

    graph: Graph
    order: Int[Array, " n"]
    inverse_order: Int[Array, " n"]

    def permute(self, y: Float[Array, "n q"]) -> Float[Array, "n q"]:
        """Numbers the rows of a block as the graph does."""
        return y[self.order]

    def unpermute(self, value: Float[Array, "n q"]) -> Float[Array, "n q"]:
        """Numbers the rows of a block as they were numbered before."""
        return value[self.inverse_order]

    def restore_graph(self) -> Graph:
        """Makes the graph as it was numbered before, a copy."""
        return _permute_graph(
            self.graph.to_scipy(), self.graph, np.asarray(self.inverse_order)
        )


def reorder(
    graph: Graph, *, order: Int[Array | np.ndarray, " n"] | None = None
) -> ReorderedGraph:
    """Numbers the nodes of a graph so that neighbours lie near each other in memory.

    What a product gathers is then in the processor's caches more often: a batch of
    queries is solved faster, and so is what one query reaches. The matrix is the same
    but for the order of its rows and columns, so every score is, up to rounding.

    The order is reverse Cuthill-McKee's, by SciPy: breadth first from a node of few
    neighbours, component by component. Done once per index, on the host, in far less
    time than one search for neighbours.

    Args:
        graph: A graph, normalised or not, concrete.
        order: The old number of every new node, where it is known already, such as
            `ReorderedGraph.order` of a graph of the same nodes; None to find a good
            one.

    Returns:
        The graph in the new order, and the order.

    Raises:
        ValueError: If weights are not finite or not symmetric, or `order` does not
            have every node once.

    References:
        Cuthill and McKee, Reducing the bandwidth of sparse symmetric matrices, ACM
        national conference 1969, https://doi.org/10.1145/800195.805928.
    """
    check_graph("graph", graph, signed=True)
    matrix = graph.to_scipy()
    chosen = (
        _cuthill_mckee(matrix)
        if order is None
        else _check_order(order, graph.num_nodes)
    )
    moved = _permute_graph(matrix, graph, chosen)
    return ReorderedGraph(
        moved, jnp.asarray(chosen), jnp.asarray(_invert_permutation(chosen))
    )


def _cuthill_mckee(matrix: scipy.sparse.csr_array) -> Int[np.ndarray, " n"]:
    # Whoever has an order does without all that this brings along.
    from scipy.sparse.csgraph import reverse_cuthill_mckee  # noqa: PLC0415

    return np.asarray(reverse_cuthill_mckee(matrix, symmetric_mode=True), np.int32)


def _check_order(order: Int[Array | np.ndarray, " n"], n: int) -> Int[np.ndarray, " n"]:
    given = np.asarray(order).astype(np.int32)
    if len(given) != n or not np.array_equal(np.sort(given), np.arange(n)):
        raise ValueError(
            f"order must have every node of 0..{n - 1} once, got {len(given)} numbers "
            f"of which {len(np.unique(given))} differ."
        )
    return given


def _invert_permutation(order: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    inverse_order = np.empty_like(order)
    inverse_order[order] = np.arange(len(order), dtype=order.dtype)
    return inverse_order


def _permute_graph(
    matrix: scipy.sparse.csr_array, graph: Graph, order: Int[np.ndarray, " n"]
) -> Graph:
    """Makes the graph of which node i is node order[i] of this one."""
    moved = matrix[order]
    moved.indices = _invert_permutation(order)[moved.indices]
    # Its own transpose, which is made with its rows sorted, faster than sorting them.
    moved = moved.T.tocsr()
    degrees = graph.degrees
    result = Graph(
        indices=jnp.asarray(moved.indices.astype(np.int32)),
        weights=jnp.asarray(moved.data),
        starts=row_starts(moved.indptr),
        degrees=None if degrees is None else jnp.asarray(np.asarray(degrees)[order]),
    )
    # Looked at already, but raw similarities may be below 0.
    if moved.nnz and moved.data.min() < 0:
        return result
    return mark_graph_valid(result)


def truncate(
    graph: Graph, nodes: Int[Array | np.ndarray, " t"], *, max_degree: int | None = None
) -> Graph:
    """Keeps the rows and columns of some nodes.

    Of an affinity A this is the early cut: `normalize` it afterwards, as the paper
    does. Of a normalised S it is the late cut of offline diffusion, whose rows keep the
    weight that leads out of them as loss. `vmap` over lists of nodes gives a batch of
    small graphs of one shape.

    Args:
        graph: A graph in either form.
        nodes: Which nodes, each at most once, in the order that they shall have; -1 is
            padding and becomes a node without edges.
        max_degree: Most entries of any row of a compressed graph, a Python number;
            needed where the graph is traced. Entries past it are lost.

    Returns:
        The graph on t nodes in the padded form, as wide as `max_degree` or the lists.

    Raises:
        ValueError: If a node is not in the graph or is named twice, the graph is none,
            or `max_degree` is missing under jit or too small.

    References:
        Iscen et al., CVPR 2017, section 4.4, https://arxiv.org/abs/1611.05113 (early);
        Yang et al., AAAI 2019, https://arxiv.org/abs/1811.10907 (late).
    """
    check_not_downcast("graph", graph.weights)
    check_graph("graph", graph)
    if is_concrete(nodes):
        _check_nodes(np.asarray(nodes), graph.num_nodes)
    width = max_row_entries(graph, max_degree)
    found = _truncate(graph, jnp.asarray(nodes, graph.indices.dtype), width=width)
    return mark_graph_valid(found)


def _check_nodes(nodes: np.ndarray, n: int) -> None:
    if nodes.size and not -1 <= nodes.min() <= nodes.max() < n:
        raise ValueError(
            f"nodes must be in -1..{n - 1}, got {nodes.min()}..{nodes.max()}."
        )
    different, counts = np.unique(nodes[nodes >= 0], return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"nodes must name each node once, got {different[counts > 1][0]} "
            f"{counts.max()} times."
        )


def max_row_entries(graph: Graph, max_degree: int | None) -> int:
    """The most entries of any row: the slots of a padded graph, else `max_degree`.

    Args:
        graph: A graph in either form.
        max_degree: What the caller knows of a compressed graph, if anything.

    Returns:
        A Python number.

    Raises:
        ValueError: If the graph is traced and `max_degree` is missing, or too small.
    """
    if graph.starts is None:
        return graph.indices.shape[1]
    if not is_concrete(graph.starts):
        if max_degree is None:
            raise ValueError(
                "max_degree must be given under jit, where the graph has no values."
            )
        return max_degree
    most = _count_max_row_entries(graph.starts)
    if max_degree is not None and max_degree < most:
        raise ValueError(f"max_degree must be at least {most}, got {max_degree}.")
    return most if max_degree is None else max_degree


@cache_by_identity
def _count_max_row_entries(starts: Int[Array, " starts"]) -> int:
    return int(np.diff(np.asarray(starts)).max(initial=0))


@functools.partial(jax.jit, static_argnames="width")
def _truncate(graph: Graph, nodes: Int[Array, " t"], *, width: int) -> Graph:
    here = nodes >= 0
    row = jnp.maximum(nodes, 0)
    columns, weights = gather_padded_rows(graph, row, width=width)
    # Where each node went; padding goes nowhere.
    n, t = graph.num_nodes, nodes.shape[0]
    position = jnp.full(n, -1, nodes.dtype)
    position = position.at[jnp.where(here, nodes, n)].set(
        jnp.arange(t, dtype=nodes.dtype), mode="drop"
    )
    kept = (columns >= 0) & here[:, None]
    moved = jnp.where(kept, position[jnp.maximum(columns, 0)], -1)
    degrees = None
    if graph.degrees is not None:
        own = graph.degrees[row]
        degrees = jnp.where(here, own, jnp.zeros_like(own))
    return Graph(
        indices=moved,
        weights=jnp.where(moved >= 0, weights, jnp.zeros_like(weights)),
        degrees=degrees,
    )


def gather_padded_rows(
    graph: Graph, nodes: Int[Array, " t"], *, width: int
) -> tuple[Int[Array, "t w"], Float[Array, "t w"]]:
    """Rows of a graph in either form, filled up with empty slots.

    Args:
        graph: The graph.
        nodes: Whose rows.
        width: Most entries of any row of a compressed graph; see `max_row_entries`.

    Returns:
        Columns, -1 in empty slots, and weights, which say nothing there.
    """
    if graph.starts is None:
        return graph.indices[nodes], graph.weights[nodes]
    starts = graph.starts
    if not graph.indices.size:
        # There is nothing to gather from.
        return (
            jnp.full((nodes.shape[0], width), -1, graph.indices.dtype),
            jnp.zeros((nodes.shape[0], width), graph.weights.dtype),
        )
    places = starts[nodes][:, None] + jnp.arange(width, dtype=starts.dtype)[None, :]
    filled = places < starts[nodes + 1][:, None]
    places = jnp.where(filled, places, 0)
    columns = graph.indices.at[places].get(mode="fill", fill_value=-1)
    weights = graph.weights.at[places].get(mode="fill", fill_value=0)
    return jnp.where(filled, columns, -1), weights


class Shortlist(NamedTuple):
    """The best images of every query and their regions, in one shape for all queries.

    Attributes:
        images: Image numbers, best first.
        nodes: Their regions, `max_regions` places for each image, one image after the
            other; -1 where an image has fewer.
    """

    images: Int[Array, "q l"]
    nodes: Int[Array, "q t"]


def shortlist(
    scores: Float[Array, "m q"],
    image_ids: Int[Array | np.ndarray, " n"],
    *,
    size: int,
    max_regions: int | None = None,
) -> Shortlist:
    """Lists the images of highest score, ties by lower index, and their regions.

    Args:
        scores: Scores of all images by a first search, such as by global descriptors.
        image_ids: Image of every region, from 0 upwards.
        size: Images per query, 1 to m. A Python number.
        max_regions: Most regions of any image; needed where `image_ids` is traced. A
            Python number. Regions past it are left out.

    Returns:
        Images and nodes of every query; the nodes of one are what `truncate` and
        `query_vectors` take.

    Raises:
        ValueError: If `size` is outside 1..m, ids go back or skip, or `max_regions` is
            missing under jit or too small.

    References:
        Iscen et al., CVPR 2017, section 4.4, https://arxiv.org/abs/1611.05113.
    """
    m = scores.shape[0]
    if not 1 <= size <= m:
        raise ValueError(f"size must be in 1..{m} (m), got {size}.")
    check_ids("image_ids", image_ids, rows=image_ids.shape[0])
    most = max_rows_per_id(
        "image_ids", image_ids, most=max_regions, most_name="max_regions"
    )
    ids = jnp.asarray(image_ids, jnp.int32)
    return _shortlist(scores, ids, size=size, max_regions=most)


@functools.partial(jax.jit, static_argnames=("size", "max_regions"))
def _shortlist(scores, image_ids, *, size, max_regions):
    images = jax.lax.top_k(scores.T, size)[1].astype(jnp.int32)
    first = jnp.searchsorted(image_ids, images, side="left")
    last = jnp.searchsorted(image_ids, images, side="right")
    places = first[..., None] + jnp.arange(max_regions, dtype=first.dtype)[None, None]
    nodes = jnp.where(places < last[..., None], places, jnp.full_like(places, -1))
    return Shortlist(images, nodes.reshape(images.shape[0], -1))
