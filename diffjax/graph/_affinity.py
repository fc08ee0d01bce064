"""Mutual-neighbour affinity with a monomial kernel."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from diffjax._arguments import check_in_range, check_not_halved, is_concrete
from diffjax._spread import check_spread
from diffjax.types import Graph, Neighbors, Scalar

from ._check import check_graph, remember_good
from ._mutual import mutual_similarities, ring_mutual_similarities
from ._ready import check_neighbors


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
        check_not_halved("neighbors", neighbors.weights)
        check_graph("neighbors", neighbors, signed=True)
        return remember_good(_raise_graph(neighbors, gamma, bias))
    check_not_halved("neighbors", neighbors.similarities)
    if mesh is not None:
        check_spread("neighbors", neighbors.indices, mesh)
    elif all(map(is_concrete, neighbors)):
        check_neighbors("neighbors", neighbors, n=len(neighbors.indices))
    return remember_good(_affinity(neighbors, gamma, bias, mesh=mesh))


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
def _raise_graph(graph: Graph, gamma: Scalar, bias: Scalar) -> Graph:
    weights = kernel(graph.weights, gamma, bias=bias)
    # An empty slot holds the similarity 0, which a negative bias would make an edge.
    weights = jnp.where(graph.indices >= 0, weights, jnp.zeros_like(weights))
    return graph._replace(weights=weights, degrees=None)
