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


def mutual_similarities(neighbors: Neighbors) -> Float[Array, "n k"]:
    """Similarity of every listed pair that is mutual, -infinity for the others.

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
    back = similarities[jnp.maximum(indices, 0), jnp.maximum(slots, 0)]
    smaller = jnp.minimum(similarities, back)
    return jnp.where(slots >= 0, smaller, jnp.full_like(smaller, -jnp.inf))


def mutual_slots_jax(indices: Int[Array, "n k"]) -> Int[Array, "n k"]:
    """Finds what `diffjax.native.mutual_slots` does, in JAX.

    Whether i is in the list of j is a binary search in j's row, sorted once: n k log k
    gathers and nothing larger than [n, k].

    Args:
        indices: Neighbours of every node, -1 in empty slots.

    Returns:
        Where each neighbour's list has the node, -1 where it has not.
    """
    order = jnp.argsort(indices, axis=1).astype(jnp.int32)
    columns = jnp.take_along_axis(indices, order, axis=1)
    node = jnp.arange(indices.shape[0], dtype=indices.dtype)[:, None]
    other = jnp.maximum(indices, 0)
    place, found = _bisect_rows(columns, other, jnp.broadcast_to(node, indices.shape))
    mutual = found & (indices >= 0) & (other != node)
    return jnp.where(mutual, order[other, place], -1)


def ring_mutual_similarities(neighbors: Neighbors, mesh: Mesh) -> Float[Array, "n k"]:
    """As `mutual_similarities`, with the rows shared out among the devices of a mesh.

    Lists go around the ring, sorted by column. A device sorts its own pairs by their
    other end once, so that those whose other end is in the visiting part lie together,
    and looks up those alone: all visits together cost m k log k gathers for m rows a
    device, whatever the number of devices. Memory is the pairs and two parts.

    Args:
        neighbors: The k nearest of every vector. Row-sharded.
        mesh: The devices; all axes share the rows.

    Returns:
        What `mutual_similarities` gives, row-sharded.

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
        own = Neighbors(indices, similarities)
        (count, k), size = indices.shape, indices.size
        numbers = visiting_row_numbers(0, mesh, count)
        order = jnp.argsort(indices.reshape(-1)).astype(jnp.int32)
        ends = indices.reshape(-1)[order]
        at_once = max(min(_PAIRS_PER_BATCH, size), 1)

        def visit(step, carry):
            visitor, back = carry
            visiting = visiting_row_numbers(step, mesh, count)
            first, last = jnp.searchsorted(
                ends, jnp.stack([visiting[0], visiting[0] + count])
            )

            def some(batch, back):
                places = first + batch * at_once + jnp.arange(at_once, dtype=jnp.int32)
                pairs = order.at[places].get(mode="clip")
                other = ends.at[places].get(mode="clip") - visiting[0]
                here = places < last
                other = jnp.where(here, other, 0)
                columns, values = visitor
                slot, found = _bisect_rows(columns, other, numbers[pairs // k])
                value = jnp.where(found, values[other, slot], -jnp.inf)
                return back.at[jnp.where(here, pairs, size)].set(value, mode="drop")

            batches = (last - first + at_once - 1) // at_once
            back = jax.lax.fori_loop(0, batches, some, back)
            return ring_shift(visitor, mesh), back

        back = jnp.full_like(similarities, -jnp.inf, shape=size)
        carry = _sort_by_column(own), back
        back = jax.lax.fori_loop(0, mesh.size, visit, carry)[1]
        smaller = jnp.minimum(similarities, back.reshape(count, k))
        return jnp.where(
            indices != numbers[:, None], smaller, jnp.full_like(smaller, -jnp.inf)
        )

    return jax.shard_map(look_up, mesh=mesh, in_specs=rows, out_specs=rows)(*neighbors)


def _sort_by_column(neighbors: Neighbors) -> Neighbors:
    """Sorts each list by the numbers in it."""
    order = jnp.argsort(neighbors.indices, axis=1)
    return Neighbors(*(jnp.take_along_axis(part, order, 1) for part in neighbors))


def _bisect_rows(
    columns: Int[Array, "n k"], rows: Int[Array, "..."], wanted: Int[Array, "..."]
) -> tuple[Int[Array, "..."], Bool[Array, "..."]]:
    """Looks numbers up in sorted rows: at which place, and whether they are there."""
    k = columns.shape[1]
    low = jnp.zeros_like(rows, jnp.int32)
    high = jnp.full_like(rows, k, jnp.int32)
    for _ in range(k.bit_length()):
        middle = (low + high) // 2
        right = (low < high) & (columns[rows, jnp.minimum(middle, k - 1)] < wanted)
        low = jnp.where(right, middle + 1, low)
        high = jnp.where(right, high, middle)
    slot = jnp.minimum(low, k - 1)
    return slot, columns[rows, slot] == wanted


def affinity(
    neighbors: Neighbors | Graph,
    *,
    gamma: Scalar = 3.0,
    bias: Scalar = 0.0,
    mesh: Mesh | None = None,
) -> Graph:
    r"""Builds the affinity A of the graph of mutual neighbours.

    a_ij = min(s_k(x_i | x_j), s_k(x_j | x_i)), s(x, z) = max(x'z - bias, 0)^gamma: an
    edge where each vector is among the other's k nearest, none elsewhere and none from
    a vector to itself. A similarity below `bias`, a negative one, gives no edge.

    Args:
        neighbors: The k nearest of every vector, each named once; or a `Graph` whose
            weights are raw similarities, which only needs the kernel. Lists that are
            traced or on a `mesh` are taken as they are.
        gamma: Exponent of the kernel, above 0; may be traced and differentiated.
        bias: What the kernel takes off each similarity, 0 in the paper; may be traced
            and differentiated.
        mesh: Devices, also those of other processes, among which the lists are shared
            out by rows, n being a multiple of them: each keeps its own and sees the
            others' part by part. Then there is no derivative backwards to the
            similarities. None is one device; a `Graph` needs no mesh.

    Returns:
        A in the padded form for `Neighbors`, in the form it came in for a `Graph`.
        It is exactly symmetric, also where the two similarities of a pair differ by
        rounding.

    Raises:
        ValueError: If `gamma` is not above 0, `bias` not finite, n no multiple of the
            devices of `mesh`, lists name a node twice or one that is not there, or a
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

    For gamma below 1 the one-sided derivative there is infinite; where there is no
    edge the convention is 0, so that learning never meets it.

    Args:
        similarity: Inner products, of any shape.
        gamma: The exponent, above 0; may be traced and differentiated.
        bias: What is taken off first; may be traced and differentiated.

    Returns:
        The kernel's values, 0 or above, in the same shape; NaN stays NaN.

    References:
        Iscen et al., CVPR 2017, section 5.1 (the monomial kernel, without a bias).
    """
    exponent = jnp.asarray(gamma, similarity.dtype)
    above = similarity - jnp.asarray(bias, similarity.dtype)
    positive = ~(above <= 0)  # So is what is no number, which must not become 0.
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
    # An empty slot holds the similarity 0, which a negative bias would make an edge.
    weights = jnp.where(graph.indices >= 0, weights, jnp.zeros_like(weights))
    return graph._replace(weights=weights, degrees=None)


# Entries that the search without a kernel compares at a time.
_COMPARISONS_PER_BLOCK = 2**24


def mutual_edges(neighbors: Neighbors) -> Graph:
    r"""Finds the edges of the graph of mutual neighbours, with their raw similarities.

    w_ij = min(x_i'x_j, x_j'x_i) where each of the two is in the other's list. The
    kernel is not applied: `affinity` of the result does it, for every gamma anew, so
    `affinity(mutual_edges(lists), gamma=g)` is `compress(affinity(lists, gamma=g))`
    up to edges that the kernel makes 0, which stay as entries of weight 0.

    Done on the host. Beside the lists it holds the edges, and for every neighbour a
    number of four bytes; while it checks lists that are not from `knn`, a sorted copy.

    Args:
        neighbors: The k nearest of every vector, concrete.

    Returns:
        A graph in the compressed form whose weights are similarities, also those below
        0. It is exactly symmetric.

    Raises:
        ValueError: If a list names a node twice or one that is not there, a similarity
            is not finite, or there are 2^31 edges or more and jax_enable_x64 is off.

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
    """Where each row starts, and the end, for rows of so many entries."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts), dtype=np.int64)])


class MutualRows(NamedTuple):
    """The mutual edges of some rows.

    Attributes:
        counts: How many each row has.
        columns: The other end of each, ascending in a row.
        similarities: The smaller of the two inner products.
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
    """Finds the edges of rows start..stop-1: i and j list each other, i is not j.

    Compares each row's number with all that the rows list which it names: r k k
    comparisons, and nothing larger.

    Args:
        indices: Lists of all vectors, -1 in empty slots; may be mapped.
        similarities: Their inner products.
        start: First row.
        stop: The row after the last.

    Returns:
        The edges.
    """
    own, k = indices[start:stop], indices.shape[1]
    nodes = np.arange(start, stop, dtype=own.dtype)[:, None]
    other = np.maximum(own, 0)
    back = indices[other] == nodes[:, :, None]
    slot = np.argmax(back, axis=2)
    mutual = np.take_along_axis(back, slot[:, :, None], axis=2)[:, :, 0]
    mutual &= (own >= 0) & (own != nodes)
    del back
    smaller = np.minimum(similarities[start:stop], similarities[other, slot])
    columns = np.where(mutual, own, np.iinfo(own.dtype).max)
    order = np.argsort(columns, axis=1, kind="stable")
    counts = mutual.sum(axis=1)
    kept = np.arange(k)[None, :] < counts[:, None]
    return MutualRows(
        counts,
        np.take_along_axis(columns, order, axis=1)[kept],
        np.take_along_axis(smaller, order, axis=1)[kept],
    )


def _mutual_edges_in_blocks(
    indices: Int[np.ndarray, "n k"], similarities: Float[np.ndarray, "n k"]
) -> Graph:
    """Looks into every neighbour's list, for some nodes at a time."""
    n, k = indices.shape
    rows = max(_COMPARISONS_PER_BLOCK // max(k * k, 1), 1)
    found = [
        mutual_rows(indices, similarities, start, min(start + rows, n))
        for start in range(0, n, rows)
    ]
    counts, columns, weights = map(np.concatenate, zip(*found, strict=True))
    return Graph(
        jnp.asarray(columns.astype(np.int32)),
        jnp.asarray(weights),
        row_starts(offsets_of_counts(counts)),
    )


# Numbers gathered at a time for each end of the edges.
_NUMBERS_PER_BLOCK = 2**22


def edge_similarities(graph: Graph, vectors: Float[Array, "n d"]) -> Graph:
    """Computes anew the inner products x_i'x_j on the edges of a graph.

    Which edges there are stays as it is: neighbours are a discrete choice, similarities
    are not. `affinity` of the result is differentiable in the vectors, at the memory of
    a block of edges and not of all of them.

    Args:
        graph: Any graph on the vectors, in either form; only its edges count.
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
    missing = -rows.shape[0] % block

    # Backwards the vectors of a block are gathered again: kept, they would be [e, d].
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def products(ends):
        one, other = ends
        return jnp.sum(vectors[one] * vectors[other], axis=1)

    ends = [
        jnp.pad(jnp.maximum(end, 0), (0, missing)).reshape(-1, block)
        for end in (rows, columns)
    ]
    found: Array = jax.lax.map(products, tuple(ends)).reshape(-1)[: rows.shape[0]]
    similarities = jnp.where(columns >= 0, found, jnp.zeros_like(found))
    weights = similarities.reshape(graph.indices.shape)
    return graph._replace(weights=weights, degrees=None)
