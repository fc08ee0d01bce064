"""Nearest neighbours inside compiled code."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from diffjax._arguments import check_not_halved
from diffjax.types import Neighbors


def knn_dense(
    vectors: Float[Array, "n d"],
    k: int,
    *,
    where: Bool[Array, " n"] | None = None,
    block: int = 256,
) -> Neighbors:
    """Finds the k vectors of largest inner product with every vector, in pure JAX.

    The same lists as `knn`, but compiled, batched by `vmap` over short lists of one
    size, and differentiable: the similarities are those of the neighbours chosen, the
    choice itself is discrete. Memory is `block` x n.

    Args:
        vectors: Database vectors, of unit length if a vector is to be nearest to
            itself.
        k: Neighbours per vector, 1 to n. A Python number.
        where: Which rows are vectors; the others are padding, whatever is in them:
            nobody's neighbours and without any. None if all are.
        block: Rows compared with all others at a time. A Python number.

    Returns:
        Neighbours, most similar first, ties by lower index. Where there are fewer than
        k vectors the last slots are empty: index -1, similarity 0.

    Raises:
        ValueError: If `k` is outside 1..n, `block` is below 1, or `where` does not
            have one entry per row.
    """
    check_not_halved("vectors", vectors)
    n = vectors.shape[0]
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1..{n} (n), got {k}.")
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}.")
    if where is not None and where.shape != (n,):
        raise ValueError(f"where must have one entry per row, {n}, got {where.shape}.")
    return _knn_dense(vectors, where, k=k, block=block)


@functools.partial(jax.jit, static_argnames=("k", "block"))
def _knn_dense(vectors: Array, where: Array | None, *, k: int, block: int) -> Neighbors:
    real = jnp.ones(vectors.shape[0], jnp.bool_) if where is None else where
    # Even a product with gradient 0 would let NaN out of the padding.
    vectors = jnp.where(real[:, None], vectors, jnp.zeros_like(vectors))
    found = nearest(vectors, vectors, real, k=k, block=block)
    filled = (found.similarities > -jnp.inf) & real[:, None]
    return Neighbors(
        jnp.where(filled, found.indices, -1),
        jnp.where(filled, found.similarities, jnp.zeros_like(found.similarities)),
    )


def nearest(
    rows: Float[Array, "r d"],
    vectors: Float[Array, "n d"],
    real: Bool[Array, " n"],
    *,
    k: int,
    block: int,
) -> Neighbors:
    """Finds the k of `vectors` that are nearest to each of `rows`.

    Args:
        rows: Whose neighbours are looked for.
        vectors: Among what.
        real: Which of them count.
        k: How many, 1 to n.
        block: Rows compared at a time.

    Returns:
        Neighbours, ties by lower index; those that do not count have similarity -inf.
    """

    def find(row):
        products = jnp.matmul(vectors, row, precision=jax.lax.Precision.HIGHEST)
        return jax.lax.top_k(jnp.where(real, products, -jnp.inf), k)

    batch = min(block, max(rows.shape[0], 1))
    similarities, indices = jax.lax.map(find, rows, batch_size=batch)
    return Neighbors(indices, similarities)
