"""The product S X: the only place that knows which sparse format is fast where."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import sparse
from jaxtyping import Array, Float

from diffjax.types import Graph

# XLA's CPU kernel for compressed rows is reached from eight columns on; below, its
# generic path takes longer for one column than the kernel for eight.
_NATIVE_COLUMNS = 8


def multiply(graph: Graph, x: Float[Array, "n q"]) -> Float[Array, "n q"]:
    """Multiplies the matrix of a graph by a block of columns.

    Linear in `x` and in the graph's weights, differentiable in both. Sums are taken in
    the dtype of the weights; no reduced-precision product is used on any device.

    Args:
        graph: A symmetric graph in either form.
        x: One column per query.

    Returns:
        The product, one column per query.
    """
    if graph.starts is None:
        return _multiply_padded(graph, x)
    return _multiply_compressed(graph.weights, graph.indices, graph.starts, x)


def _multiply_padded(graph, x):
    """Adds up one slot of all rows at a time: memory [n, q], not [n, k, q]."""

    def add_slot(total, slot):
        indices, weights = slot
        return total + weights[:, None] * x[jnp.maximum(indices, 0)], None

    # An empty slot has weight 0, so what it gathers does not matter.
    slots = graph.indices.T, graph.weights.T
    return jax.lax.scan(add_slot, jnp.zeros_like(x), slots)[0]


@jax.custom_jvp
def _multiply_compressed(weights, indices, starts, x):
    return jax.lax.platform_dependent(
        weights,
        indices,
        starts,
        x,
        cpu=_multiply_native,
        default=_multiply_segments,
    )


@_multiply_compressed.defjvp
def _multiply_compressed_jvp(primals, tangents):
    # By hand, because the library's rule for compressed rows is several times slower: a
    # change of weights meets the columns of its own edges and nothing else.
    weights, indices, starts, x = primals
    d_weights, _, _, d_x = tangents
    product = functools.partial(_multiply_compressed, weights, indices, starts)
    change = product(d_x) + _multiply_segments(d_weights, indices, starts, x)
    return product(x), change


def _multiply_native(weights, indices, starts, x):
    n, q = x.shape
    matrix = sparse.BCSR((weights, indices, starts), shape=(n, n))
    missing = max(_NATIVE_COLUMNS - q, 0)
    return (matrix @ jnp.pad(x, ((0, 0), (0, missing))))[:, :q]


def _multiply_segments(weights, indices, starts, x):
    rows = Graph(indices, weights, starts).rows
    return jax.ops.segment_sum(
        weights[:, None] * x[indices],
        rows,
        num_segments=x.shape[0],
        indices_are_sorted=True,
    )
