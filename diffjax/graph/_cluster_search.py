"""Approximate nearest neighbours: members of near clusters, compared exactly."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ._candidates import rank_candidates
from ._clusters import Clusters, cluster
from ._exact import exact_search, to_single

# Fewer are compared in a fraction of a second.
_FEW = 1024
# Settings by measurement, see configs/scale.py.
PROBES = 20
REFINED = 4000  # Candidates of a cluster when lists are gone through again.
_CLUSTERS = 4  # For each root of the number of vectors.
# Clusters that may be chosen, for each that is; and centroids that each member names.
_CHOICE, _VOTES = 4, 16


class Found(NamedTuple):
    """Neighbours of the members of one cluster, by their places in the order.

    Attributes:
        start: Place of the first member.
        indices: Places of their neighbours.
        similarities: Inner products, most similar first.
    """

    start: int
    indices: Int[np.ndarray, "r k"]
    similarities: Float[np.ndarray, "r k"]


def cluster_count(n: int, k: int) -> int:
    """How many clusters to look for: 4 sqrt(n), with k members on average at least.

    Args:
        n: Number of vectors.
        k: Neighbours of each.

    Returns:
        1 to n.
    """
    return max(min(round(_CLUSTERS * n**0.5), n // max(k, 1)), 1)


def search_clusters(
    vectors: Float[np.ndarray, "n d"],
    clusters: Clusters,
    k: int,
    *,
    probes: int = PROBES,
    first: int = 0,
) -> Iterator[Found]:
    """Compares the members of each cluster with those of the clusters near it.

    A cluster's candidates are its own members and those of other clusters, in the order
    of how often these are among the nearest of its members, until they are as many as
    in `probes` clusters of the mean size, and as many as k.

    Args:
        vectors: In the order of the clusters, float32; may be a memory map.
        clusters: Where each starts.
        k: Neighbours per vector, 1 to n, itself counted.
        probes: Clusters of the mean size that each vector is compared with.
        first: Cluster to begin with.

    Returns:
        Iterates over the clusters: for each the neighbours of its members; a vector is
        always among its own. Exact duplicates come in any order.
    """
    n, count = len(vectors), len(clusters.centroids)
    wanted = min(max(round(probes * n / count), k), n)

    def candidates(own, queries):
        # Near ones first: later candidates are then seldom among the best.
        starts = clusters.starts
        chosen = _near(queries, clusters, own, wanted, probes)
        return np.concatenate([np.arange(*starts[c : c + 2]) for c in chosen])

    return _share_out(vectors, clusters, k, candidates, first)


def refine_clusters(
    vectors: Float[np.ndarray, "n d"],
    clusters: Clusters,
    lists: Int[np.ndarray, "n k"],
    *,
    most: int = REFINED,
    first: int = 0,
) -> Iterator[Found]:
    """Compares the members of each cluster with neighbours of their neighbours.

    A cluster's candidates are all neighbours of its members and, of the neighbours of
    those, the ones that are named most often, until there are `most`. No similarity
    falls: what a list holds is among the candidates.

    Args:
        vectors: In the order of the clusters, float32; may be a memory map.
        clusters: Where each starts.
        lists: Neighbours of every vector, by places in the order; may be mapped.
        most: Candidates of a cluster, unless its members' lists hold more.
        first: Cluster to begin with.

    Returns:
        As `search_clusters`.

    References:
        The principle of Dong, Moses and Li, Efficient k-nearest neighbor graph
        construction for generic similarity measures, WWW 2011, for all members of a
        cluster at once. Cited without equation numbers, as it was not at hand.
    """

    def candidates(own, queries):
        del queries
        near = np.unique(lists[slice(*clusters.starts[own : own + 2])])
        missing = most - len(near)
        if missing <= 0:
            return near
        named, counts = np.unique(lists[near], return_counts=True)
        counts[np.searchsorted(named, near)] = 0  # They are there already.
        more = np.argsort(-counts, kind="stable")[:missing]
        return np.concatenate([near, named[more[counts[more] > 0]]])

    return _share_out(vectors, clusters, lists.shape[1], candidates, first)


def _share_out(vectors, clusters, k, candidates, first) -> Iterator[Found]:
    """Compares each cluster with its candidates, a cluster for each core."""
    import faiss  # noqa: PLC0415  # Slow to import, and only a build needs it.

    starts = clusters.starts

    def search(own):
        start = int(starts[own])
        queries = np.ascontiguousarray(vectors[start : starts[own + 1]])
        places = candidates(own, queries)
        similarities, nearest = faiss.knn(
            queries, vectors[places], k, faiss.METRIC_INNER_PRODUCT
        )
        indices = places.astype(np.int32)[nearest]
        _put_own(indices, similarities, queries, start)
        return Found(start, indices, similarities)

    # Threads that share a cluster would wait for each other.
    cores = faiss.omp_get_max_threads()
    with ThreadPoolExecutor(cores, initializer=_work_alone) as pool:
        waiting = deque[Future[Found]]()
        for own in range(first, len(clusters.centroids)):
            waiting.append(pool.submit(search, own))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _work_alone() -> None:
    import faiss  # noqa: PLC0415  # Slow to import, and only a build needs it.

    faiss.omp_set_num_threads(1)


def _near(queries, clusters, own, wanted, probes):
    """Numbers of the clusters whose members are candidates, the own one first."""
    import faiss  # noqa: PLC0415  # Slow to import, and only a build needs it.

    sizes, count = np.diff(clusters.starts), len(clusters.centroids)
    if wanted == len(clusters.order):
        return np.arange(count)
    centroids = clusters.centroids
    # Not by BLAS, whose threads would wait for each other, once for each cluster.
    toward = np.einsum("cd,d->c", centroids, centroids[own])
    # The own one first, however its mean compares with those of others.
    toward[own] = np.inf
    near = np.argsort(-toward, kind="stable")
    some = near[: _CHOICE * probes]
    votes = np.zeros(len(some), np.int64)
    named = min(_VOTES, len(some))
    _, best = faiss.knn(queries, centroids[some], named, faiss.METRIC_INNER_PRODUCT)
    np.add.at(votes, best.reshape(-1), 1)
    votes[0] = np.iinfo(np.int64).max
    some = some[np.argsort(-votes, kind="stable")]
    order = np.append(some, near[_CHOICE * probes :])
    enough = int(np.searchsorted(np.cumsum(sizes[order]), wanted))
    return order[: enough + 1]


def _put_own(indices, similarities, queries, start) -> None:
    """Puts vectors into their own lists, where duplicates took all places."""
    nodes = np.arange(start, start + len(queries), dtype=np.int32)
    missing = np.flatnonzero(~(indices == nodes[:, None]).any(axis=1))
    if missing.size:
        indices[missing, -1] = nodes[missing]
        own = queries[missing]
        similarities[missing, -1] = np.einsum("nd,nd->n", own, own)


def clusters_search(
    vectors: Float[np.ndarray, "n d"], k: int, *, seed: int, probes: int | None = None
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Searches in clusters; see `knn`.

    Args:
        vectors: Vectors, C-contiguous.
        k: Neighbours per vector, the vector itself counted.
        seed: Of the clusters.
        probes: See `search_clusters`; None for what was found good.

    Returns:
        Indices and similarities, most similar first; the vector itself is always among
        them.
    """
    n = len(vectors)
    if n <= _FEW:
        return exact_search(vectors, k)
    probes = probes or PROBES
    single = vectors if vectors.dtype == np.float32 else to_single(vectors)[0]
    count = cluster_count(n, k)
    clusters = cluster(lambda rows: single[rows], n, count=count, seed=seed)
    indices = np.empty((n, k), np.int32)
    similarities = np.empty((n, k), np.float32)
    ordered = single[clusters.order]
    found = search_clusters(ordered, clusters, k, probes=probes)
    lists = np.concatenate([part.indices for part in found])
    for part in refine_clusters(ordered, clusters, lists):
        rows = clusters.order[part.start : part.start + len(part.indices)]
        indices[rows] = clusters.order[part.indices]
        similarities[rows] = part.similarities
    if vectors.dtype == np.float32:
        return indices, similarities
    return rank_candidates(vectors, np.arange(n), indices, k, own=True)
