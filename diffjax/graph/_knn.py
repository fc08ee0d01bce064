"""Nearest-neighbour search: `knn` by each method, and `knn_dense` under jit."""

import functools
from typing import TYPE_CHECKING, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from diffjax._arguments import check_not_downcast
from diffjax._choices import NeighborMethod
from diffjax._sharding import check_divisible_rows
from diffjax.types import Neighbors

from ._brute_force import (
    blockwise_search,
    brute_force_neighbors,
    rank_candidates,
    scale_to_float32,
)
from ._ivf import ivf_search
from ._sharded import ring_search, sharded_search
from ._validation import mark_neighbors_valid

if TYPE_CHECKING:
    import faiss


# Fewer vectors are compared exactly in a fraction of a second, and faiss can't start
# NN-descent on a few.
_FEWEST_FOR_NN_DESCENT = 1024
# After one round a node has met more nodes than this, so that all lists are full:
# faiss reads beyond the end of a list that is not.
_MAX_NN_DESCENT_K = 500
# Measured settings, see configs/neighbors.py: new neighbours joined in each round, and
# how many more than k, and at least, are remembered meanwhile.
_JOINED_PER_ROUND, _SPARE_NEIGHBORS, _MIN_REMEMBERED = 30, 10, 60


def faiss_index_search(
    vectors: Float[np.ndarray, "n d"], k: int, *, index: "faiss.Index"
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Searches in a faiss index and recomputes the similarities of its results.

    Args:
        vectors: Vectors, C-contiguous.
        k: Neighbours per vector, including the vector itself.
        index: Index of the same vectors, numbered in the same order.

    Returns:
        Indices and similarities, most similar first, ties by lower index; the vector
        itself is always among them.

    Raises:
        ValueError: If the size, the dimensions or the numbers of the index differ.
    """
    n, d = vectors.shape
    if (index.ntotal, index.d) != (n, d):
        raise ValueError(
            f"index must hold the {n} vectors of {d} dimensions, got {index.ntotal} of "
            f"{index.d}."
        )
    single = vectors.astype(np.float32)
    _, candidates = index.search(single, k)  # pyright: ignore[reportCallIssue]
    if candidates.max() >= n:
        raise ValueError(
            f"index must number the vectors from 0 to {n - 1}, got {candidates.max()}."
        )
    return rank_candidates(vectors, np.arange(n), candidates, k, include_self=True)


def nn_descent_search(
    vectors: Float[np.ndarray, "n d"], k: int, *, seed: int
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Searches by NN-descent: neighbours of neighbours, from a random start, by faiss.

    Args:
        vectors: Vectors, C-contiguous.
        k: Neighbours per vector, including the vector itself.
        seed: Seed of the random start.

    Returns:
        Indices and similarities, most similar first, ties by lower index; the vector
        itself is always among them.

    Raises:
        ValueError: If `k` is above 500 where there are more than 1,024 vectors.
    """
    n, d = vectors.shape
    if n <= _FEWEST_FOR_NN_DESCENT:
        return brute_force_neighbors(vectors, k)
    if k > _MAX_NN_DESCENT_K:
        raise ValueError(
            f"k must be at most {_MAX_NN_DESCENT_K} for 'nn-descent', got {k}: "
            f"search exactly."
        )
    import faiss  # noqa: PLC0415  # See `_brute_force.faiss_flat_search`.

    single = vectors if vectors.dtype == np.float32 else scale_to_float32(vectors)[0]
    num_others = max(k - 1, 1)
    index = faiss.IndexNNDescentFlat(d, num_others, faiss.METRIC_INNER_PRODUCT)
    index.nndescent.S = _JOINED_PER_ROUND
    index.nndescent.L = max(k + _SPARE_NEIGHBORS, _MIN_REMEMBERED)
    index.nndescent.random_seed = seed
    index.add(single)  # pyright: ignore[reportCallIssue]  # faiss patches its classes.
    candidates = faiss.vector_to_array(index.nndescent.final_graph)
    candidates = candidates.reshape(n, num_others)
    return rank_candidates(vectors, np.arange(n), candidates, k, include_self=True)


def knn_dense(
    vectors: Float[Array, "n d"],
    k: int,
    *,
    where: Bool[Array, " n"] | None = None,
    block: int = 256,
    mesh: Mesh | None = None,
) -> Neighbors:
    """Finds the k vectors of largest inner product with every vector, in pure JAX.

    It gives the lists of `knn`, but can be compiled, batched by `vmap` over short lists
    of one size, and differentiated: the similarities are those of the chosen
    neighbours, the choice itself is discrete. Memory is `block` x n.

    Args:
        vectors: Database vectors, of unit length if a vector is to be nearest to
            itself.
        k: Neighbours per vector, 1 to n. A Python number.
        where: Mask of the rows that are vectors; the others are padding with any
            content, which are never neighbours and have none. None for no padding.
        block: Rows compared with all others at a time. A Python number.
        mesh: Devices, also of other processes, that share the rows. A device keeps its
            rows and sees those of the others shard by shard, so that memory is two
            shards; it chooses the block itself. None is one device.

    Returns:
        Neighbours, most similar first, ties by lower index. Where there are fewer than
        k vectors the last slots are empty: index -1, similarity 0.

    Raises:
        ValueError: If `k` is outside 1..n, `block` is below 1, `where` does not have
            one entry per row, or n is no multiple of the devices of `mesh`.
    """
    check_not_downcast("vectors", vectors)
    n = vectors.shape[0]
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1..{n} (n), got {k}.")
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}.")
    if where is not None and where.shape != (n,):
        raise ValueError(f"where must have one entry per row, {n}, got {where.shape}.")
    if mesh is not None:
        check_divisible_rows("vectors", vectors, mesh)
    return _knn_dense(vectors, where, k=k, block=block, mesh=mesh)


