"""Nearest neighbours by inner product, on the host: one function, several searches."""

from typing import TYPE_CHECKING, Literal, get_args

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from diffjax._arguments import check_not_halved
from diffjax.types import Neighbors

from ._cluster_search import clusters_search
from ._descent import descent_search
from ._exact import exact_search
from ._given import given_search
from ._ready import remember_lists
from ._sharded import sharded_search

if TYPE_CHECKING:
    import faiss

Method = Literal["exact", "nn-descent", "clusters", "sharded"]


def knn(
    vectors: Float[Array | np.ndarray, "n d"],
    k: int,
    *,
    method: Method = "exact",
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
    check_not_halved("vectors", vectors)
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {get_args(Method)}, got {method!r}.")
    if not 1 <= k <= vectors.shape[0]:
        raise ValueError(f"k must be in 1..{vectors.shape[0]} (n), got {k}.")
    if index is not None and method != "exact":
        raise ValueError(f"index must be None with method {method!r}, got an index.")
    if mesh is not None and method != "sharded":
        raise ValueError(f"mesh must be None with method {method!r}, got a mesh.")
    host = np.ascontiguousarray(vectors)
    _check_finite(host)
    if index is not None:
        indices, similarities = given_search(host, k, index=index)
    elif method == "exact":
        indices, similarities = exact_search(host, k)
    elif method == "nn-descent":
        indices, similarities = descent_search(host, k, seed=seed)
    elif method == "clusters":
        indices, similarities = clusters_search(host, k, seed=seed)
    else:
        indices, similarities = sharded_search(host, k, mesh=mesh)
    return remember_lists(Neighbors(jnp.asarray(indices), jnp.asarray(similarities)))


def _check_finite(vectors: Float[np.ndarray, "n d"]) -> None:
    # Without a copy: a row with NaN or infinity has no finite sum of squares.
    bad = np.flatnonzero(~np.isfinite(np.einsum("nd,nd->n", vectors, vectors)))
    if bad.size:
        raise ValueError(
            f"vectors must be finite, got NaN or infinity in {bad.size} of "
            f"{len(vectors)} rows, first in row {bad[0]}."
        )
