"""New nodes in the neighbour lists of a collection: the conventional query."""

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
    """Inserts vectors into the neighbour lists of a collection, as if built with them.

    Each new vector gets its k nearest among old and new ones, itself counted. An old
    vector that has a new one among its k nearest loses its k-th for it, so that
    reciprocity changes both ways. `affinity` and `normalize` then make the graph on
    n + r nodes. Of equal similarities the one that was there stays.

    Args:
        neighbors: The k nearest of every vector, whole lists: what a new vector pushes
            out must be known.
        vectors: The vectors of the lists, unit length.
        added: New vectors, unit length.
        where: Which of them are there; the others get a row of empty slots and are
            nobody's neighbours. None if all are.

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
    there = jnp.ones(r, jnp.bool_) if where is None else where
    to_new = jnp.where(there[None, :], to_new, -jnp.inf)
    new = jnp.arange(n, n + r, dtype=neighbors.indices.dtype)

    listed = jnp.where(neighbors.indices >= 0, neighbors.similarities, -jnp.inf)
    gained = jnp.where(there[None, :], to_old.T, -jnp.inf)
    of_old = _k_most_similar(
        jnp.concatenate([listed, gained], axis=1),
        jnp.concatenate(
            [neighbors.indices, jnp.broadcast_to(new[None, :], (n, r))], axis=1
        ),
        k,
    )
    everything = jnp.arange(n + r, dtype=neighbors.indices.dtype)
    of_new = _k_most_similar(
        jnp.where(there[:, None], jnp.concatenate([to_old, to_new], axis=1), -jnp.inf),
        jnp.broadcast_to(everything[None, :], (r, n + r)),
        k,
    )
    return Neighbors(
        *(jnp.concatenate(parts) for parts in zip(of_old, of_new, strict=True))
    )


def _k_most_similar(
    similarities: Float[Array, "a c"], indices: Int[Array, "a c"], k: int
) -> Neighbors:
    """The k best candidates of every row; -inf marks those that are not there."""
    best, places = jax.lax.top_k(similarities, k)
    empty = best == -jnp.inf
    return Neighbors(
        jnp.where(empty, -1, jnp.take_along_axis(indices, places, axis=1)),
        jnp.where(empty, jnp.zeros_like(best), best),
    )