@functools.partial(jax.jit, static_argnames=("k", "block", "mesh"))
def _knn_dense(
    vectors: Array, where: Array | None, *, k: int, block: int, mesh: Mesh | None
) -> Neighbors:
    mask = jnp.ones(vectors.shape[0], jnp.bool_) if where is None else where
    # NaN in the padding would reach gradients even through a factor of 0.
    vectors = jnp.where(mask[:, None], vectors, jnp.zeros_like(vectors))
    if mesh is None:
        lists = blockwise_search(vectors, vectors, mask, k=k, block=block)
    else:
        lists = ring_search(vectors, mask, k=k, mesh=mesh)
    is_neighbor = (lists.similarities > -jnp.inf) & mask[:, None]
    return Neighbors(
        jnp.where(is_neighbor, lists.indices, -1),
        jnp.where(is_neighbor, lists.similarities, jnp.zeros_like(lists.similarities)),
    )


def knn(
    vectors: Float[Array | np.ndarray, "n d"],
    k: int,
    *,
    method: NeighborMethod = "exact",
    index: "faiss.Index | None" = None,
    mesh: Mesh | None = None,
    seed: int = 0,
) -> Neighbors:
    """Finds the k vectors of largest inner product with every vector.

    A vector is one of its own k neighbours. Equal similarities are ordered by lower
    index, except for exact duplicates in single precision, which "exact" may list in
    any order. For a search inside compiled code see `knn_dense`.

    Args:
        vectors: Database vectors, finite; of unit length, if a vector is to be nearest
            to itself.
        k: Neighbours per vector, 1 to n.
        method: Name of the search. "exact" compares all pairs, on the processor;
            "sharded" does so on the devices of JAX, each of which holds a shard of the
            vectors. "nn-descent" compares neighbours of neighbours and misses a few,
            see `recall`. "clusters" compares the members of nearby k-means clusters, in
            time that grows with the power 3/2 of n: the method for millions. The time
            of "exact" grows with the square of n, but at up to 50,000 vectors, the
            largest measurement, it is faster than "nn-descent". Up to 1,024 vectors
            "nn-descent" and "clusters" search exactly.
        index: A faiss index of these vectors in this order, of any type that compares
            by inner product or distance: its results are candidates, whose similarities
            are recomputed from `vectors`. None to search by `method`.
        mesh: Devices of "sharded", with any axes; None for all.
        seed: Seed of the random start of "nn-descent", and of the k-means of
            "clusters". On one thread the same seed gives the same lists; on several, a
            few neighbours of "nn-descent" may differ.

    Returns:
        Neighbours, most similar first. An `index` that finds fewer leaves empty slots.

    Raises:
        ValueError: If `k` is outside 1..n or above 500 for "nn-descent", `method` is
            unknown, `index` or `mesh` does not fit it, the index is of other vectors,
            or `vectors` are not finite, or float64 while JAX computes in float32.

    References:
        Dong, Moses and Li, Efficient k-nearest neighbor graph construction for generic
        similarity measures, WWW 2011 ("nn-descent", as faiss implements it; cited
        without equation numbers, as the paper was not at hand).
    """
    check_not_downcast("vectors", vectors)
    if method not in get_args(NeighborMethod):
        raise ValueError(
            f"method must be one of {get_args(NeighborMethod)}, got {method!r}."
        )
    if not 1 <= k <= vectors.shape[0]:
        raise ValueError(f"k must be in 1..{vectors.shape[0]} (n), got {k}.")
    if index is not None and method != "exact":
        raise ValueError(f"index must be None with method {method!r}, got an index.")
    if mesh is not None and method != "sharded":
        raise ValueError(f"mesh must be None with method {method!r}, got a mesh.")
    host = np.ascontiguousarray(vectors)
    _check_finite(host)
    if index is not None:
        indices, similarities = faiss_index_search(host, k, index=index)
    elif method == "exact":
        indices, similarities = brute_force_neighbors(host, k)
    elif method == "nn-descent":
        indices, similarities = nn_descent_search(host, k, seed=seed)
    elif method == "clusters":
        indices, similarities = ivf_search(host, k, seed=seed)
    else:
        indices, similarities = sharded_search(host, k, mesh=mesh)
    return mark_neighbors_valid(
        Neighbors(jnp.asarray(indices), jnp.asarray(similarities))
    )


def _check_finite(vectors: Float[np.ndarray, "n d"]) -> None:
    # Without a copy: a row with NaN or infinity has no finite sum of squares.
    invalid_rows = np.flatnonzero(~np.isfinite(np.einsum("nd,nd->n", vectors, vectors)))
    if invalid_rows.size:
        raise ValueError(
            f"vectors must be finite, got NaN or infinity in {invalid_rows.size} of "
            f"{len(vectors)} rows, first in row {invalid_rows[0]}."
        )
