"""Inverted file (IVF): k-means clusters, and approximate neighbours from them."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ._brute_force import brute_force_neighbors, rank_candidates, scale_to_float32

# Rows that are read at a time.
CLUSTER_BLOCK_ROWS = 16_384
# Measured settings, see configs/scale.py: training vectors of k-means per centroid, its
# iterations, and the largest cluster in units of the mean.
TRAINING_VECTORS_PER_CLUSTER, _KMEANS_ITERATIONS, _MAX_RELATIVE_SIZE = 40, 8, 2.0
# The principal direction that a cluster is split along: vectors and iterations.
_DIRECTION_SAMPLE, _POWER_ITERATIONS = 4096, 5
# Fewer vectors are compared exactly in a fraction of a second.
_FEWEST_FOR_IVF = 1024
# Measured settings of the search, see configs/scale.py.
DEFAULT_PROBES = 20
# Candidates of a cluster in `refine_neighbors`.
MAX_REFINE_CANDIDATES = 4000
# Clusters per root of the number of vectors.
_CLUSTERS_PER_ROOT_N = 4
# Clusters that may be chosen per probe, and centroids that each member votes for.
_CANDIDATE_CLUSTERS_PER_PROBE, _VOTES_PER_MEMBER = 4, 16

# Reads rows by their numbers: prepared vectors of single precision.
ReadRows = Callable[[slice | Int[np.ndarray, " r"]], Float[np.ndarray, "r d"]]


class Clusters(NamedTuple):
    """Partition of vectors into clusters, stored one after the other in an order.

    Attributes:
        centroids: Unit mean of each cluster, similar ones beside each other.
        starts: Start of each cluster in the order, and the end of the last: c + 1.
        order: Vector at each position; ascending inside a cluster.
    """

    centroids: Float[np.ndarray, "c d"]
    starts: Int[np.ndarray, " starts"]
    order: Int[np.ndarray, " n"]

    @property
    def largest(self) -> int:
        """Number of vectors of the largest cluster."""
        return int(np.diff(self.starts).max(initial=0))


def cluster_vectors(
    rows: ReadRows,
    n: int,
    *,
    count: int,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Clusters:
    """Clusters vectors by inner product, with no cluster above twice the mean size.

    Spherical k-means on a sample finds centroids; every vector is assigned to the
    centroid of largest inner product; a cluster that is too large is halved along its
    principal direction, repeatedly. Memory holds a few blocks of vectors, the sample,
    and row numbers, never all vectors.

    Args:
        rows: Reads vectors by number, float32, of about the same length.
        n: Number of vectors, 1 or more.
        count: Centroids of k-means, 1 to n.
        seed: Seed of the sample and of k-means.
        progress: Called with the number of vectors assigned so far.

    Returns:
        Clusters, none of them empty.

    References:
        Lloyd, Least squares quantization in PCM, IEEE Transactions on Information
        Theory 28(2), 1982; on the sphere, Dhillon and Modha, Concept decompositions
        for large sparse text data using clustering, Machine Learning 42, 2001. Cited
        without equation numbers, as neither was at hand. k-means is faiss's.
    """
    import faiss  # noqa: PLC0415  # Slow to import, and only a build needs it.

    centroids = _fit_centroids(rows, n, count=count, seed=seed)
    labels = np.empty(n, np.int32)
    for start in range(0, n, CLUSTER_BLOCK_ROWS):
        block = slice(start, min(start + CLUSTER_BLOCK_ROWS, n))
        _, nearest = faiss.knn(rows(block), centroids, 1, faiss.METRIC_INNER_PRODUCT)
        labels[block] = nearest[:, 0]
        if progress is not None:
            progress(block.stop)
    order = np.argsort(labels, kind="stable").astype(np.int32)
    starts = np.searchsorted(labels[order], np.arange(len(centroids) + 1))
    largest = max(int(np.ceil(_MAX_RELATIVE_SIZE * n / len(centroids))), 2)
    clusters, means = [], []
    for number, centroid in enumerate(centroids):
        members = order[starts[number] : starts[number + 1]]
        for cluster, mean in _split_large_cluster(
            rows, members, centroid, largest=largest
        ):
            clusters.append(cluster)
            means.append(mean)
    tour = _nearest_neighbor_tour(np.stack(means))
    sizes = [len(clusters[number]) for number in tour]
    return Clusters(
        np.stack([means[number] for number in tour]),
        np.append(0, np.cumsum(sizes)),
        np.concatenate([clusters[number] for number in tour]),
    )


def _fit_centroids(
    rows: ReadRows, n: int, *, count: int, seed: int
) -> Float[np.ndarray, "c d"]:
    import faiss  # noqa: PLC0415  # Slow to import, and only a build needs it.

    drawn = np.arange(n)
    if n > TRAINING_VECTORS_PER_CLUSTER * count:
        drawn = np.random.default_rng(seed).choice(
            n, TRAINING_VECTORS_PER_CLUSTER * count, replace=False
        )
        drawn.sort()
    blocks = [
        rows(drawn[start : start + CLUSTER_BLOCK_ROWS])
        for start in range(0, len(drawn), CLUSTER_BLOCK_ROWS)
    ]
    sample = np.concatenate(blocks)
    del blocks
    kmeans = faiss.Kmeans(
        sample.shape[1],
        count,
        niter=_KMEANS_ITERATIONS,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=TRAINING_VECTORS_PER_CLUSTER,
    )
    kmeans.train(sample)
    return np.asarray(kmeans.centroids)


def _split_large_cluster(rows, members, centroid, *, largest):
    """Halves a cluster until none is too large; yields clusters and unit means."""
    if not len(members):
        return
    if len(members) <= largest:
        yield members, centroid
        return
    direction = _principal_direction(
        rows(members[:: -(-len(members) // _DIRECTION_SAMPLE)])
    )
    projections = np.concatenate(
        [
            rows(members[start : start + CLUSTER_BLOCK_ROWS]) @ direction
            for start in range(0, len(members), CLUSTER_BLOCK_ROWS)
        ]
    )
    order = np.argsort(projections, kind="stable")
    middle = len(order) // 2
    for positions in order[:middle], order[middle:]:
        half = members[np.sort(positions)]
        mean = rows(half[:CLUSTER_BLOCK_ROWS]).mean(axis=0)
        length = np.linalg.norm(mean)
        mean = mean / length if length > 0 else centroid
        yield from _split_large_cluster(rows, half, mean, largest=largest)


def _principal_direction(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " d"]:
    """Approximates the direction of largest variance by a few power iterations."""
    centred = vectors - vectors.mean(axis=0)
    # The vector farthest from the mean has a component along that direction.
    direction = centred[np.argmax(np.einsum("nd,nd->n", centred, centred))]
    for _ in range(_POWER_ITERATIONS):
        direction = centred.T @ (centred @ direction)
        length = np.linalg.norm(direction)
        if not length > 0:  # All vectors are equal: any direction halves them.
            return vectors[0]
        direction = direction / length
    return direction


def _nearest_neighbor_tour(
    centroids: Float[np.ndarray, "c d"],
) -> Int[np.ndarray, " c"]:
    """Orders clusters by a tour that always goes to the nearest unvisited one."""
    unvisited = np.arange(len(centroids))
    points = centroids.copy()
    tour = np.empty(len(unvisited), np.int64)
    position = 0
    for step in range(len(tour)):
        tour[step], current = unvisited[position], points[position].copy()
        last = len(unvisited) - 1 - step
        # The last unvisited cluster takes the position of the visited one.
        unvisited[position], points[position] = unvisited[last], points[last]
        if last:
            similarities = np.einsum("cd,d->c", points[:last], current)
            position = int(np.argmax(similarities))
    return tour


class ClusterNeighbors(NamedTuple):
    """Neighbours of the members of one cluster, by positions in `Clusters.order`.

    Attributes:
        start: Position of the first member.
        indices: Positions of the neighbours of each member.
        similarities: Their inner products, most similar first.
    """

    start: int
    indices: Int[np.ndarray, "r k"]
    similarities: Float[np.ndarray, "r k"]


def default_cluster_count(n: int, k: int) -> int:
    """Computes a number of clusters: 4 sqrt(n), with at least k members on average.

    Args:
        n: Number of vectors.
        k: Neighbours per vector.

    Returns:
        A number in 1 to n.
    """
    return max(min(round(_CLUSTERS_PER_ROOT_N * n**0.5), n // max(k, 1)), 1)


def search_clusters(
    vectors: Float[np.ndarray, "n d"],
    clusters: Clusters,
    k: int,
    *,
    probes: int = DEFAULT_PROBES,
    first: int = 0,
) -> Iterator[ClusterNeighbors]:
    """Searches neighbours: compares the members of each cluster with nearby clusters.

    The candidates of a cluster are its members and those of other clusters, ordered by
    how often its members have them among their nearest, until there are as many as in
    `probes` clusters of the mean size, and at least k.

    Args:
        vectors: In the order of the clusters, float32; may be a memory map.
        clusters: The clusters.
        k: Neighbours per vector, 1 to n, including itself.
        probes: Clusters of the mean size that each vector is compared with.
        first: Cluster to begin with.

    Returns:
        An iterator over the clusters with the neighbours of their members; a vector is
        always among its own. Exact duplicates come in any order.
    """
    n, count = len(vectors), len(clusters.centroids)
    num_candidates = min(max(round(probes * n / count), k), n)

    def list_candidates(cluster, queries):
        # Nearby clusters first: later candidates are then seldom among the best.
        starts = clusters.starts
        nearby = _rank_nearby_clusters(
            queries, clusters, cluster, num_candidates, probes
        )
        return np.concatenate([np.arange(*starts[c : c + 2]) for c in nearby])

    return _search_clusters_in_threads(vectors, clusters, k, list_candidates, first)


def refine_neighbors(
    vectors: Float[np.ndarray, "n d"],
    clusters: Clusters,
    lists: Int[np.ndarray, "n k"],
    *,
    max_candidates: int = MAX_REFINE_CANDIDATES,
    first: int = 0,
) -> Iterator[ClusterNeighbors]:
    """Refines neighbour lists by comparing vectors with neighbours of neighbours.

    The candidates of a cluster are all neighbours of its members and, up to
    `max_candidates`, those of their neighbours that are listed most often. No
    similarity falls, because the entries of a list are among its candidates.

    Args:
        vectors: In the order of the clusters, float32; may be a memory map.
        clusters: The clusters.
        lists: Neighbours of every vector, by positions in the order; may be mapped.
        max_candidates: Candidates of a cluster, unless the lists of its members hold
            more.
        first: Cluster to begin with.

    Returns:
        An iterator like that of `search_clusters`.

    References:
        The principle of Dong, Moses and Li, Efficient k-nearest neighbor graph
        construction for generic similarity measures, WWW 2011, for all members of a
        cluster at once. Cited without equation numbers, as it was not at hand.
    """

    def list_candidates(cluster, queries):
        del queries
        neighbors = np.unique(lists[slice(*clusters.starts[cluster : cluster + 2])])
        num_missing = max_candidates - len(neighbors)
        if num_missing <= 0:
            return neighbors
        second, counts = np.unique(lists[neighbors], return_counts=True)
        counts[np.searchsorted(second, neighbors)] = 0  # Candidates already.
        most_listed = np.argsort(-counts, kind="stable")[:num_missing]
        most_listed = most_listed[counts[most_listed] > 0]
        return np.concatenate([neighbors, second[most_listed]])

    return _search_clusters_in_threads(
        vectors, clusters, lists.shape[1], list_candidates, first
    )


def _search_clusters_in_threads(
    vectors, clusters, k, list_candidates, first
) -> Iterator[ClusterNeighbors]:
    """Compares clusters with their candidates, one cluster per core at a time."""
    import faiss  # noqa: PLC0415  # Slow to import, and only a build needs it.

    starts = clusters.starts

    def search_cluster(cluster):
        start = int(starts[cluster])
        queries = np.ascontiguousarray(vectors[start : starts[cluster + 1]])
        candidates = list_candidates(cluster, queries)
        similarities, nearest = faiss.knn(
            queries, vectors[candidates], k, faiss.METRIC_INNER_PRODUCT
        )
        indices = candidates.astype(np.int32)[nearest]
        _insert_self(indices, similarities, queries, start)
        return ClusterNeighbors(start, indices, similarities)

    # Threads that share a cluster would wait for each other.
    cores = faiss.omp_get_max_threads()
    with ThreadPoolExecutor(cores, initializer=_use_one_faiss_thread) as pool:
        pending = deque[Future[ClusterNeighbors]]()
        for cluster in range(first, len(clusters.centroids)):
            pending.append(pool.submit(search_cluster, cluster))
            if len(pending) > 2 * cores:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _use_one_faiss_thread() -> None:
    import faiss  # noqa: PLC0415  # Slow to import, and only a build needs it.

    faiss.omp_set_num_threads(1)


def _rank_nearby_clusters(queries, clusters, cluster, num_candidates, probes):
    """Ranks the clusters whose members are candidates, the cluster itself first."""
    import faiss  # noqa: PLC0415  # Slow to import, and only a build needs it.

    sizes, count = np.diff(clusters.starts), len(clusters.centroids)
    if num_candidates == len(clusters.order):
        return np.arange(count)
    centroids = clusters.centroids
    # Not by BLAS, whose threads would wait for each other, once for each cluster.
    similarities = np.einsum("cd,d->c", centroids, centroids[cluster])
    # The cluster itself comes first, even if its mean is more similar to others.
    similarities[cluster] = np.inf
    nearest = np.argsort(-similarities, kind="stable")
    num_elected = _CANDIDATE_CLUSTERS_PER_PROBE * probes
    elected = nearest[:num_elected]
    votes = np.zeros(len(elected), np.int64)
    num_votes = min(_VOTES_PER_MEMBER, len(elected))
    _, best = faiss.knn(
        queries, centroids[elected], num_votes, faiss.METRIC_INNER_PRODUCT
    )
    np.add.at(votes, best.reshape(-1), 1)
    votes[0] = np.iinfo(np.int64).max
    elected = elected[np.argsort(-votes, kind="stable")]
    order = np.append(elected, nearest[num_elected:])
    last = int(np.searchsorted(np.cumsum(sizes[order]), num_candidates))
    return order[: last + 1]


def _insert_self(indices, similarities, queries, start) -> None:
    """Inserts a vector into its list, if duplicates of it fill all slots."""
    nodes = np.arange(start, start + len(queries), dtype=np.int32)
    missing = np.flatnonzero(~(indices == nodes[:, None]).any(axis=1))
    if missing.size:
        indices[missing, -1] = nodes[missing]
        vectors = queries[missing]
        similarities[missing, -1] = np.einsum("nd,nd->n", vectors, vectors)


def ivf_search(
    vectors: Float[np.ndarray, "n d"], k: int, *, seed: int, probes: int | None = None
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Searches in clusters and refines the lists; see `knn`.

    Args:
        vectors: Vectors, C-contiguous.
        k: Neighbours per vector, including the vector itself.
        seed: Seed of the clusters.
        probes: See `search_clusters`; None for the default.

    Returns:
        Indices and similarities, most similar first; the vector itself is always among
        them.
    """
    n = len(vectors)
    if n <= _FEWEST_FOR_IVF:
        return brute_force_neighbors(vectors, k)
    probes = probes or DEFAULT_PROBES
    single = vectors if vectors.dtype == np.float32 else scale_to_float32(vectors)[0]
    count = default_cluster_count(n, k)
    clusters = cluster_vectors(lambda rows: single[rows], n, count=count, seed=seed)
    indices = np.empty((n, k), np.int32)
    similarities = np.empty((n, k), np.float32)
    ordered = single[clusters.order]
    drafts = search_clusters(ordered, clusters, k, probes=probes)
    lists = np.concatenate([draft.indices for draft in drafts])
    for refined in refine_neighbors(ordered, clusters, lists):
        rows = clusters.order[refined.start : refined.start + len(refined.indices)]
        indices[rows] = clusters.order[refined.indices]
        similarities[rows] = refined.similarities
    if vectors.dtype == np.float32:
        return indices, similarities
    return rank_candidates(vectors, np.arange(n), indices, k, include_self=True)
