"""Symmetric normalisation of an affinity."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_not_halved
from diffjax._spread import by_rows, check_padded, check_spread
from diffjax.types import Graph

from ._check import check_graph, remember_good


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
    check_not_halved("graph", graph.weights)
    if graph.degrees is not None:
        raise ValueError(
            "graph must be an affinity, got one that is normalised already: a part of "
            "it that was cut late stays as it is."
        )
    check_graph("graph", graph)
    if mesh is not None:
        check_padded("graph", graph.starts)
        check_spread("graph", graph.indices, mesh)
    return remember_good(_normalize(graph, mesh=mesh))


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
        both = _scales_of_parts(graph.indices, scale, mesh)
    return graph._replace(weights=graph.weights * both, degrees=degrees)


def _scales_of_parts(
    indices: Int[Array, "n k"], scale: Float[Array, " n"], mesh: Mesh
) -> Float[Array, "n k"]:
    # Left to the compiler, a gather from rows elsewhere may move [n, k] numbers.
    def of_part(indices: Int[Array, "m k"], scale: Float[Array, " m"]):
        everywhere = jax.lax.all_gather(scale, mesh.axis_names, tiled=True)
        return scale[:, None] * everywhere[jnp.maximum(indices, 0)]

    rows = by_rows(mesh)
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
