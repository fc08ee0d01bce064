"""Sparse graph operations: normalise, compress, reorder, truncate, shortlist."""

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

    A node without edges has an empty row, so that its score by diffusion is its entry
    of y. The eigenvalues of S lie in [-1, 1].

    Args:
        graph: The affinity A, in either form, non-negative and symmetric.
        mesh: Devices, also of other processes, that share the rows of a padded graph; n
            must be a multiple of their number. A device receives the degrees of the
            other rows, n numbers. None is one device.

    Returns:
        S in the same form, with the degrees of A.

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
            "graph must be an affinity, got one that is normalised already: a subgraph "
            "of a normalised graph is used as it is."
        )
    check_graph("graph", graph)
    if mesh is not None:
        check_padded_form("graph", graph.starts)
        check_divisible_rows("graph", graph.indices, mesh)
    return mark_graph_valid(_normalize(graph, mesh=mesh))


@functools.partial(jax.jit, static_argnames="mesh")
def _normalize(graph: Graph, *, mesh: Mesh | None) -> Graph:
    degrees = row_sums(graph)
    # Two `where`: the power of a zero degree has a NaN gradient even if unused.
    safe = jnp.where(degrees > 0, degrees, jnp.ones_like(degrees))
    scale = jnp.where(degrees > 0, jax.lax.rsqrt(safe), jnp.zeros_like(degrees))
    # The two scales are multiplied first, so that both directions of an edge round
    # alike.
    if mesh is None:
        edge_scales = scale[graph.rows] * scale[jnp.maximum(graph.indices, 0)]
    else:
        edge_scales = _sharded_edge_scales(graph.indices, scale, mesh)
    return graph._replace(weights=graph.weights * edge_scales, degrees=degrees)


