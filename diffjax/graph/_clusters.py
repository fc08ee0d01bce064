"""Vectors in clusters of bounded size, from blocks of rows that need not fit."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

# Rows that are read at a time.
BLOCK_ROWS = 16_384
# Settings by measurement, see configs/scale.py: vectors that k-means is trained on, for
# each centroid, its iterations, and the largest cluster in units of the mean.
SAMPLED, _ROUNDS, _LARGEST = 40, 8, 2.0
# What goes into a principal direction that a cluster is split along: vectors, rounds.
_DIRECTED, _POWER_ROUNDS = 4096, 5

# Gives rows by their numbers: prepared vectors of single precision.
Rows = Callable[[slice | Int[np.ndarray, " r"]], Float[np.ndarray, "r d"]]


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


def cluster(
    rows: Rows,
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

    centroids = _train(rows, n, count=count, seed=seed)
    labels = np.empty(n, np.int32)
    for start in range(0, n, BLOCK_ROWS):
        block = slice(start, min(start + BLOCK_ROWS, n))
        _, nearest = faiss.knn(rows(block), centroids, 1, faiss.METRIC_INNER_PRODUCT)
        labels[block] = nearest[:, 0]
        if progress is not None:
            progress(block.stop)
    order = np.argsort(labels, kind="stable").astype(np.int32)
    starts = np.searchsorted(labels[order], np.arange(len(centroids) + 1))
    largest = max(int(np.ceil(_LARGEST * n / len(centroids))), 2)
    parts, means = [], []
    for number, centroid in enumerate(centroids):
        members = order[starts[number] : starts[number + 1]]
        for part, mean in _split(rows, members, centroid, largest=largest):
            parts.append(part)
            means.append(mean)
    tour = _tour(np.stack(means))
    sizes = [len(parts[number]) for number in tour]
    return Clusters(
        np.stack([means[number] for number in tour]),
        np.append(0, np.cumsum(sizes)),
        np.concatenate([parts[number] for number in tour]),
    )


def _train(rows: Rows, n: int, *, count: int, seed: int) -> Float[np.ndarray, "c d"]:
    import faiss  # noqa: PLC0415  # Slow to import, and only a build needs it.

    drawn = np.arange(n)
    if n > SAMPLED * count:
        drawn = np.random.default_rng(seed).choice(n, SAMPLED * count, replace=False)
        drawn.sort()
    parts = [
        rows(drawn[start : start + BLOCK_ROWS])
        for start in range(0, len(drawn), BLOCK_ROWS)
    ]
    sample = np.concatenate(parts)
    del parts
    kmeans = faiss.Kmeans(
        sample.shape[1],
        count,
        niter=_ROUNDS,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=SAMPLED,
    )
    kmeans.train(sample)
    return np.asarray(kmeans.centroids)


def _split(rows, members, centroid, *, largest):
    """Halves until no part is too large; gives parts with their unit means."""
    if not len(members):
        return
    if len(members) <= largest:
        yield members, centroid
        return
    direction = _direction(rows(members[:: -(-len(members) // _DIRECTED)]))
    along = np.concatenate(
        [
            rows(members[start : start + BLOCK_ROWS]) @ direction
            for start in range(0, len(members), BLOCK_ROWS)
        ]
    )
    half = np.argsort(along, kind="stable")
    middle = len(half) // 2
    for part in half[:middle], half[middle:]:
        own = members[np.sort(part)]
        mean = rows(own[:BLOCK_ROWS]).mean(axis=0)
        length = np.linalg.norm(mean)
        mean = mean / length if length > 0 else centroid
        yield from _split(rows, own, mean, largest=largest)


def _direction(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " d"]:
    """About the direction of largest variance, by a few rounds of the power method."""
    apart = vectors - vectors.mean(axis=0)
    # From the vector that is farthest from the mean: it has a part along it.
    found = apart[np.argmax(np.einsum("nd,nd->n", apart, apart))]
    for _ in range(_POWER_ROUNDS):
        found = apart.T @ (apart @ found)
        length = np.linalg.norm(found)
        if not length > 0:  # All the same: any direction halves them.
            return vectors[0]
        found = found / length
    return found


def _tour(centroids: Float[np.ndarray, "c d"]) -> Int[np.ndarray, " c"]:
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
