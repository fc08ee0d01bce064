"""Mutual-neighbour affinity with a monomial kernel."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_in_range, check_not_halved
from diffjax.native import has_list_kernel, mutual_slots
from diffjax.types import Graph, Neighbors, Scalar

from ._check import check_graph, remember_good


def affinity(
    neighbors: Neighbors | Graph, *, gamma: Scalar = 3.0, bias: Scalar = 0.0
) -> Graph:
    r"""Builds the affinity A of the graph of mutual neighbours.

    a_ij = min(s_k(x_i | x_j), s_k(x_j | x_i)), s(x, z) = max(x'z - bias, 0)^gamma: an
    edge where each vector is among the other's k nearest, none elsewhere and none from
    a vector to itself. A similarity below `bias`, a negative one, gives no edge.

    Args:
        neighbors: The k nearest of every vector; or a `Graph` whose weights are raw
            similarities, which only needs the kernel.
        gamma: Exponent of the kernel, above 0; may be traced and differentiated.
        bias: What the kernel takes off each similarity, 0 in the paper; may be traced
            and differentiated.

    Returns:
        A in the padded form for `Neighbors`, in the form it came in for a `Graph`.
        It is exactly symmetric, also where the two similarities of a pair differ by
        rounding.

    Raises:
        ValueError: If `gamma` is not above 0, or `bias` not finite.

    References:
        Iscen et al., CVPR 2017, eq. 1, 5 and 6, https://arxiv.org/abs/1611.05113.
    """
    check_in_range("gamma", gamma, low=0, high=float("inf"))
    check_in_range("bias", bias, low=-float("inf"), high=float("inf"))
    if isinstance(neighbors, Graph):
        check_not_halved("neighbors", neighbors.weights)
        check_graph("neighbors", neighbors, signed=True)
        return remember_good(_raise_graph(neighbors, gamma, bias))
    check_not_halved("neighbors", neighbors.similarities)
    return remember_good(_affinity(neighbors, gamma, bias))


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
        The kernel's values, 0 or above, in the same shape.

    References:
        Iscen et al., CVPR 2017, section 5.1 (the monomial kernel, without a bias).
    """
    exponent = jnp.asarray(gamma, similarity.dtype)
    above = similarity - jnp.asarray(bias, similarity.dtype)
    positive = above > 0
    base = jnp.where(positive, above, jnp.ones_like(above))
    return jnp.where(positive, base**exponent, jnp.zeros_like(above))


@jax.jit
def _affinity(neighbors: Neighbors, gamma: Scalar, bias: Scalar) -> Graph:
    similarities = _mutual(neighbors.indices, neighbors.similarities)
    weights = kernel(similarities, gamma, bias=bias)
    edges = similarities > jnp.asarray(bias, similarities.dtype)
    return Graph(jnp.where(edges, neighbors.indices, -1), weights)


@jax.jit
def _raise_graph(graph: Graph, gamma: Scalar, bias: Scalar) -> Graph:
    weights = kernel(graph.weights, gamma, bias=bias)
    # An empty slot holds the similarity 0, which a negative bias would make an edge.
    weights = jnp.where(graph.indices >= 0, weights, jnp.zeros_like(weights))
    return graph._replace(weights=weights, degrees=None)


def _mutual(
    indices: Int[Array, "n k"], similarities: Float[Array, "n k"]
) -> Float[Array, "n k"]:
    """Similarity of every listed pair that is mutual, -infinity for the others."""
    if has_list_kernel(indices, similarities):
        slots = jax.lax.platform_dependent(
            indices, cpu=mutual_slots, default=_search_slots
        )
    else:
        slots = _search_slots(indices)
    # The two directions of a pair come out of different matrix products and may
    # differ in the last bit: eq. 6 takes the smaller, which also makes A symmetric.
    back = similarities[jnp.maximum(indices, 0), jnp.maximum(slots, 0)]
    smaller = jnp.minimum(similarities, back)
    return jnp.where(slots >= 0, smaller, jnp.full_like(smaller, -jnp.inf))


def _search_slots(indices: Int[Array, "n k"]) -> Int[Array, "n k"]:
    """Where each neighbour's list has the node, -1 where it has not.

    That is a binary search in the neighbour's row, sorted once: n k log k gathers and
    nothing larger than [n, k].
    """
    n, k = indices.shape
    order = jnp.argsort(indices, axis=1).astype(jnp.int32)
    columns = jnp.take_along_axis(indices, order, axis=1)
    node = jnp.arange(n, dtype=indices.dtype)[:, None]
    other = jnp.maximum(indices, 0)
    low = jnp.zeros((n, k), jnp.int32)
    high = jnp.full((n, k), k, jnp.int32)
    for _ in range(k.bit_length()):
        middle = (low + high) // 2
        right = (low < high) & (columns[other, jnp.minimum(middle, k - 1)] < node)
        low = jnp.where(right, middle + 1, low)
        high = jnp.where(right, high, middle)
    slot = jnp.minimum(low, k - 1)
    mutual = (columns[other, slot] == node) & (indices >= 0) & (other != node)
    return jnp.where(mutual, order[other, slot], -1)
