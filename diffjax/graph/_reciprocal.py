"""Mutual neighbours, the similarity kernel, and the affinity matrix A."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from diffjax._arguments import check_in_range, check_not_downcast, is_concrete
from diffjax._sharding import (
    check_divisible_rows,
    ring_shift,
    row_spec,
    visiting_row_numbers,
)
from diffjax.native import has_list_kernel, lists_to_csr, mutual_slots
from diffjax.types import Graph, Neighbors, Scalar, row_starts

from ._validation import check_graph, check_neighbors, mark_graph_valid

# Pairs that a device looks up at a time.
_PAIRS_PER_BATCH = 2**16
# Entries that the search without a kernel compares at a time.
_COMPARISONS_PER_BLOCK = 2**24
# Numbers gathered at a time for each end of the edges.
_NUMBERS_PER_BLOCK = 2**22


def mutual_similarities(neighbors: Neighbors) -> Float[Array, "n k"]:
    """Computes the similarity of every mutual pair, -infinity for other pairs.

    Args:
        neighbors: The k nearest of every vector.

    Returns:
        The smaller of the similarities of a pair's two directions, which come out of
        different matrix products and may differ in the last bit: eq. 6. That makes the
        affinity symmetric.
    """
    indices, similarities = neighbors
    if has_list_kernel(indices, similarities):
        slots = jax.lax.platform_dependent(
            indices, cpu=mutual_slots, default=mutual_slots_jax
        )
    else:
        slots = mutual_slots_jax(indices)
    reverse_similarities = similarities[jnp.maximum(indices, 0), jnp.maximum(slots, 0)]
    smaller = jnp.minimum(similarities, reverse_similarities)
    return jnp.where(slots >= 0, smaller, jnp.full_like(smaller, -jnp.inf))


def mutual_slots_jax(indices: Int[Array, "n k"]) -> Int[Array, "n k"]:
    """Finds mutual slots in JAX, as `diffjax.native.mutual_slots` does.

    Whether i is in the list of j is a binary search in j's row, sorted once: n k log k
    gathers and no array larger than [n, k].

    Args:
        indices: Neighbours of every node, -1 in empty slots.

    Returns:
        The slot of the node in the list of each neighbour, -1 if it is not in there.
    """
    order = jnp.argsort(indices, axis=1).astype(jnp.int32)
    columns = jnp.take_along_axis(indices, order, axis=1)
    node = jnp.arange(indices.shape[0], dtype=indices.dtype)[:, None]
    neighbor = jnp.maximum(indices, 0)
    slot, is_listed = _bisect_rows(
        columns, neighbor, jnp.broadcast_to(node, indices.shape)
    )
    mutual = is_listed & (indices >= 0) & (neighbor != node)
    return jnp.where(mutual, order[neighbor, slot], -1)


def ring_mutual_similarities(neighbors: Neighbors, mesh: Mesh) -> Float[Array, "n k"]:
    """Computes `mutual_similarities` with rows sharded over the devices of a mesh.

    Lists travel around the ring, sorted by column. A device sorts its pairs by their
    other end once, so that the pairs whose other end is in the visiting shard lie
    together, and looks up only those: all visits together cost m k log k gathers for m
    rows per device, for any number of devices. Memory is the pairs and two shards.

    Args:
        neighbors: The k nearest of every vector. Row-sharded.
        mesh: The devices; all axes share the rows.

    Returns:
        The result of `mutual_similarities`, row-sharded.

    Raises:
        ValueError: If a device has 2^31 pairs or more.
    """
    pairs = neighbors.indices.size // mesh.size
    if pairs > np.iinfo(np.int32).max:
        raise ValueError(
            f"neighbors must be fewer than 2^31 on each device, got {pairs}: use more "
            "devices."
        )
    rows = row_spec(mesh)

    def look_up(indices: Int[Array, "m k"], similarities: Float[Array, "m k"]):
        (count, k), size = indices.shape, indices.size
        numbers = visiting_row_numbers(0, mesh, count)
        order = jnp.argsort(indices.reshape(-1)).astype(jnp.int32)
        ends = indices.reshape(-1)[order]
        batch_size = max(min(_PAIRS_PER_BATCH, size), 1)

        def look_up_visitor(step, carry):
            visitor, reverse_similarities = carry
            visiting = visiting_row_numbers(step, mesh, count)
            first, last = jnp.searchsorted(
                ends, jnp.stack([visiting[0], visiting[0] + count])
            )

            def look_up_batch(batch, reverse_similarities):
                offsets = jnp.arange(batch_size, dtype=jnp.int32)
                positions = first + batch * batch_size + offsets
                pairs = order.at[positions].get(mode="clip")
                neighbor_rows = ends.at[positions].get(mode="clip") - visiting[0]
                is_visiting = positions < last
                neighbor_rows = jnp.where(is_visiting, neighbor_rows, 0)
                columns, values = visitor
                slot, is_listed = _bisect_rows(
                    columns, neighbor_rows, numbers[pairs // k]
                )
                value = jnp.where(is_listed, values[neighbor_rows, slot], -jnp.inf)
                targets = jnp.where(is_visiting, pairs, size)
                return reverse_similarities.at[targets].set(value, mode="drop")

            num_batches = (last - first + batch_size - 1) // batch_size
            reverse_similarities = jax.lax.fori_loop(
                0, num_batches, look_up_batch, reverse_similarities
            )
            return ring_shift(visitor, mesh), reverse_similarities

        # Similarity of each pair in its other direction.
        reverse_similarities = jnp.full_like(similarities, -jnp.inf, shape=size)
        carry = _sort_by_column(Neighbors(indices, similarities)), reverse_similarities
        reverse_similarities = jax.lax.fori_loop(0, mesh.size, look_up_visitor, carry)[
            1
        ]
        smaller = jnp.minimum(similarities, reverse_similarities.reshape(count, k))
        return jnp.where(
            indices != numbers[:, None], smaller, jnp.full_like(smaller, -jnp.inf)
        )

    return jax.shard_map(look_up, mesh=mesh, in_specs=rows, out_specs=rows)(*neighbors)


def _sort_by_column(neighbors: Neighbors) -> Neighbors:
    """Sorts each list by its indices."""
    order = jnp.argsort(neighbors.indices, axis=1)
    return Neighbors(*(jnp.take_along_axis(field, order, 1) for field in neighbors))


def _bisect_rows(
    columns: Int[Array, "n k"], rows: Int[Array, "..."], targets: Int[Array, "..."]
) -> tuple[Int[Array, "..."], Bool[Array, "..."]]:
    """Looks numbers up in sorted rows: their slots, and whether they are listed."""
    k = columns.shape[1]
    low = jnp.zeros_like(rows, jnp.int32)
    high = jnp.full_like(rows, k, jnp.int32)
    for _ in range(k.bit_length()):
        middle = (low + high) // 2
        is_upper_half = (low < high) & (
            columns[rows, jnp.minimum(middle, k - 1)] < targets
        )
        low = jnp.where(is_upper_half, middle + 1, low)
        high = jnp.where(is_upper_half, high, middle)
    slot = jnp.minimum(low, k - 1)
    return slot, columns[rows, slot] == targets


def affinity(
    neighbors: Neighbors | Graph,
    *,
    gamma: Scalar = 3.0,
    bias: Scalar = 0.0,
    mesh: Mesh | None = None,
) -> Graph:
    r"""Builds the affinity A of the graph of mutual neighbours.

    a_ij = min(s_k(x_i | x_j), s_k(x_j | x_i)), s(x, z) = max(x'z - bias, 0)^gamma: two
    vectors share an edge if each is among the other's k nearest; there are no other
    edges and no loops. A similarity below `bias` gives no edge.

    Args:
        neighbors: The k nearest of every vector, without repetitions; or a `Graph`
            whose weights are raw similarities, to which only the kernel is applied.
            Lists that are traced or on a `mesh` are not checked.
        gamma: Exponent of the kernel, above 0; may be traced and differentiated.
        bias: Number that the kernel subtracts from each similarity, 0 in the paper; may
            be traced and differentiated.
        mesh: Devices, also of other processes, that share the rows of the lists; n must
            be a multiple of their number. A device keeps its rows and sees those of the
            others shard by shard. There is then no reverse-mode derivative to the
            similarities. None is one device; a `Graph` needs no mesh.

    Returns:
        A in the padded form for `Neighbors`, in the form of the argument for a `Graph`.
        It is exactly symmetric, even if the two similarities of a pair differ by
        rounding.

    Raises:
        ValueError: If `gamma` is not above 0, `bias` not finite, n no multiple of the
            devices of `mesh`, lists repeat a node or contain an invalid one, or a
            similarity is not finite.

    References:
        Iscen et al., CVPR 2017, eq. 1, 5 and 6, https://arxiv.org/abs/1611.05113.
    """
    check_in_range("gamma", gamma, low=0, high=float("inf"))
    check_in_range("bias", bias, low=-float("inf"), high=float("inf"))
    if isinstance(neighbors, Graph):
        check_not_downcast("neighbors", neighbors.weights)
        check_graph("neighbors", neighbors, signed=True)
        return mark_graph_valid(_apply_kernel(neighbors, gamma, bias))
    check_not_downcast("neighbors", neighbors.similarities)
    if mesh is not None:
        check_divisible_rows("neighbors", neighbors.indices, mesh)
    elif all(map(is_concrete, neighbors)):
        check_neighbors("neighbors", neighbors, n=len(neighbors.indices))
    return mark_graph_valid(_affinity(neighbors, gamma, bias, mesh=mesh))


def kernel(
    similarity: Float[Array, "..."], gamma: Scalar, *, bias: Scalar = 0.0
) -> Float[Array, "..."]:
    """Computes max(s - bias, 0)^gamma, with derivative 0 at s <= bias for every gamma.

    For gamma below 1 the one-sided derivative at s = bias is infinite; by convention it
    is 0 where there is no edge, so that learning never meets it.

    Args:
        similarity: Inner products, of any shape.
        gamma: The exponent, above 0; may be traced and differentiated.
        bias: Number subtracted first; may be traced and differentiated.

    Returns:
        The kernel's values, 0 or above, in the same shape; NaN stays NaN.

    References:
        Iscen et al., CVPR 2017, section 5.1 (the monomial kernel, without a bias).
    """
    exponent = jnp.asarray(gamma, similarity.dtype)
    above = similarity - jnp.asarray(bias, similarity.dtype)
    positive = ~(above <= 0)  # True for NaN, which must not become 0.
    base = jnp.where(positive, above, jnp.ones_like(above))
    return jnp.where(positive, base**exponent, jnp.zeros_like(above))


@functools.partial(jax.jit, static_argnames="mesh")
def _affinity(
    neighbors: Neighbors, gamma: Scalar, bias: Scalar, *, mesh: Mesh | None
) -> Graph:
    if mesh is None:
        similarities = mutual_similarities(neighbors)
    else:
        similarities = ring_mutual_similarities(neighbors, mesh)
    weights = kernel(similarities, gamma, bias=bias)
    edges = ~(similarities <= jnp.asarray(bias, similarities.dtype))
    return Graph(jnp.where(edges, neighbors.indices, -1), weights)


@jax.jit
def _apply_kernel(graph: Graph, gamma: Scalar, bias: Scalar) -> Graph:
    weights = kernel(graph.weights, gamma, bias=bias)
    # An empty slot has similarity 0, which a negative bias would turn into an edge.
    weights = jnp.where(graph.indices >= 0, weights, jnp.zeros_like(weights))
    return graph._replace(weights=weights, degrees=None)


def mutual_edges(neighbors: Neighbors) -> Graph:
    r"""Finds the edges of the graph of mutual neighbours, with their raw similarities.

    w_ij = min(x_i'x_j, x_j'x_i) where each of the two is in the other's list. The
    kernel is not applied: `affinity` of the result applies it, with any gamma, so
    `affinity(mutual_edges(lists), gamma=g)` is `compress(affinity(lists, gamma=g))`
    except that edges for which the kernel is 0 stay as entries of weight 0.

    Runs on the host. Besides the lists, memory holds the edges and four bytes per
    neighbour; the check of lists that are not from `knn` needs a sorted copy.

    Args:
        neighbors: The k nearest of every vector, concrete.

    Returns:
        A graph in the compressed form whose weights are similarities, also negative
        ones. It is exactly symmetric.

    Raises:
        ValueError: If a list repeats a node or contains an invalid one, a similarity is
            not finite, or there are 2^31 edges or more and jax_enable_x64 is off.

    References:
        Iscen et al., CVPR 2017, eq. 5 and 6, https://arxiv.org/abs/1611.05113.
    """
    indices, similarities = neighbors
    check_not_downcast("neighbors", similarities)
    check_neighbors("neighbors", neighbors, n=len(indices))
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu and has_list_kernel(indices, similarities):
        slots, counts = _find_mutual_slots(indices)
        ends = offsets_of_counts(counts)
        starts = row_starts(ends)
        columns, weights = lists_to_csr(
            indices, similarities, starts, count=int(ends[-1]), slots=slots
        )
        return Graph(columns, weights, starts)
    return _mutual_edges_in_blocks(np.asarray(indices), np.asarray(similarities))


@jax.jit
def _find_mutual_slots(
    indices: Int[Array, "n k"],
) -> tuple[Int[Array, "n k"], Int[Array, " n"]]:
    slots = mutual_slots(indices)
    return slots, jnp.sum(slots >= 0, axis=1, dtype=jnp.int32)


def offsets_of_counts(
    counts: Int[Array | np.ndarray, " n"],
) -> Int[np.ndarray, " starts"]:
    """Computes the start of each row, and the end, from numbers of entries."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts), dtype=np.int64)])


class MutualRows(NamedTuple):
    """Mutual edges of some rows.

    Attributes:
        counts: Number of edges of each row.
        columns: Other end of each edge, ascending in a row.
        similarities: Smaller of the two inner products of each edge.
    """

    counts: Int[np.ndarray, " r"]
    columns: Int[np.ndarray, " e"]
    similarities: Float[np.ndarray, " e"]


def mutual_rows(
    indices: Int[np.ndarray, "n k"],
    similarities: Float[np.ndarray, "n k"],
    start: int,
    stop: int,
) -> MutualRows:
    """Finds the mutual edges of rows start..stop-1: i and j list each other, i != j.

    Compares the number of each row with the lists of its neighbours: r k k comparisons,
    which is also the size of the largest array.

    Args:
        indices: Lists of all vectors, -1 in empty slots; may be mapped.
        similarities: Their inner products.
        start: First row.
        stop: The row after the last.

    Returns:
        The edges.
    """
    listed, k = indices[start:stop], indices.shape[1]
    nodes = np.arange(start, stop, dtype=listed.dtype)[:, None]
    other = np.maximum(listed, 0)
    lists_node = indices[other] == nodes[:, :, None]
    slot = np.argmax(lists_node, axis=2)
    mutual = np.take_along_axis(lists_node, slot[:, :, None], axis=2)[:, :, 0]
    mutual &= (listed >= 0) & (listed != nodes)
    del lists_node
    smaller = np.minimum(similarities[start:stop], similarities[other, slot])
    # Mutual neighbours first, in ascending order.
    columns = np.where(mutual, listed, np.iinfo(listed.dtype).max)
    order = np.argsort(columns, axis=1, kind="stable")
    counts = mutual.sum(axis=1)
    is_edge = np.arange(k)[None, :] < counts[:, None]
    return MutualRows(
        counts,
        np.take_along_axis(columns, order, axis=1)[is_edge],
        np.take_along_axis(smaller, order, axis=1)[is_edge],
    )


def _mutual_edges_in_blocks(
    indices: Int[np.ndarray, "n k"], similarities: Float[np.ndarray, "n k"]
) -> Graph:
    """Finds all mutual edges without a kernel, a block of rows at a time."""
    n, k = indices.shape
    rows = max(_COMPARISONS_PER_BLOCK // max(k * k, 1), 1)
    blocks = [
        mutual_rows(indices, similarities, start, min(start + rows, n))
        for start in range(0, n, rows)
    ]
    counts, columns, weights = map(np.concatenate, zip(*blocks, strict=True))
    return Graph(
        jnp.asarray(columns.astype(np.int32)),
        jnp.asarray(weights),
        row_starts(offsets_of_counts(counts)),
    )


def edge_similarities(graph: Graph, vectors: Float[Array, "n d"]) -> Graph:
    """Recomputes the inner products x_i'x_j on the edges of a graph.

    The edges stay the same: neighbours are a discrete choice, similarities are not.
    `affinity` of the result is differentiable in the vectors, with the memory of a
    block of edges instead of all.

    Args:
        graph: Any graph on the vectors, in either form; its weights are not used.
        vectors: The vectors, one row per node.

    Returns:
        The graph with raw similarities as weights, for `affinity`. Exactly symmetric.

    Raises:
        ValueError: If there is not one vector per node, or vectors are double where JAX
            is single.

    References:
        Iscen et al., CVPR 2017, eq. 1, before the kernel,
        https://arxiv.org/abs/1611.05113.
    """
    check_not_downcast("vectors", vectors)
    if vectors.shape[0] != graph.num_nodes:
        raise ValueError(
            f"vectors must have one row per node, {graph.num_nodes}, got "
            f"{vectors.shape[0]}."
        )
    return _edge_similarities(graph, vectors)


@jax.jit
def _edge_similarities(graph: Graph, vectors: Float[Array, "n d"]) -> Graph:
    rows, columns = graph.rows.reshape(-1), graph.indices.reshape(-1)
    block = max(_NUMBERS_PER_BLOCK // max(vectors.shape[1], 1), 1)
    num_padding = -rows.shape[0] % block

    # Reverse mode gathers the vectors of a block again: saved, they would be [e, d].
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def multiply_ends(ends):
        source, target = ends
        return jnp.sum(vectors[source] * vectors[target], axis=1)

    ends = [
        jnp.pad(jnp.maximum(end, 0), (0, num_padding)).reshape(-1, block)
        for end in (rows, columns)
    ]
    similarities: Array = jax.lax.map(multiply_ends, tuple(ends)).reshape(-1)
    similarities = similarities[: rows.shape[0]]
    similarities = jnp.where(columns >= 0, similarities, jnp.zeros_like(similarities))
    weights = similarities.reshape(graph.indices.shape)
    return graph._replace(weights=weights, degrees=None)
