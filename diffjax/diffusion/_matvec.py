"""Sparse matrix product S X of a graph in either form, on one device or many."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from diffjax._sharding import (
    check_padded_form,
    constrain_sharding,
    match_varying_axes,
    row_spec,
)
from diffjax.native import csr_product, has_csr_kernel
from diffjax.types import Graph, Solution

# The map (graph, X [n, q]) -> S X [n, q], on one device or many.
MatvecFunction = Callable[[Graph, Array], Array]

# XLA uses its own kernel for compressed rows from eight columns on; below that, its
# generic path takes longer for one column than the kernel for eight.
_MIN_XLA_COLUMNS = 8
_XLA_DTYPES = jnp.float32, jnp.float64

_csr_product_p = Primitive("diffjax_csr_product")


def multiply_csr(
    weights: Float[Array, " e"],
    indices: Int[Array, " e"],
    starts: Int[Array, " starts"],
    x: Float[Array, "n q"],
    *,
    transposed: bool = False,
) -> Float[Array, "n q"]:
    """Multiplies a matrix in compressed rows by a block of columns: A X, or A^T X.

    Args:
        weights: Entries of A.
        indices: Column of each entry.
        starts: Start of each row, and the end of the last: n + 1 numbers.
        x: The block X, one column per query.
        transposed: Whether to multiply by A^T.

    Returns:
        The product, one column per query.

    Raises:
        ValueError: If sizes do not match.
    """
    dtype = jnp.promote_types(weights.dtype, x.dtype)
    arguments = weights.astype(dtype), indices, starts, x.astype(dtype)
    return _csr_product_p.bind(*match_varying_axes(*arguments), transposed=transposed)


@functools.partial(jax.jit, static_argnames="transposed")
def _compiled_csr_product(*arguments, transposed):
    return _csr_product_p.bind(*arguments, transposed=transposed)


_csr_product_p.def_impl(_compiled_csr_product)


@_csr_product_p.def_abstract_eval
def _csr_product_shape(weights, indices, starts, x, *, transposed):
    del transposed
    n = starts.shape[0] - 1
    if x.ndim != 2 or x.shape[0] != n:
        raise ValueError(f"x must have one row per node, {n}, got {list(x.shape)}.")
    if weights.shape != indices.shape:
        raise ValueError(
            f"graph must have one weight per index, {list(indices.shape)}, got "
            f"{list(weights.shape)}."
        )
    return x.update(weak_type=False)


# Lowering of the primitive, by device.


def _csr_product_on_cpu(weights, indices, starts, x, *, transposed):
    if x.size and has_csr_kernel(weights, indices, starts, x):
        return csr_product(weights, indices, starts, x, transposed=transposed)
    if transposed or x.dtype not in _XLA_DTYPES:
        return _csr_product_by_segment_sum(
            weights, indices, starts, x, transposed=transposed
        )
    from jax.experimental import sparse  # noqa: PLC0415  # Slow, and seldom needed.

    n, q = x.shape
    # That kernel wants indices and starts of one type, 64 bits from 2^31 entries on.
    matrix = sparse.BCSR((weights, indices.astype(starts.dtype), starts), shape=(n, n))
    num_padding = max(_MIN_XLA_COLUMNS - q, 0)
    return (matrix @ jnp.pad(x, ((0, 0), (0, num_padding))))[:, :q]


# In reverse mode, gathering again takes less time than saving the [e, q] gathered rows.
@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(4,))
def _gather_and_sum(weights, indices, starts, x, transposed):
    rows = Graph(indices, weights, starts).rows
    source, target = (rows, indices) if transposed else (indices, rows)
    return jax.ops.segment_sum(
        weights[:, None] * x[source],
        target,
        num_segments=x.shape[0],
        indices_are_sorted=not transposed,
    )


def _csr_product_by_segment_sum(weights, indices, starts, x, *, transposed):
    return _gather_and_sum(weights, indices, starts, x, transposed)


mlir.register_lowering(
    _csr_product_p, mlir.lower_fun(_csr_product_by_segment_sum, multiple_results=False)
)
mlir.register_lowering(
    _csr_product_p,
    mlir.lower_fun(_csr_product_on_cpu, multiple_results=False),
    platform="cpu",
)


# Derivatives of the primitive, which is linear in the weights and in the block.


def _csr_product_jvp(primals, tangents, *, transposed):
    weights, indices, starts, x = primals
    d_weights, _, _, d_x = tangents
    product = functools.partial(multiply_csr, transposed=transposed)
    y = product(*primals)
    # A zero tangent costs no product: solves differentiate one argument at a time.
    tangent_terms = []
    if not isinstance(d_x, ad.Zero):
        tangent_terms.append(product(weights, indices, starts, d_x))
    if not isinstance(d_weights, ad.Zero):
        # The tangent of the weights multiplies x along the same edges.
        tangent_terms.append(
            _csr_product_by_segment_sum(
                d_weights, indices, starts, x, transposed=transposed
            )
        )
    return y, functools.reduce(jnp.add, tangent_terms)


def _csr_product_transpose(cotangent, weights, indices, starts, x, *, transposed):
    if isinstance(cotangent, ad.Zero):
        return None, None, None, ad.Zero(x.aval)
    x_cotangent = multiply_csr(
        weights, indices, starts, cotangent, transposed=not transposed
    )
    return None, None, None, x_cotangent


ad.primitive_jvps[_csr_product_p] = _csr_product_jvp
ad.primitive_transposes[_csr_product_p] = _csr_product_transpose


# Batching of the primitive.


def _csr_product_batch(arguments, axes, *, transposed):
    product = functools.partial(multiply_csr, transposed=transposed)
    weights, indices, starts, x = arguments
    *graph_axes, x_axis = axes
    if all(axis is None for axis in graph_axes):
        # With one graph a batch is one product with more columns, which is fast.
        batch = jnp.moveaxis(x, x_axis, 1)
        columns = batch.reshape(batch.shape[0], -1)
        y = product(weights, indices, starts, columns)
        return y.reshape(batch.shape), 1
    batched_arguments = [
        None if axis is None else jnp.moveaxis(argument, axis, 0)
        for argument, axis in zip(arguments, axes, strict=True)
    ]

    def apply_to_member(function, member_arguments):
        pairs = zip(member_arguments, arguments, strict=True)
        return function(
            *(shared if member is None else member for member, shared in pairs)
        )

    segment_sum = functools.partial(_csr_product_by_segment_sum, transposed=transposed)
    # With many graphs: kernels for processors take one at a time.
    y = jax.lax.platform_dependent(
        batched_arguments,
        cpu=functools.partial(jax.lax.map, functools.partial(apply_to_member, product)),
        default=jax.vmap(functools.partial(apply_to_member, segment_sum)),
    )
    return y, 0


batching.primitive_batchers[_csr_product_p] = _csr_product_batch


def multiply(graph: Graph, x: Float[Array, "n q"]) -> Float[Array, "n q"]:
    """Multiplies the matrix of a graph by a block of columns: S X.

    The product is linear in `x` and in the graph's weights, and differentiable in both.
    Sums are taken in the dtype of the weights; no device uses a product of reduced
    precision.

    Args:
        graph: A symmetric graph in either form.
        x: One column per query.

    Returns:
        The product, one column per query.

    Raises:
        ValueError: If `x` does not have one row per node of a compressed graph.
    """
    if graph.starts is None:
        return multiply_padded_rows(graph.indices, graph.weights, x)
    return multiply_csr(graph.weights, graph.indices, graph.starts, x)


def multiply_padded_rows(
    indices: Int[Array, "r k"], weights: Float[Array, "r k"], x: Float[Array, "n q"]
) -> Float[Array, "r q"]:
    """Multiplies some rows of a padded graph by a block of columns.

    Adds one slot of all rows at a time: memory is [r, q], not [r, k, q].

    Args:
        indices: Column of each entry of the rows, -1 in empty slots.
        weights: Weight of each entry, 0 in empty slots.
        x: The block, all of its rows.

    Returns:
        The r rows of the product.
    """

    # Reverse mode gathers a slot again: saved, all of them would be [r, k, q].
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def add_slot(total, slot):
        columns, weight = slot
        return total + weight[:, None] * x[jnp.maximum(columns, 0)], None

    # An empty slot has weight 0, so any row may be gathered for it.
    total = jnp.zeros_like(x, shape=(indices.shape[0], x.shape[1]))
    # Inside shard_map devices sum different rows: the sum must vary as the rows do.
    total, weights = match_varying_axes(total, weights)
    return jax.lax.scan(add_slot, total, (indices.T, weights.T))[0]


def sharded_multiply(mesh: Mesh) -> MatvecFunction:
    """Makes the product function of a padded graph whose rows are sharded over a mesh.

    A device multiplies its rows by the whole X, which it gathers from the others: n q
    numbers, the only ones that travel. Its result is its rows of the product.

    Args:
        mesh: The devices; all axes share the rows, the same number for every device.

    Returns:
        The product, with the same derivatives as on a single device.
    """
    rows = row_spec(mesh)

    def multiply_shard(
        indices: Int[Array, "m k"], weights: Float[Array, "m k"], x: Float[Array, "m q"]
    ) -> Float[Array, "m q"]:
        gathered_x = jax.lax.all_gather(x, mesh.axis_names, tiled=True)
        return multiply_padded_rows(indices, weights, gathered_x)

    multiply_shards = jax.shard_map(
        multiply_shard, mesh=mesh, in_specs=rows, out_specs=rows
    )

    def product(graph: Graph, x: Float[Array, "n q"]) -> Float[Array, "n q"]:
        check_padded_form("graph", graph.starts)
        # The sharding is fixed in every step: else the compiler may gather the state
        # of a solve, or shard it in another way.
        return multiply_shards(
            graph.indices, graph.weights, constrain_sharding(x, mesh, rows)
        )

    return product


class PaddedSystem(NamedTuple):
    """Linear system padded to the same number of rows on every device of a mesh.

    Attributes:
        graph: The graph, with nodes without edges added.
        y: Right-hand sides, 0 at the added nodes.
        start: Scores to start from, if any, 0 at the added nodes.
        vectors: Eigenvectors, if any, 0 at the added nodes.
    """

    graph: Graph
    y: Float[Array, "p q"]
    start: Float[Array, "p q"] | None
    vectors: Float[Array, "p m"] | None


def pad_to_mesh(
    graph: Graph,
    y: Float[Array, "n q"],
    start: Float[Array, "n q"] | None,
    vectors: Float[Array, "n m"] | None,
    mesh: Mesh,
) -> PaddedSystem:
    """Adds nodes without edges until the rows divide evenly, and shards them.

    If n is a multiple of the devices, nothing is added and sharded arrays stay where
    they are; else each device temporarily holds a copy of each array.

    Args:
        graph: A graph in the padded form.
        y: Right-hand sides.
        start: Scores to start from, if any.
        vectors: Eigenvectors, if any.
        mesh: The devices.

    Returns:
        The padded system, row-sharded.
    """
    check_padded_form("graph", graph.starts)
    rows, num_padding = row_spec(mesh), -graph.num_nodes % mesh.size

    def pad(array: Array, value: int) -> Array:
        if num_padding:
            # The compiler might shard a gradient of n rows over as many devices as
            # divide n, a sharding that has no name outside.
            array = constrain_sharding(array, mesh, PartitionSpec())
            width = ((0, num_padding), *[(0, 0)] * (array.ndim - 1))
            array = jnp.pad(array, width, constant_values=value)
        return constrain_sharding(array, mesh, rows)

    degrees = None if graph.degrees is None else pad(graph.degrees, 0)
    padded = Graph(pad(graph.indices, -1), pad(graph.weights, 0), degrees=degrees)
    columns = jax.tree.map(lambda array: pad(array, 0), (y, start, vectors))
    return PaddedSystem(padded, *columns)


def trim_mesh_padding(solution: Solution, n: int, mesh: Mesh) -> Solution:
    """Removes the rows that `pad_to_mesh` added.

    Args:
        solution: Solution of the padded system.
        n: Number of nodes before padding.
        mesh: The devices.

    Returns:
        The solution, row-sharded if n is a multiple of the devices, else with a copy on
        every device.
    """
    spec = row_spec(mesh) if solution.value.shape[0] == n else PartitionSpec()
    value = constrain_sharding(solution.value[:n], mesh, spec)
    return solution._replace(value=value)
