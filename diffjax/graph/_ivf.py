"""Inverted file: clusters of vectors, and approximate neighbours from them."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ._brute_force import brute_force_search, rank_candidates, scale_to_float32

# Rows that are read at a time.
CLUSTER_BLOCK_ROWS = 16_384
# Settings by measurement, see configs/scale.py: vectors that k-means is trained on, for
# each centroid, its iterations, and the largest cluster in units of the mean.
TRAINING_VECTORS_PER_CLUSTER, _KMEANS_ITERATIONS, _MAX_RELATIVE_SIZE = 40, 8, 2.0
# What goes into a principal direction that a cluster is split along: vectors, rounds.
_DIRECTION_SAMPLE, _POWER_ITERATIONS = 4096, 5

# Gives rows by their numbers: prepared vectors of single precision.
ReadRows = Callable[[slice | Int[np.ndarray, " r"]], Float[np.ndarray, "r d"]]


class Clusters(NamedTuple):
    """A partition of vectors, and an order in which clusters lie one after the other.

    Attributes:
        centroids: Unit mean of each cluster, near ones beside each other.
        starts: Where each cluster starts in the order, and the end: c + 1.
        order: Which vector is at each place; ascending inside a cluster.
    """

    centroids: Float[np.ndarray, "c d"]
    starts: Int[np.ndarray, " starts"]
    order: Int[np.ndarray, " n"]

    @property
    def largest(self) -> int:
        """The most vectors of any cluster."""
        return int(np.diff(self.starts).max(initial=0))


def cluster_vectors(
    rows: ReadRows,
    n: int,
    *,
    count: int,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Clusters:
    """Puts vectors into clusters by inner product, none above twice the mean size.

    Spherical k-means on a sample finds centroids; every vector goes to the one of
    largest inner product; what is too large is halved along its principal direction,
    until it is not. Nothing is as large as the vectors: a few blocks of them, the
    sample, and numbers of rows.

    Args:
        rows: Gives vectors by number, float32, of about the same length.
        n: How many there are, 1 or more.
        count: Centroids that k-means looks for, 1 to n.
        seed: Of the sample and of k-means.
        progress: Told how many vectors have found their cluster.

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
    parts, means = [], []
    for number, centroid in enumerate(centroids):
        members = order[starts[number] : starts[number + 1]]
        for part, mean in _split_large_cluster(
            rows, members, centroid, largest=largest
        ):
            parts.append(part)
            means.append(mean)
    tour = _nearest_neighbor_tour(np.stack(means))
    sizes = [len(parts[number]) for number in tour]
    return Clusters(
        np.stack([means[number] for number in tour]),
        np.append(0, np.cumsum(sizes)),
        np.concatenate([parts[number] for number in tour]),
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
    parts = [
        rows(drawn[start : start + CLUSTER_BLOCK_ROWS])
        for start in range(0, len(drawn), CLUSTER_BLOCK_ROWS)
    ]
    sample = np.concatenate(parts)
    del parts
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
    """Halves until no part is too large; gives parts with their unit means."""
    if not len(members):
        return
    if len(members) <= largest:
        yield members, centroid
        return
    direction = _principal_direction(
        rows(members[:: -(-len(members) // _DIRECTION_SAMPLE)])
    )
    along = np.concatenate(
        [
            rows(members[start : start + CLUSTER_BLOCK_ROWS]) @ direction
            for start in range(0, len(members), CLUSTER_BLOCK_ROWS)
        ]
    )
    half = np.argsort(along, kind="stable")
    middle = len(half) // 2
    for part in half[:middle], half[middle:]:
        own = members[np.sort(part)]
        mean = rows(own[:CLUSTER_BLOCK_ROWS]).mean(axis=0)
        length = np.linalg.norm(mean)
        mean = mean / length if length > 0 else centroid
        yield from _split_large_cluster(rows, own, mean, largest=largest)


def _principal_direction(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " d"]:
    """About the direction of largest variance, by a few rounds of the power method."""
    apart = vectors - vectors.mean(axis=0)
    # From the vector that is farthest from the mean: it has a part along it.
    found = apart[np.argmax(np.einsum("nd,nd->n", apart, apart))]
    for _ in range(_POWER_ITERATIONS):
        found = apart.T @ (apart @ found)
        length = np.linalg.norm(found)
        if not length > 0:  # All the same: any direction halves them.
            return vectors[0]
        found = found / length
    return found


def _nearest_neighbor_tour(
    centroids: Float[np.ndarray, "c d"],
) -> Int[np.ndarray, " c"]:
    """Visits all clusters, each time the nearest that was not visited yet."""
    left = np.arange(len(centroids))
    points = centroids.copy()
    tour = np.empty(len(left), np.int64)
    place = 0
    for step in range(len(tour)):
        tour[step], here = left[place], points[place].copy()
        last = len(left) - 1 - step
        # What was visited gives its place to the last.
        left[place], points[place] = left[last], points[last]
        if last:
            toward = np.einsum("cd,d->c", points[:last], here)
            place = int(np.argmax(toward))
    return tour


# Fewer are compared in a fraction of a second.
_FEWEST_FOR_IVF = 1024
# Settings by measurement, see configs/scale.py.
DEFAULT_PROBES = 20
MAX_REFINE_CANDIDATES = (
    4000  # Candidates of a cluster when lists are gone through again.
)
_CLUSTERS_PER_ROOT_N = 4  # For each root of the number of vectors.
# Clusters that may be chosen, for each that is; and centroids that each member names.
_CANDIDATE_CLUSTERS_PER_PROBE, _VOTES_PER_MEMBER = 4, 16


class ClusterNeighbors(NamedTuple):
    """Neighbours of the members of one cluster, by their places in the order.

    Attributes:
        start: Place of the first member.
        indices: Places of their neighbours.
        similarities: Inner products, most similar first.
    """

    start: int
    indices: Int[np.ndarray, "r k"]
    similarities: Float[np.ndarray, "r k"]


def default_cluster_count(n: int, k: int) -> int:
    """How many clusters to look for: 4 sqrt(n), with k members on average at least.

    Args:
        n: Number of vectors.
        k: Neighbours of each.

    Returns:
        1 to n.
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
        chosen = _rank_nearby_clusters(queries, clusters, own, wanted, probes)
        return np.concatenate([np.arange(*starts[c : c + 2]) for c in chosen])

    return _search_clusters_in_threads(vectors, clusters, k, candidates, first)


def refine_neighbors(
    vectors: Float[np.ndarray, "n d"],
    clusters: Clusters,
    lists: Int[np.ndarray, "n k"],
    *,
    max_candidates: int = MAX_REFINE_CANDIDATES,
    first: int = 0,
) -> Iterator[ClusterNeighbors]:
    """Compares the members of each cluster with neighbours of their neighbours.

    A cluster's candidates are all neighbours of its members and, of the neighbours of
    those, the ones that are named most often, until there are `max_candidates`. No
    similarity
    falls: what a list holds is among the candidates.

    Args:
        vectors: In the order of the clusters, float32; may be a memory map.
        clusters: Where each starts.
        lists: Neighbours of every vector, by places in the order; may be mapped.
        max_candidates: Candidates of a cluster, unless its members' lists hold more.
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
        missing = max_candidates - len(near)
        if missing <= 0:
            return near
        named, counts = np.unique(lists[near], return_counts=True)
        counts[np.searchsorted(named, near)] = 0  # They are there already.
        more = np.argsort(-counts, kind="stable")[:missing]
        return np.concatenate([near, named[more[counts[more] > 0]]])

    return _search_clusters_in_threads(
        vectors, clusters, lists.shape[1], candidates, first
    )


def _search_clusters_in_threads(
    vectors, clusters, k, candidates, first
) -> Iterator[ClusterNeighbors]:
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
        _insert_self(indices, similarities, queries, start)
        return ClusterNeighbors(start, indices, similarities)

    # Threads that share a cluster would wait for each other.
    cores = faiss.omp_get_max_threads()
    with ThreadPoolExecutor(cores, initializer=_use_one_faiss_thread) as pool:
        waiting = deque[Future[ClusterNeighbors]]()
        for own in range(first, len(clusters.centroids)):
            waiting.append(pool.submit(search, own))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _use_one_faiss_thread() -> None:
    import faiss  # noqa: PLC0415  # Slow to import, and only a build needs it.

    faiss.omp_set_num_threads(1)


def _rank_nearby_clusters(queries, clusters, own, wanted, probes):
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
    some = near[: _CANDIDATE_CLUSTERS_PER_PROBE * probes]
    votes = np.zeros(len(some), np.int64)
    named = min(_VOTES_PER_MEMBER, len(some))
    _, best = faiss.knn(queries, centroids[some], named, faiss.METRIC_INNER_PRODUCT)
    np.add.at(votes, best.reshape(-1), 1)
    votes[0] = np.iinfo(np.int64).max
    some = some[np.argsort(-votes, kind="stable")]
    order = np.append(some, near[_CANDIDATE_CLUSTERS_PER_PROBE * probes :])
    enough = int(np.searchsorted(np.cumsum(sizes[order]), wanted))
    return order[: enough + 1]


def _insert_self(indices, similarities, queries, start) -> None:
    """Puts vectors into their own lists, where duplicates took all places."""
    nodes = np.arange(start, start + len(queries), dtype=np.int32)
    missing = np.flatnonzero(~(indices == nodes[:, None]).any(axis=1))
    if missing.size:
        indices[missing, -1] = nodes[missing]
        own = queries[missing]
        similarities[missing, -1] = np.einsum("nd,nd->n", own, own)


def ivf_search(
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
    if n <= _FEWEST_FOR_IVF:
        return brute_force_search(vectors, k)
    probes = probes or DEFAULT_PROBES
    single = vectors if vectors.dtype == np.float32 else scale_to_float32(vectors)[0]
    count = default_cluster_count(n, k)
    clusters = cluster_vectors(lambda rows: single[rows], n, count=count, seed=seed)
    indices = np.empty((n, k), np.int32)
    similarities = np.empty((n, k), np.float32)
    ordered = single[clusters.order]
    found = search_clusters(ordered, clusters, k, probes=probes)
    lists = np.concatenate([part.indices for part in found])
    for part in refine_neighbors(ordered, clusters, lists):
        rows = clusters.order[part.start : part.start + len(part.indices)]
        indices[rows] = clusters.order[part.indices]
        similarities[rows] = part.similarities
    if vectors.dtype == np.float32:
        return indices, similarities
    return rank_candidates(vectors, np.arange(n), indices, k, include_self=True)
