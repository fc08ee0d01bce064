"""Nearest neighbours inside compiled code."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from diffjax._arguments import check_not_halved
from diffjax._spread import check_spread
from diffjax.types import Neighbors

from ._nearest import nearest
from ._sharded import ring_search


def knn_dense(
    vectors: Float[Array, "n d"],
    k: int,
    *,
    where: Bool[Array, " n"] | None = None,
    block: int = 256,
    mesh: Mesh | None = None,
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
        mesh: Devices, also those of other processes, among which the rows are shared
            out: each keeps its own and sees the others' part by part, so that memory is
            two parts, and its own choice of block. None is one device.

    Returns:
        Neighbours, most similar first, ties by lower index. Where there are fewer than
        k vectors the last slots are empty: index -1, similarity 0.

    Raises:
        ValueError: If `k` is outside 1..n, `block` is below 1, `where` does not have
            one entry per row, or n is no multiple of the devices of `mesh`.
    """
    check_not_halved("vectors", vectors)
    n = vectors.shape[0]
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1..{n} (n), got {k}.")
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}.")
    if where is not None and where.shape != (n,):
        raise ValueError(f"where must have one entry per row, {n}, got {where.shape}.")
    if mesh is not None:
        check_spread("vectors", vectors, mesh)
    return _knn_dense(vectors, where, k=k, block=block, mesh=mesh)


@functools.partial(jax.jit, static_argnames=("k", "block", "mesh"))
def _knn_dense(
    vectors: Array, where: Array | None, *, k: int, block: int, mesh: Mesh | None
) -> Neighbors:
    real = jnp.ones(vectors.shape[0], jnp.bool_) if where is None else where
    # Even a product with gradient 0 would let NaN out of the padding.
    vectors = jnp.where(real[:, None], vectors, jnp.zeros_like(vectors))
    if mesh is None:
        found = nearest(vectors, vectors, real, k=k, block=block)
    else:
        found = ring_search(vectors, real, k=k, mesh=mesh)
    filled = (found.similarities > -jnp.inf) & real[:, None]
    return Neighbors(
        jnp.where(filled, found.indices, -1),
        jnp.where(filled, found.similarities, jnp.zeros_like(found.similarities)),
    )
