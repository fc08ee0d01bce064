"""Similarities on the edges of a graph, from vectors that may be learned."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax._arguments import check_not_halved
from diffjax.types import Graph

# Numbers gathered at a time for each end of the edges.
_NUMBERS_AT_ONCE = 2**22


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
    check_not_halved("vectors", vectors)
    if vectors.shape[0] != graph.num_nodes:
        raise ValueError(
            f"vectors must have one row per node, {graph.num_nodes}, got "
            f"{vectors.shape[0]}."
        )
    return _edge_similarities(graph, vectors)


@jax.jit
def _edge_similarities(graph: Graph, vectors: Float[Array, "n d"]) -> Graph:
    rows, columns = graph.rows.reshape(-1), graph.indices.reshape(-1)
    block = max(_NUMBERS_AT_ONCE // max(vectors.shape[1], 1), 1)
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
