"""Calls of the native kernels through the XLA FFI, without derivatives."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._library import find_library, loaded_target

KERNEL_DTYPES = frozenset({"float32", "float64"})


class CGKernelResult(NamedTuple):
    """Solutions of `csr_cg`, one entry per column.

    Attributes:
        value: Solutions.
        residual: Relative residuals, 0 for a right-hand side of 0.
        num_steps: Iterations spent.
    """

    value: Float[Array, "n q"]
    residual: Float[Array, " q"]
    num_steps: Int[Array, " q"]


class LocalKernelResult(NamedTuple):
    """Local solutions of `csr_local`, one row or entry per query.

    Attributes:
        nodes: Reached nodes in ascending order, padded with -1.
        values: Solutions at these nodes, padded with 0.
        residual: Relative residuals in the whole graph, 0 for a right-hand side of 0.
        num_steps: Iterations spent.
    """

    nodes: Int[Array, "q l"]
    values: Float[Array, "q l"]
    residual: Float[Array, " q"]
    num_steps: Int[Array, " q"]


def has_csr_kernel(
    weights: Float[Array, "..."],
    indices: Int[Array, "..."],
    starts: Int[Array, " starts"] | None,
    x: Float[Array, "a b"],
) -> bool:
    """Whether native kernels support these arrays; decides between kernel and JAX.

    Kernels exist for processors only. The caller must choose by device, which is known
    when a program is lowered.

    Args:
        weights: Weights of a graph.
        indices: Columns of its entries.
        starts: Starts of its rows, n + 1; None in the padded form, for which there is
            no kernel.
        x: Columns that the graph is multiplied by, or right-hand sides of a solve.

    Returns:
        Whether the functions of this module may be called.
    """
    return (
        starts is not None
        and weights.dtype == x.dtype
        and x.dtype.name in KERNEL_DTYPES
        # Row starts count entries and may need 64 bits; columns do not.
        and indices.dtype == jnp.int32
        and find_library().usable
    )


def csr_product(
    weights: Float[Array, " e"],
    indices: Int[Array, " e"],
    starts: Int[Array, " starts"],
    x: Float[Array, "n q"],
    *,
    transposed: bool = False,
    best: bool = True,
) -> Float[Array, "n q"]:
    r"""Multiplies a matrix in compressed rows by a block: Y = A X, or Y = A^T X.

    Every sum is taken by one thread in the order of the entries, so the result does not
    depend on the number of threads.

    Args:
        weights: Entries of A, float32 or float64.
        indices: Columns of the entries, int32. A column outside 0..n-1 is safe but read
            as another one.
        starts: Start of each row, and the end of the last: n + 1, int32 or int64.
        x: The block, of the dtype of `weights`.
        transposed: Whether to multiply by A^T: several times slower, for derivatives of
            a matrix that may not be symmetric. A Python bool.
        best: Whether to use the best instructions of the processor, such as AVX2,
            instead of those that every processor of its kind has. A Python bool.

    Returns:
        The product.
    """
    # The matrix is square: the result has the type of x, including how it varies
    # between devices inside shard_map.
    call = jax.ffi.ffi_call(loaded_target("csr_product", x.dtype.name), jax.typeof(x))
    return call(weights, indices, starts, x, transposed=transposed, best=best)


def csr_cg(
    weights: Float[Array, " e"],
    indices: Int[Array, " e"],
    starts: Int[Array, " starts"],
    alpha: Float[Array, "1 q"],
    y: Float[Array, "n q"],
    *,
    rtol: float | Float[Array, ""],
    max_steps: int | Int[Array, ""],
    keep_best: bool = False,
    best: bool = True,
) -> CGKernelResult:
    r"""Solves (I - alpha A) F = Y for every column by conjugate gradient, in one call.

    The iteration is that of `cg_loop` in the stage `diffusion`, formula by formula;
    only sums are taken in another order.

    Args:
        weights: Entries of A, symmetric, float32 or float64.
        indices: Columns of the entries, int32.
        starts: Start of each row, and the end of the last: n + 1, int32 or int64.
        alpha: Factor of A, one per column.
        y: Right-hand sides, of the dtype of `weights`.
        rtol: Relative residual at which a column stops.
        max_steps: Largest number of iterations of a column.
        keep_best: Whether to return the iterate of smallest residual instead of the
            last one. A Python bool.
        best: See `csr_product`.

    Returns:
        Solutions and diagnostics.

    References:
        Hestenes and Stiefel, J. Res. NBS 49(6), 1952.
    """
    # Inside shard_map the results vary between devices as y does, which its type says.
    value = jax.typeof(y)
    row = value.update(shape=(1, *y.shape[1:]))
    call = jax.ffi.ffi_call(
        loaded_target("csr_cg", y.dtype.name),
        (value, row, row.update(dtype=jnp.dtype("int32"))),
    )
    solution, residual, num_steps = call(
        weights,
        indices,
        starts,
        alpha,
        y,
        jnp.asarray(rtol**2, y.dtype),
        jnp.asarray(max_steps, jnp.int32),
        keep_best=keep_best,
        best=best,
    )
    return CGKernelResult(solution, residual[0], num_steps[0])


def csr_local(
    weights: Float[Array, " e"],
    indices: Int[Array, " e"],
    starts: Int[Array, " starts"],
    nodes: Int[Array, "q s"],
    values: Float[Array, "q s"],
    *,
    alpha: Float[Array, " q"],
    size: int,
    steps_per_expansion: int | Int[Array, ""],
    rtol: float | Float[Array, ""],
    max_steps: int | Int[Array, ""],
) -> LocalKernelResult:
    r"""Solves (I - alpha A) f = y on the nodes that each query reaches, in one call.

    The method is described at `diffjax.diffusion.diffuse_local`. Each thread takes some
    of the queries.

    Args:
        weights: Entries of A, symmetric, float32 or float64.
        indices: Columns of the entries, int32.
        starts: Start of each row, and the end of the last: n + 1, int32 or int64.
        nodes: Nodes where right-hand sides are not 0, int32, padded with numbers below
            0. A repeated node adds up, and a node that is not in the graph is ignored.
        values: Right-hand sides at these nodes, of the dtype of `weights`.
        alpha: Factor of A, one per query.
        size: Largest number of reached nodes, at least s. A Python number.
        steps_per_expansion: Iterations before each expansion.
        rtol: Relative residual on the reached nodes at which a query stops.
        max_steps: Largest number of iterations after the last expansion.

    Returns:
        Solutions and diagnostics.
    """
    # Inside shard_map the results vary between devices as values do.
    number, dtype, integer = jax.typeof(values), values.dtype, jnp.dtype("int32")
    num_queries = nodes.shape[0]
    per_node = number.update(shape=(num_queries, size))
    per_query = number.update(shape=(num_queries,))
    call = jax.ffi.ffi_call(
        loaded_target("csr_local", dtype.name),
        (
            per_node.update(dtype=integer),
            per_node,
            per_query,
            per_query.update(dtype=integer),
        ),
        vmap_method="sequential",
    )
    return LocalKernelResult(
        *call(
            weights,
            indices,
            starts,
            alpha,
            nodes,
            values,
            jnp.asarray(rtol**2, dtype),
            jnp.asarray(steps_per_expansion, jnp.int32),
            jnp.asarray(max_steps, jnp.int32),
        )
    )


def has_list_kernel(indices: Int[Array, "n k"], numbers: Float[Array, "n k"]) -> bool:
    """Checks whether native kernels for processors take these lists.

    Args:
        indices: Neighbours of every node.
        numbers: Similarities of the neighbours, or weights.

    Returns:
        Whether the functions of this module may be called.
    """
    return (
        indices.dtype == jnp.int32
        and numbers.dtype.name in KERNEL_DTYPES
        and find_library().usable
    )


def mutual_slots(indices: Int[Array, "n k"]) -> Int[Array, "n k"]:
    """Finds the slots of mutual neighbours: where a neighbour's list has the node.

    Args:
        indices: Neighbours of every node, int32, in any order, -1 in empty slots.

    Returns:
        The slot of the node in the list of each neighbour; -1 if the pair is not
        mutual, the slot is empty, or the neighbour is the node itself.
    """
    call = jax.ffi.ffi_call(
        loaded_target("mutual_slots", "int32"),
        jax.typeof(indices),
        vmap_method="sequential",
    )
    return call(indices)


def lists_to_csr(
    indices: Int[Array, "n k"],
    numbers: Float[Array, "n k"],
    starts: Int[Array, " starts"],
    *,
    count: int,
    slots: Int[Array, "n k"] | None = None,
) -> tuple[Int[Array, " e"], Float[Array, " e"]]:
    """Writes the entries of lists as compressed rows, each sorted by column.

    Args:
        indices: Neighbours of every node, int32, -1 in empty slots.
        numbers: Similarities of the neighbours, or weights, float32 or float64.
        starts: Start of each row, and the end of the last: n + 1, int32 or int64.
            Starts that do not fit the lists are an error.
        count: Number of entries, the last start, as a Python number.
        slots: Result of `mutual_slots`, for rows of mutual neighbours with the smaller
            of the two numbers of each pair. None for rows of all slots that are not
            empty and whose number is not 0.

    Returns:
        Columns and numbers.
    """
    columns = jax.typeof(indices).update(shape=(count,))
    call = jax.ffi.ffi_call(
        loaded_target("list_rows", numbers.dtype.name),
        (columns, columns.update(dtype=numbers.dtype)),
    )
    mutual = slots is not None
    slots = jnp.zeros((0, 0), jnp.int32) if slots is None else slots
    row_columns, row_numbers = call(indices, numbers, slots, starts, mutual=mutual)
    return row_columns, row_numbers
