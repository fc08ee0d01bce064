"""The product with compressed rows, as one operation that JAX can transform.

A primitive of its own, because a kernel of another library has no derivative, and for
a batch of right-hand sides wants one matrix of them.
"""

import functools

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float, Int

from diffjax._spread import vary_alike
from diffjax.native import csr_product, has_kernel
from diffjax.types import Graph

# XLA's own kernel for compressed rows is reached from eight columns on; below, its
# generic path takes longer for one column than the kernel for eight.
_XLA_COLUMNS = 8
_XLA_DTYPES = jnp.float32, jnp.float64

_product_p = Primitive("diffjax_csr_product")


def multiply_compressed(
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
    return _product_p.bind(*vary_alike(*arguments), transposed=transposed)


@functools.partial(jax.jit, static_argnames="transposed")
def _compiled(*arguments, transposed):
    return _product_p.bind(*arguments, transposed=transposed)


_product_p.def_impl(_compiled)


@_product_p.def_abstract_eval
def _shape(weights, indices, starts, x, *, transposed):
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


def _on_cpu(weights, indices, starts, x, *, transposed):
    if x.size and has_kernel(weights, indices, starts, x):
        return csr_product(weights, indices, starts, x, transposed=transposed)
    if transposed or x.dtype not in _XLA_DTYPES:
        return _in_segments(weights, indices, starts, x, transposed=transposed)
    from jax.experimental import sparse  # noqa: PLC0415  # Slow, and seldom needed.

    n, q = x.shape
    # That kernel is for indices and starts of one type, which 2^31 entries make wide.
    matrix = sparse.BCSR((weights, indices.astype(starts.dtype), starts), shape=(n, n))
    missing = max(_XLA_COLUMNS - q, 0)
    return (matrix @ jnp.pad(x, ((0, 0), (0, missing))))[:, :q]


# Gathering again takes less time than keeping what was gathered, [e, q], for backwards.
@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(4,))
def _gather(weights, indices, starts, x, transposed):
    rows = Graph(indices, weights, starts).rows
    source, target = (rows, indices) if transposed else (indices, rows)
    return jax.ops.segment_sum(
        weights[:, None] * x[source],
        target,
        num_segments=x.shape[0],
        indices_are_sorted=not transposed,
    )


def _in_segments(weights, indices, starts, x, *, transposed):
    return _gather(weights, indices, starts, x, transposed)


mlir.register_lowering(_product_p, mlir.lower_fun(_in_segments, multiple_results=False))
mlir.register_lowering(
    _product_p, mlir.lower_fun(_on_cpu, multiple_results=False), platform="cpu"
)


# How it is differentiated: linear in the weights and in the block.


def _jvp(primals, tangents, *, transposed):
    weights, indices, starts, x = primals
    d_weights, _, _, d_x = tangents
    product = functools.partial(multiply_compressed, transposed=transposed)
    y = product(*primals)
    # What does not change costs no product: solves ask for one change at a time.
    changes = []
    if not isinstance(d_x, ad.Zero):
        changes.append(product(weights, indices, starts, d_x))
    if not isinstance(d_weights, ad.Zero):
        # A change of weights meets the columns of its own edges and nothing else.
        changes.append(
            _in_segments(d_weights, indices, starts, x, transposed=transposed)
        )
    return y, functools.reduce(jnp.add, changes)


def _transpose(change, weights, indices, starts, x, *, transposed):
    if isinstance(change, ad.Zero):
        return None, None, None, ad.Zero(x.aval)
    back = multiply_compressed(
        weights, indices, starts, change, transposed=not transposed
    )
    return None, None, None, back


ad.primitive_jvps[_product_p] = _jvp
ad.primitive_transposes[_product_p] = _transpose


# What becomes of a batch.


def _batch(arguments, axes, *, transposed):
    product = functools.partial(multiply_compressed, transposed=transposed)
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

    in_segments = functools.partial(_in_segments, transposed=transposed)
    # Many graphs: kernels for processors take one at a time.
    y = jax.lax.platform_dependent(
        own,
        cpu=functools.partial(jax.lax.map, functools.partial(each, product)),
        default=jax.vmap(functools.partial(each, in_segments)),
    )
    return y, 0


batching.primitive_batchers[_product_p] = _batch
