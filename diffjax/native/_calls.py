"""Calls of the native kernels through the XLA FFI; none has a derivative of its own."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._library import find_library, loaded_target

KERNEL_DTYPES = frozenset({"float32", "float64"})


class CGKernelResult(NamedTuple):
    """What `csr_cg` found, one entry per column.

    Attributes:
        value: Solutions.
        residual: Relative residuals, 0 for a right-hand side of 0.
        num_steps: Iterations spent.
    """

    value: Float[Array, "n q"]
    residual: Float[Array, " q"]
    num_steps: Int[Array, " q"]


class LocalKernelResult(NamedTuple):
    """What `csr_local` found, one row or entry per query.

    Attributes:
        nodes: The nodes that it reached, in ascending order, -1 in empty places.
        values: Solutions there, 0 in empty places.
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
    """Whether there are native kernels for these arrays: where the choice is made.

    On other devices than processors there are none, which is for the caller to mind:
    where a program will run is known when it is lowered.

    Args:
        weights: Weights of a graph.
        indices: Its columns.
        starts: Where its rows start, n + 1; None in the padded form, for which there
            is no kernel.
        x: What it is multiplied by, or solved for.

    Returns:
        Whether the functions of this module may be called.
    """
    return (
        starts is not None
        and weights.dtype == x.dtype
        and x.dtype.name in KERNEL_DTYPES
        # Starts count entries, which may be more than columns.
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

    Every sum is taken by one thread and in the order of the entries, so that an answer
    does not depend on how many threads there are.

    Args:
        weights: Entries of A, float32 or float64.
        indices: Their columns, int32. One outside 0..n-1 does no harm but is read as
            another.
        starts: Where each row starts, and the end: n + 1, int32 or int64.
        x: The block, of the dtype of `weights`.
        transposed: Whether to multiply by A^T: several times slower, for derivatives
            of a matrix that may not be symmetric. A Python bool.
        best: Whether to use the best instructions of the processor, such as AVX2, or
            those that every processor of its kind has. A Python bool.

    Returns:
        The product.
    """
    # A matrix that is square gives what it takes, down to where it differs between
    # devices inside shard_map.
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

    The iteration is that of `diffjax.diffusion.cg_solve`, formula by formula; only sums
    are taken in another order.

    Args:
        weights: Entries of A, symmetric, float32 or float64.
        indices: Their columns, int32.
        starts: Where each row starts, and the end: n + 1, int32 or int64.
        alpha: For every column its own.
        y: Right-hand sides, of the dtype of `weights`.
        rtol: Relative residual at which a column stops.
        max_steps: Most iterations of a column.
        keep_best: Whether to give the iterate of smallest residual, not the last. A
            Python bool.
        best: As for `csr_product`.

    Returns:
        Solutions and diagnostics.

    References:
        Hestenes and Stiefel, J. Res. NBS 49(6), 1952.
    """
    # Inside shard_map what comes out differs between devices as y does, of which its
    # type knows.
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

    What it does is written down at `diffjax.diffusion.diffuse_local`. Queries are
    shared out among the threads.

    Args:
        weights: Entries of A, symmetric, float32 or float64.
        indices: Their columns, int32.
        starts: Where each row starts, and the end: n + 1, int32 or int64.
        nodes: Where right-hand sides are not 0, int32; below 0 in empty places. What
            is named twice adds up, and no node counts that the graph has not.
        values: Right-hand sides there, of the dtype of `weights`.
        alpha: For every query its own.
        size: Most nodes of an answer, at least s. A Python number.
        steps_per_expansion: Iterations before nodes join.
        rtol: Relative residual inside at which a query stops.
        max_steps: Most iterations once all nodes are there.

    Returns:
        Solutions and diagnostics.
    """
    # Inside shard_map what comes out differs between devices as values do.
    each, dtype, whole = jax.typeof(values), values.dtype, jnp.dtype("int32")
    found, one = each.update(shape=(*nodes.shape[:1], size)), nodes.shape[:1]
    call = jax.ffi.ffi_call(
        loaded_target("csr_local", dtype.name),
        (
            found.update(dtype=whole),
            found,
            each.update(shape=one),
            each.update(shape=one, dtype=whole),
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
    """Whether there are native kernels for these lists, on processors.

    Args:
        indices: Neighbours of every node.
        numbers: Their similarities, or weights.

    Returns:
        Whether the functions of this module may be called.
    """
    return (
        indices.dtype == jnp.int32
        and numbers.dtype.name in KERNEL_DTYPES
        and find_library().usable
    )


def mutual_slots(indices: Int[Array, "n k"]) -> Int[Array, "n k"]:
    """Finds where the list of each neighbour has the node that it is a neighbour of.

    Args:
        indices: Neighbours of every node, int32, in any order, -1 in empty slots.

    Returns:
        The slot; -1 where the pair is not mutual, the slot empty, or the neighbour the
        node itself.
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
        numbers: Their similarities, or weights, float32 or float64.
        starts: Where each row starts, and the end: n + 1, int32 or int64. Starts that
            do not fit the lists are an error.
        count: The end, as a Python number.
        slots: What `mutual_slots` gives, for rows of mutual neighbours, with the
            smaller of the two numbers of each pair. None for rows of all slots that are
            not empty and have another number than 0.

    Returns:
        Columns and numbers.
    """
    columns = jax.typeof(indices).update(shape=(count,))
    call = jax.ffi.ffi_call(
        loaded_target("list_rows", numbers.dtype.name),
        (columns, columns.update(dtype=numbers.dtype)),
    )
    mutual = slots is not None
    back = jnp.zeros((0, 0), jnp.int32) if slots is None else slots
    found, kept = call(indices, numbers, back, starts, mutual=mutual)
    return found, kept
