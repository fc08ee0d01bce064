"""The product S X: the only place that knows which sparse format is fast where."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.experimental import sparse
from jaxtyping import Array, Float, Int

from diffjax.types import Graph

# XLA's CPU kernel for compressed rows is reached from eight columns on; below, its
# generic path takes longer for one column than the kernel for eight.
_NATIVE_COLUMNS = 8

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
    """
    if graph.starts is None:
        return multiply_rows(graph.indices, graph.weights, x)
    return _multiply_compressed(graph.weights, graph.indices, graph.starts, x)


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
    spread = tuple(jax.typeof(weights).vma)
    start = jax.lax.pcast(start, spread, to="varying") if spread else start
    return jax.lax.scan(add_slot, start, (indices.T, weights.T))[0]


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


@functools.partial(_multiply_compressed.defjvp, symbolic_zeros=True)
def _multiply_compressed_jvp(primals, tangents):
    # By hand, because the library's rule for compressed rows is several times slower: a
    # change of weights meets the columns of its own edges and nothing else.
    weights, indices, starts, x = primals
    d_weights, _, _, d_x = tangents
    product = functools.partial(_multiply_compressed, weights, indices, starts)
    # What does not change costs no product: solves ask for one change at a time.
    change = jnp.zeros_like(x)
    if not isinstance(d_x, SymbolicZero):
        change += product(d_x)
    if not isinstance(d_weights, SymbolicZero):
        change += _multiply_segments(d_weights, indices, starts, x)
    return product(x), change


def _multiply_native(weights, indices, starts, x):
    n, q = x.shape
    matrix = sparse.BCSR((weights, indices, starts), shape=(n, n))
    missing = max(_NATIVE_COLUMNS - q, 0)
    return (matrix @ jnp.pad(x, ((0, 0), (0, missing))))[:, :q]


# Gathering again takes less time than keeping what was gathered, [e, q], for backwards.
@functools.partial(jax.checkpoint, prevent_cse=False)
def _multiply_segments(weights, indices, starts, x):
    rows = Graph(indices, weights, starts).rows
    return jax.ops.segment_sum(
        weights[:, None] * x[indices],
        rows,
        num_segments=x.shape[0],
        indices_are_sorted=True,
    )
