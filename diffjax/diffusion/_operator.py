"""The product S X of a graph in either form."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffjax._spread import vary_alike
from diffjax.types import Graph

from ._compressed import multiply_compressed

# The map (graph, X [n, q]) -> S X [n, q], here or on many devices.
Product = Callable[[Graph, Array], Array]


def multiply(graph: Graph, x: Float[Array, "n q"]) -> Float[Array, "n q"]:
    """Multiplies the matrix of a graph by a block of columns.

    Linear in `x` and in the graph's weights, differentiable in both. Sums are taken in
    the dtype of the weights; no reduced-precision product is used on any device.

    Args:
        graph: A symmetric graph in either form.
        x: One column per query.

    Returns:
        The product, one column per query.

    Raises:
        ValueError: If `x` has not one row per node of a compressed graph.
    """
    if graph.starts is None:
        return multiply_rows(graph.indices, graph.weights, x)
    return multiply_compressed(graph.weights, graph.indices, graph.starts, x)


def multiply_rows(
    indices: Int[Array, "r k"], weights: Float[Array, "r k"], x: Float[Array, "n q"]
) -> Float[Array, "r q"]:
    """Multiplies some rows of a padded graph by a block of columns.

    Adds up one slot of all rows at a time: memory is [r, q], not [r, k, q].

    Args:
        indices: Columns of the rows' entries, -1 in empty slots.
        weights: Their weights, 0 in empty slots.
        x: All rows of the block.

    Returns:
        As many rows as were given.
    """

    # Backwards a slot is gathered again: kept, all of them would be [r, k, q].
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def add_slot(total, slot):
        columns, weight = slot
        return total + weight[:, None] * x[jnp.maximum(columns, 0)], None

    # An empty slot has weight 0, so what it gathers does not matter.
    start = jnp.zeros_like(x, shape=(indices.shape[0], x.shape[1]))
    # Inside shard_map each device sums other rows: the sum must vary as they do.
    start, weights = vary_alike(start, weights)
    return jax.lax.scan(add_slot, start, (indices.T, weights.T))[0]
