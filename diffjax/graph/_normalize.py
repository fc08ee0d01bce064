"""Symmetric normalisation of an affinity."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax._arguments import check_not_halved
from diffjax.types import Graph

from ._check import check_graph, remember_good


def normalize(graph: Graph) -> Graph:
    r"""Normalises an affinity: S = D^-1/2 A D^-1/2, D = diag(A 1).

    A node without edges keeps an empty row, so that diffusion leaves its score equal to
    its entry of y. The eigenvalues of S lie in [-1, 1].

    Args:
        graph: The affinity A, in either form, non-negative and symmetric.

    Returns:
        S in the same form, with the degrees of A kept.

    Raises:
        ValueError: If the graph is normalised already, or weights are negative, not
            finite or not symmetric.

    References:
        Iscen et al., CVPR 2017, eq. 2, https://arxiv.org/abs/1611.05113.
    """
    check_not_halved("graph", graph.weights)
    if graph.degrees is not None:
        raise ValueError(
            "graph must be an affinity, got one that is normalised already: a part of "
            "it that was cut late stays as it is."
        )
    check_graph("graph", graph)
    return remember_good(_normalize(graph))


@jax.jit
def _normalize(graph: Graph) -> Graph:
    degrees = row_sums(graph)
    # Twice `where`: the power of a zero degree has a NaN gradient even if unused.
    safe = jnp.where(degrees > 0, degrees, jnp.ones_like(degrees))
    scale = jnp.where(degrees > 0, jax.lax.rsqrt(safe), jnp.zeros_like(degrees))
    # The two scales first, so that both directions of an edge round alike.
    both = scale[graph.rows] * scale[jnp.maximum(graph.indices, 0)]
    return graph._replace(weights=graph.weights * both, degrees=degrees)


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