def _sharded_edge_scales(
    indices: Int[Array, "n k"], scale: Float[Array, " n"], mesh: Mesh
) -> Float[Array, "n k"]:
    # Left to the compiler, a gather from rows of other devices may move [n, k] numbers.
    def scale_shard(indices: Int[Array, "m k"], scale: Float[Array, " m"]):
        gathered_scale = jax.lax.all_gather(scale, mesh.axis_names, tiled=True)
        return scale[:, None] * gathered_scale[jnp.maximum(indices, 0)]

    rows = row_spec(mesh)
    return jax.shard_map(scale_shard, mesh=mesh, in_specs=rows, out_specs=rows)(
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
    """Compresses a graph: drops its empty slots and sorts each row by column.

    Runs on the host, once per index: with k = 200 about 75 of 200 slots hold an edge.
    Node numbers stay the same; see `reorder` for an order that suits the memory.

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
    """Graph with permuted nodes, and the permutation in both directions.

    Attributes:
        graph: The graph, compressed.
        order: Old number of every new node: `y[order]` is y for `graph`.
        inverse_order: New number of every old node: `value[inverse_order]` is a
            solution on `graph` in the old numbering.
    """

    graph: Graph
    order: Int[Array, " n"]
    inverse_order: Int[Array, " n"]

    def permute(self, y: Float[Array, "n q"]) -> Float[Array, "n q"]:
        """Permutes the rows of a block from the old to the new numbering."""
        return y[self.order]

    def unpermute(self, value: Float[Array, "n q"]) -> Float[Array, "n q"]:
        """Permutes the rows of a block from the new to the old numbering."""
        return value[self.inverse_order]

    def restore_graph(self) -> Graph:
        """Copies the graph back to the old numbering."""
        return _permute_graph(
            self.graph.to_scipy(), self.graph, np.asarray(self.inverse_order)
        )


def reorder(
    graph: Graph, *, order: Int[Array | np.ndarray, " n"] | None = None
) -> ReorderedGraph:
    """Reorders the nodes of a graph so that neighbours lie near each other in memory.

    A product then finds the rows that it gathers in the processor's caches more often:
    batches of queries and local solves are faster. Only the order of rows and columns
    of the matrix changes, so scores stay the same up to rounding.

    The order is reverse Cuthill-McKee, by SciPy: breadth first from a node of few
    neighbours, component by component. Runs on the host, once per index, in far less
    time than a search for neighbours.

    Args:
        graph: A graph, normalised or not, concrete.
        order: The old number of every new node, if it is known, such as
            `ReorderedGraph.order` of a graph on the same nodes; None to compute it.

    Returns:
        The reordered graph with the order.

    Raises:
        ValueError: If weights are not finite or not symmetric, or `order` is not a
            permutation of the nodes.

    References:
        Cuthill and McKee, Reducing the bandwidth of sparse symmetric matrices, ACM
        national conference 1969, https://doi.org/10.1145/800195.805928.
    """
    check_graph("graph", graph, signed=True)
    matrix = graph.to_scipy()
    permutation = (
        _cuthill_mckee(matrix)
        if order is None
        else _check_order(order, graph.num_nodes)
    )
    permuted = _permute_graph(matrix, graph, permutation)
    return ReorderedGraph(
        permuted,
        jnp.asarray(permutation),
        jnp.asarray(_invert_permutation(permutation)),
    )


def _cuthill_mckee(matrix: scipy.sparse.csr_array) -> Int[np.ndarray, " n"]:
    # Slow to import, and not needed with a known order.
    from scipy.sparse.csgraph import reverse_cuthill_mckee  # noqa: PLC0415

    return np.asarray(reverse_cuthill_mckee(matrix, symmetric_mode=True), np.int32)


def _check_order(order: Int[Array | np.ndarray, " n"], n: int) -> Int[np.ndarray, " n"]:
    permutation = np.asarray(order).astype(np.int32)
    if not np.array_equal(np.sort(permutation), np.arange(n)):
        raise ValueError(
            f"order must have every node of 0..{n - 1} once, got {len(permutation)} "
            f"numbers of which {len(np.unique(permutation))} differ."
        )
    return permutation


def _invert_permutation(order: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    inverse_order = np.empty_like(order)
    inverse_order[order] = np.arange(len(order), dtype=order.dtype)
    return inverse_order


def _permute_graph(
    matrix: scipy.sparse.csr_array, graph: Graph, order: Int[np.ndarray, " n"]
) -> Graph:
    """Permutes a graph: node i of the result is node order[i] of the argument."""
    permuted = matrix[order]
    permuted.indices = _invert_permutation(order)[permuted.indices]
    # The transpose, which is equal, comes with sorted rows, faster than sorting them.
    permuted = permuted.T.tocsr()
    degrees = graph.degrees
    result = Graph(
        indices=jnp.asarray(permuted.indices.astype(np.int32)),
        weights=jnp.asarray(permuted.data),
        starts=row_starts(permuted.indptr),
        degrees=None if degrees is None else jnp.asarray(np.asarray(degrees)[order]),
    )
    # It is checked already, except that raw similarities may be below 0.
    if permuted.nnz and permuted.data.min() < 0:
        return result
    return mark_graph_valid(result)


def truncate(
    graph: Graph, nodes: Int[Array | np.ndarray, " t"], *, max_degree: int | None = None
) -> Graph:
    """Truncates a graph to the rows and columns of some nodes.

    An affinity A is truncated early, and normalised by `normalize` afterwards, as in
    the paper. A normalised S is truncated late, as in offline diffusion: its rows then
    lose the weight of edges to other nodes. `vmap` over lists of nodes gives a batch of
    small graphs of one shape.

    Args:
        graph: A graph in either form.
        nodes: The nodes, without repetitions, in the order of the result; -1 is padding
            and becomes a node without edges.
        max_degree: Largest number of entries of any row of a compressed graph, a Python
            number; needed where the graph is traced. Further entries are dropped.

    Returns:
        The graph on t nodes in the padded form, as wide as `max_degree` or the lists.

    Raises:
        ValueError: If a node is not in the graph or is repeated, the graph is invalid,
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
    subgraph = _truncate(graph, jnp.asarray(nodes, graph.indices.dtype), width=width)
    return mark_graph_valid(subgraph)


def _check_nodes(nodes: np.ndarray, n: int) -> None:
    if nodes.size and not -1 <= nodes.min() <= nodes.max() < n:
        raise ValueError(
            f"nodes must be in -1..{n - 1}, got {nodes.min()}..{nodes.max()}."
        )
    distinct, counts = np.unique(nodes[nodes >= 0], return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"nodes must name each node once, got {distinct[counts > 1][0]} "
            f"{counts.max()} times."
        )


def max_row_entries(graph: Graph, max_degree: int | None) -> int:
    """Returns the largest number of entries of any row, counted if the graph allows it.

    Args:
        graph: A graph in either form; the number of a padded one is its slots.
        max_degree: Upper bound for a compressed graph, if it is known.

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
    counted = _count_max_row_entries(graph.starts)
    if max_degree is not None and max_degree < counted:
        raise ValueError(f"max_degree must be at least {counted}, got {max_degree}.")
    return counted if max_degree is None else max_degree


@cache_by_identity
def _count_max_row_entries(starts: Int[Array, " starts"]) -> int:
    return int(np.diff(np.asarray(starts)).max(initial=0))


@functools.partial(jax.jit, static_argnames="width")
def _truncate(graph: Graph, nodes: Int[Array, " t"], *, width: int) -> Graph:
    is_node = nodes >= 0
    row = jnp.maximum(nodes, 0)
    columns, weights = gather_padded_rows(graph, row, width=width)
    # New number of each node, -1 if it has none.
    n, t = graph.num_nodes, nodes.shape[0]
    new_number = jnp.full(n, -1, nodes.dtype)
    new_number = new_number.at[jnp.where(is_node, nodes, n)].set(
        jnp.arange(t, dtype=nodes.dtype), mode="drop"
    )
    is_entry = (columns >= 0) & is_node[:, None]
    indices = jnp.where(is_entry, new_number[jnp.maximum(columns, 0)], -1)
    degrees = None
    if graph.degrees is not None:
        degrees = graph.degrees[row]
        degrees = jnp.where(is_node, degrees, jnp.zeros_like(degrees))
    return Graph(
        indices=indices,
        weights=jnp.where(indices >= 0, weights, jnp.zeros_like(weights)),
        degrees=degrees,
    )


def gather_padded_rows(
    graph: Graph, nodes: Int[Array, " t"], *, width: int
) -> tuple[Int[Array, "t w"], Float[Array, "t w"]]:
    """Gathers rows of a graph in either form, padded with empty slots.

    Args:
        graph: The graph.
        nodes: Numbers of the rows.
        width: Largest number of entries of any row of a compressed graph; see
            `max_row_entries`.

    Returns:
        Columns, -1 in empty slots, and weights, arbitrary in empty slots.
    """
    if graph.starts is None:
        return graph.indices[nodes], graph.weights[nodes]
    starts = graph.starts
    if not graph.indices.size:
        # An empty array can't be gathered from.
        return (
            jnp.full((nodes.shape[0], width), -1, graph.indices.dtype),
            jnp.zeros((nodes.shape[0], width), graph.weights.dtype),
        )
    entries = starts[nodes][:, None] + jnp.arange(width, dtype=starts.dtype)[None, :]
    is_entry = entries < starts[nodes + 1][:, None]
    entries = jnp.where(is_entry, entries, 0)
    columns = graph.indices.at[entries].get(mode="fill", fill_value=-1)
    weights = graph.weights.at[entries].get(mode="fill", fill_value=0)
    return jnp.where(is_entry, columns, -1), weights


class Shortlist(NamedTuple):
    """Short lists of images and their regions, of one shape for all queries.

    Attributes:
        images: Image numbers, best first.
        nodes: Their regions, `max_regions` entries per image, one image after the
            other, padded with -1.
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
        image_ids: Image of every region, ascending from 0.
        size: Images per query, 1 to m. A Python number.
        max_regions: Largest number of regions of any image; needed where `image_ids` is
            traced. A Python number. Further regions are left out.

    Returns:
        Images and nodes of every query, for `truncate` and `query_vectors`.

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
    max_regions = max_rows_per_id(
        "image_ids", image_ids, limit=max_regions, limit_name="max_regions"
    )
    ids = jnp.asarray(image_ids, jnp.int32)
    return _shortlist(scores, ids, size=size, max_regions=max_regions)


@functools.partial(jax.jit, static_argnames=("size", "max_regions"))
def _shortlist(scores, image_ids, *, size, max_regions):
    images = jax.lax.top_k(scores.T, size)[1].astype(jnp.int32)
    first = jnp.searchsorted(image_ids, images, side="left")
    last = jnp.searchsorted(image_ids, images, side="right")
    regions = first[..., None] + jnp.arange(max_regions, dtype=first.dtype)[None, None]
    nodes = jnp.where(regions < last[..., None], regions, jnp.full_like(regions, -1))
    return Shortlist(images, nodes.reshape(images.shape[0], -1))
