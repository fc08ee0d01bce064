"""Nearest-neighbour search: `knn` by each method, and `knn_dense` under jit."""

import functools
from typing import TYPE_CHECKING, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from diffjax._arguments import check_not_downcast
from diffjax._sharding import check_divisible_rows
from diffjax.types import Neighbors

from ._brute_force import (
    blockwise_search,
    brute_force_search,
    rank_candidates,
    scale_to_float32,
)
from ._ivf import ivf_search
from ._sharded import ring_search, sharded_search
from ._validation import mark_neighbors_valid

if TYPE_CHECKING:
    import faiss


def faiss_index_search(
    vectors: Float[np.ndarray, "n d"], k: int, *, index: "faiss.Index"
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Takes an index's answers as candidates and computes their similarities anew.

    Args:
        vectors: Vectors, C-contiguous.
        k: Neighbours per vector, the vector itself counted.
        index: Holds the same vectors, numbered in the same order.

    Returns:
        Indices and similarities, most similar first, ties by lower index; the vector
        itself is always among them.

    Raises:
        ValueError: If the index has other vectors, as far as sizes and numbers tell.
    """
    n, d = vectors.shape
    if (index.ntotal, index.d) != (n, d):
        raise ValueError(
            f"index must hold the {n} vectors of {d} dimensions, got {index.ntotal} of "
            f"{index.d}."
        )
    single = vectors.astype(np.float32)
    _, found = index.search(single, k)  # pyright: ignore[reportCallIssue]
    if found.max() >= n:
        raise ValueError(
            f"index must number the vectors from 0 to {n - 1}, got {found.max()}."
        )
    return rank_candidates(vectors, np.arange(n), found, k, include_self=True)


# Fewer are compared in a fraction of a second, and faiss can't start on a few.
_FEWEST_FOR_NN_DESCENT = 1024
# After one round a node has met more nodes than this, so that all lists are full:
# faiss reads beyond the end of one that is not.
_MAX_NN_DESCENT_K = 500
# Settings by measurement, see configs/neighbors.py: new neighbours joined in each
# round, and how many more than k are remembered meanwhile.
_JOINED_PER_ROUND, _SPARE_NEIGHBORS, _MIN_REMEMBERED = 30, 10, 60


def nn_descent_search(
    vectors: Float[np.ndarray, "n d"], k: int, *, seed: int
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Compares neighbours of neighbours, from a random start, with faiss.

    Args:
        vectors: Vectors, C-contiguous.
        k: Neighbours per vector, the vector itself counted.
        seed: Of the random start.

    Returns:
        Indices and similarities, most similar first, ties by lower index; the vector
        itself is always among them.

    Raises:
        ValueError: If `k` is above 500 where there are more than 1,024 vectors.
    """
    n, d = vectors.shape
    if n <= _FEWEST_FOR_NN_DESCENT:
        return brute_force_search(vectors, k)
    if k > _MAX_NN_DESCENT_K:
        raise ValueError(
            f"k must be at most {_MAX_NN_DESCENT_K} for 'nn-descent', got {k}: "
            f"search exactly."
        )
    import faiss  # noqa: PLC0415  # See `_exact.faiss_flat_search`.

    single = vectors if vectors.dtype == np.float32 else scale_to_float32(vectors)[0]
    others = max(k - 1, 1)
    index = faiss.IndexNNDescentFlat(d, others, faiss.METRIC_INNER_PRODUCT)
    index.nndescent.S = _JOINED_PER_ROUND
    index.nndescent.L = max(k + _SPARE_NEIGHBORS, _MIN_REMEMBERED)
    index.nndescent.random_seed = seed
    index.add(single)  # pyright: ignore[reportCallIssue]  # faiss patches its classes.
    graph = faiss.vector_to_array(index.nndescent.final_graph).reshape(n, others)
    return rank_candidates(vectors, np.arange(n), graph, k, include_self=True)


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
    # Even a product with gradient 0 would let NaN out of the padding.
    vectors = jnp.where(mask[:, None], vectors, jnp.zeros_like(vectors))
    if mesh is None:
        found = blockwise_search(vectors, vectors, mask, k=k, block=block)
    else:
        found = ring_search(vectors, mask, k=k, mesh=mesh)
    filled = (found.similarities > -jnp.inf) & mask[:, None]
    return Neighbors(
        jnp.where(filled, found.indices, -1),
        jnp.where(filled, found.similarities, jnp.zeros_like(found.similarities)),
    )


if TYPE_CHECKING:
    import faiss

NeighborMethod = Literal["exact", "nn-descent", "clusters", "sharded"]


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

    A vector is counted among its own k. Equal similarities are ordered by lower index,
    except that of exact duplicates in single precision "exact" may put any first. For
    the search inside compiled code see `knn_dense`.

    Args:
        vectors: Database vectors, finite; of unit length, if a vector is to be nearest
            to itself.
        k: Neighbours per vector, 1 to n.
        method: "exact" compares all pairs, on the processor; "sharded" does so on the
            devices of JAX, each of which holds a part of the vectors; "nn-descent"
            compares neighbours of neighbours, and misses a few: see `recall`. At up to
            50,000 vectors, the most that was measured, "exact" is the faster one; its
            time grows with their square. "clusters" compares the members of near
            clusters of k-means, in time that grows with the power 3/2: the one for
            millions. Up to 1,024 are searched exactly instead of by these two.
        index: A faiss index that holds these vectors in this order, of any type that
            compares by inner product or distance: its answers are the candidates, of
            which the similarities are computed anew from `vectors`. None to search by
            `method`.
        mesh: Devices of "sharded", whatever its axes; None for all.
        seed: Of the random start of "nn-descent", and of the k-means of "clusters". On
            one thread the same seed gives the same lists; on several a few neighbours
            of "nn-descent" may differ.

    Returns:
        Neighbours, most similar first. An `index` that finds fewer leaves empty slots.

    Raises:
        ValueError: If `k` is outside 1..n or above 500 for "nn-descent", `method` is
            unknown, `index` or `mesh` does not go with it, the index is of other
            vectors, or `vectors` are not finite, or float64 while JAX computes in
            float32.

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
        indices, similarities = brute_force_search(host, k)
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
    bad = np.flatnonzero(~np.isfinite(np.einsum("nd,nd->n", vectors, vectors)))
    if bad.size:
        raise ValueError(
            f"vectors must be finite, got NaN or infinity in {bad.size} of "
            f"{len(vectors)} rows, first in row {bad[0]}."
        )
