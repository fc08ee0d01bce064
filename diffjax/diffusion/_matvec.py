"""Product S X of a graph in either form, on one device or many."""

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

# XLA's own kernel for compressed rows is reached from eight columns on; below, its
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
        indices: Their columns.
        starts: Where each row starts, and the end: n + 1.
        x: One column per query.
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


# What it is made of, by device.


def _csr_product_on_cpu(weights, indices, starts, x, *, transposed):
    if x.size and has_csr_kernel(weights, indices, starts, x):
        return csr_product(weights, indices, starts, x, transposed=transposed)
    if transposed or x.dtype not in _XLA_DTYPES:
        return _csr_product_by_segment_sum(
            weights, indices, starts, x, transposed=transposed
        )
    from jax.experimental import sparse  # noqa: PLC0415  # Slow, and seldom needed.

    n, q = x.shape
    # That kernel is for indices and starts of one type, which 2^31 entries make wide.
    matrix = sparse.BCSR((weights, indices.astype(starts.dtype), starts), shape=(n, n))
    missing = max(_MIN_XLA_COLUMNS - q, 0)
    return (matrix @ jnp.pad(x, ((0, 0), (0, missing))))[:, :q]


# Gathering again takes less time than keeping what was gathered, [e, q], for backwards.
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


# How it is differentiated: linear in the weights and in the block.


def _csr_product_jvp(primals, tangents, *, transposed):
    weights, indices, starts, x = primals
    d_weights, _, _, d_x = tangents
    product = functools.partial(multiply_csr, transposed=transposed)
    y = product(*primals)
    # What does not change costs no product: solves ask for one change at a time.
    changes = []
    if not isinstance(d_x, ad.Zero):
        changes.append(product(weights, indices, starts, d_x))
    if not isinstance(d_weights, ad.Zero):
        # A change of weights meets the columns of its own edges and nothing else.
        changes.append(
            _csr_product_by_segment_sum(
                d_weights, indices, starts, x, transposed=transposed
            )
        )
    return y, functools.reduce(jnp.add, changes)


def _csr_product_transpose(change, weights, indices, starts, x, *, transposed):
    if isinstance(change, ad.Zero):
        return None, None, None, ad.Zero(x.aval)
    back = multiply_csr(weights, indices, starts, change, transposed=not transposed)
    return None, None, None, back


ad.primitive_jvps[_csr_product_p] = _csr_product_jvp
ad.primitive_transposes[_csr_product_p] = _csr_product_transpose


# What becomes of a batch.


def _csr_product_batch(arguments, axes, *, transposed):
    product = functools.partial(multiply_csr, transposed=transposed)
    weights, indices, starts, x = arguments
    *of_graph, of_x = axes
    if all(axis is None for axis in of_graph):
        # One graph: more columns, which is what is fast.
        together = jnp.moveaxis(x, of_x, 1)
        flat = together.reshape(together.shape[0], -1)
        y = product(weights, indices, starts, flat)
        return y.reshape(together.shape), 1
    own = [
        None if axis is None else jnp.moveaxis(argument, axis, 0)
        for argument, axis in zip(arguments, axes, strict=True)
    ]

    def each(function, own):
        pairs = zip(own, arguments, strict=True)
        return function(*(shared if mine is None else mine for mine, shared in pairs))

    in_segments = functools.partial(_csr_product_by_segment_sum, transposed=transposed)
    # Many graphs: kernels for processors take one at a time.
    y = jax.lax.platform_dependent(
        own,
        cpu=functools.partial(jax.lax.map, functools.partial(each, product)),
        default=jax.vmap(functools.partial(each, in_segments)),
    )
    return y, 0


batching.primitive_batchers[_csr_product_p] = _csr_product_batch


# The map (graph, X [n, q]) -> S X [n, q], here or on many devices.
MatvecFunction = Callable[[Graph, Array], Array]


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
        return multiply_padded_rows(graph.indices, graph.weights, x)
    return multiply_csr(graph.weights, graph.indices, graph.starts, x)


def multiply_padded_rows(
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
    start, weights = match_varying_axes(start, weights)
    return jax.lax.scan(add_slot, start, (indices.T, weights.T))[0]


def sharded_multiply(mesh: Mesh) -> MatvecFunction:
    """Makes the product of a padded graph whose rows are spread over a mesh.

    Each device multiplies its rows by all of X, which it gathers from the others: n q
    numbers, the only ones that travel. What it gives is its own rows.

    Args:
        mesh: The devices; all of its axes share the rows, as many for each.

    Returns:
        The product, with the derivatives of the one on a single device.
    """
    rows = row_spec(mesh)

    def part(
        indices: Int[Array, "m k"], weights: Float[Array, "m k"], x: Float[Array, "m q"]
    ) -> Float[Array, "m q"]:
        everywhere = jax.lax.all_gather(x, mesh.axis_names, tiled=True)
        return multiply_padded_rows(indices, weights, everywhere)

    parts = jax.shard_map(part, mesh=mesh, in_specs=rows, out_specs=rows)

    def product(graph: Graph, x: Float[Array, "n q"]) -> Float[Array, "n q"]:
        check_padded_form("graph", graph.starts)
        # Where things are is said at every turn: what a solve carries along must
        # not be spread in some other way, or gathered.
        return parts(graph.indices, graph.weights, constrain_sharding(x, mesh, rows))

    return product


class PaddedSystem(NamedTuple):
    """What a solve on a mesh takes, with as many rows for each device.

    Attributes:
        graph: The graph, with nodes without edges added.
        y: Right-hand sides, 0 there, as are the others.
        start: Scores to start from, if any.
        vectors: Eigenvectors, if any.
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
    """Adds nodes without edges until all devices have as many rows, and spreads them.

    Where n is a multiple of the devices nothing is added, and what is spread already
    stays where it is; else each device holds all of it once.

    Args:
        graph: A graph in the padded form.
        y: Right-hand sides.
        start: Scores to start from, if any.
        vectors: Eigenvectors, if any.
        mesh: The devices.

    Returns:
        All of it, row-sharded.
    """
    check_padded_form("graph", graph.starts)
    rows, missing = row_spec(mesh), -graph.num_nodes % mesh.size

    def fill(array: Array, value: int) -> Array:
        if missing:
            # The compiler might spread a gradient of n rows over as many devices as
            # divide n, which has no name outside.
            array = constrain_sharding(array, mesh, PartitionSpec())
            width = ((0, missing), *[(0, 0)] * (array.ndim - 1))
            array = jnp.pad(array, width, constant_values=value)
        return constrain_sharding(array, mesh, rows)

    degrees = None if graph.degrees is None else fill(graph.degrees, 0)
    filled = Graph(fill(graph.indices, -1), fill(graph.weights, 0), degrees=degrees)
    others = jax.tree.map(lambda array: fill(array, 0), (y, start, vectors))
    return PaddedSystem(filled, *others)


def trim_mesh_padding(found: Solution, n: int, mesh: Mesh) -> Solution:
    """Takes the rows away again that `pad_to_mesh` added.

    Args:
        found: A solution of the filled system.
        n: Rows of the one that was given.
        mesh: The devices.

    Returns:
        The solution, row-sharded where n is a multiple of the devices, else with a copy
        on each.
    """
    whole = found.value.shape[0] == n
    spec = row_spec(mesh) if whole else PartitionSpec()
    return found._replace(value=constrain_sharding(found.value[:n], mesh, spec))
