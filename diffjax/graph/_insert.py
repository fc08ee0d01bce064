"""Insertion of vectors into neighbour lists, as for the conventional query."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from diffjax._arguments import check_not_downcast
from diffjax.types import Neighbors


def insert(
    neighbors: Neighbors,
    vectors: Float[Array, "n d"],
    added: Float[Array, "r d"],
    *,
    where: Bool[Array, " r"] | None = None,
) -> Neighbors:
    """Inserts vectors into the neighbour lists of a collection, as a new search would.

    A new vector gets its k nearest among old and new vectors, including itself. An old
    vector that has a new one among its k nearest loses its k-th neighbour for it, so
    that reciprocity changes in both directions. `affinity` and `normalize` then make
    the graph on n + r nodes. Ties go to the old vector.

    Args:
        neighbors: The k nearest of every vector, complete lists, because the neighbour
            that a new vector displaces must be the k-th.
        vectors: The vectors of the lists, unit length.
        added: New vectors, unit length.
        where: Mask of the rows of `added` that are vectors; the others are padding,
            which get a row of empty slots and are never neighbours. None for no
            padding.

    Returns:
        The lists of all n + r vectors, the new ones last.

    Raises:
        ValueError: If sizes do not match or vectors are double where JAX is single.

    References:
        The query of Zhou et al., NIPS 2003, and of Donoser and Bischof, CVPR 2013, that
        Iscen et al., CVPR 2017, section 4.1, compare with,
        https://arxiv.org/abs/1611.05113.
    """
    check_not_downcast("vectors", vectors)
    check_not_downcast("added", added)
    n, d = vectors.shape
    if neighbors.indices.shape[0] != n:
        raise ValueError(
            f"neighbors must have one row per vector, {n}, got "
            f"{neighbors.indices.shape[0]}."
        )
    if added.shape[1] != d:
        raise ValueError(
            f"added must have the collection's {d} dimensions, got {added.shape[1]}."
        )
    return _insert(neighbors, vectors, added, where)


@jax.jit
def _insert(
    neighbors: Neighbors, vectors: Array, added: Array, where: Array | None
) -> Neighbors:
    n, k = neighbors.indices.shape
    r = added.shape[0]
    highest = jax.lax.Precision.HIGHEST
    to_old = jnp.matmul(added, vectors.T, precision=highest)
    to_new = jnp.matmul(added, added.T, precision=highest)
    mask = jnp.ones(r, jnp.bool_) if where is None else where
    to_new = jnp.where(mask[None, :], to_new, -jnp.inf)
    new_numbers = jnp.arange(n, n + r, dtype=neighbors.indices.dtype)

    listed = jnp.where(neighbors.indices >= 0, neighbors.similarities, -jnp.inf)
    from_old = jnp.where(mask[None, :], to_old.T, -jnp.inf)
    old_rows = _k_most_similar(
        jnp.concatenate([listed, from_old], axis=1),
        jnp.concatenate(
            [neighbors.indices, jnp.broadcast_to(new_numbers[None, :], (n, r))], axis=1
        ),
        k,
    )
    all_numbers = jnp.arange(n + r, dtype=neighbors.indices.dtype)
    new_rows = _k_most_similar(
        jnp.where(mask[:, None], jnp.concatenate([to_old, to_new], axis=1), -jnp.inf),
        jnp.broadcast_to(all_numbers[None, :], (r, n + r)),
        k,
    )
    return Neighbors(
        *(jnp.concatenate(fields) for fields in zip(old_rows, new_rows, strict=True))
    )


def _k_most_similar(
    similarities: Float[Array, "a c"], indices: Int[Array, "a c"], k: int
) -> Neighbors:
    """Keeps the k best candidates of every row; similarity -inf marks padding."""
    best, columns = jax.lax.top_k(similarities, k)
    empty = best == -jnp.inf
    return Neighbors(
        jnp.where(empty, -1, jnp.take_along_axis(indices, columns, axis=1)),
        jnp.where(empty, jnp.zeros_like(best), best),
    )
