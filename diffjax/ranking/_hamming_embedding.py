"""Hamming embedding of local descriptors: visual words and binary signatures."""

import dataclasses
from typing import NamedTuple

import faiss
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt64

from diffjax._arguments import check_in_range

_BITS_PER_NUMBER = 64  # Bits of one number of a signature.
_BLOCK_ROWS = 32_768  # Descriptors projected at a time.


def pack_signatures(bits: Bool[np.ndarray, "n b"]) -> UInt64[np.ndarray, "n s"]:
    """Packs the bits of signatures, 64 to a number.

    Args:
        bits: One signature per row, its length a multiple of 64.

    Returns:
        The signatures, b / 64 numbers each.
    """
    return np.packbits(np.ascontiguousarray(bits), axis=1).view(np.uint64)


def unpack_signatures(signatures: UInt64[np.ndarray, "n s"]) -> Bool[np.ndarray, "n b"]:
    """Unpacks signatures into bits, the inverse of `pack_signatures`.

    Args:
        signatures: Packed signatures.

    Returns:
        Their bits.
    """
    packed = np.ascontiguousarray(signatures).view(np.uint8)
    return np.unpackbits(packed, axis=1).astype(bool)


def hamming_distances(
    left: UInt64[np.ndarray, "n s"], right: UInt64[np.ndarray, "n s"]
) -> Int[np.ndarray, " n"]:
    """Computes Hamming distances of signatures, row by row.

    Args:
        left: Packed signatures.
        right: As many other packed signatures.

    Returns:
        Distances, 0 to 64 s.
    """
    distances = np.zeros(len(left), np.int32)
    # Number by number: a sum along so short an axis would cost more than the rest.
    for number in range(left.shape[1]):
        distances += np.bitwise_count(left[:, number] ^ right[:, number])
    return distances


def majority_signatures(
    signatures: UInt64[np.ndarray, "n s"], groups: Int[np.ndarray, " n"]
) -> UInt64[np.ndarray, "g s"]:
    """Aggregates each group of signatures by a majority vote on every bit.

    Args:
        signatures: Packed signatures, sorted by group.
        groups: Group of every row, never decreasing.

    Returns:
        One signature per group that occurs. A tied bit is that of the group's first
        row: a fixed value would bias all signatures alike.
    """
    if not len(groups):
        return signatures
    bits = unpack_signatures(signatures)
    starts = np.flatnonzero(np.diff(groups, prepend=groups[0] - 1))
    sizes = np.diff(starts, append=len(groups))[:, None]
    votes = 2 * np.add.reduceat(bits.astype(np.int32), starts, axis=0)
    return pack_signatures(np.where(votes == sizes, bits[starts], votes > sizes))


def check_signature_bits(bits: int, *, dim: int | None = None) -> None:
    """Refuses signature lengths that can't be packed or projected.

    Raises:
        ValueError: If `bits` is no multiple of 64 from 64, or above the dimensions.
    """
    if bits < _BITS_PER_NUMBER or bits % _BITS_PER_NUMBER:
        raise ValueError(f"bits must be a multiple of 64 from 64, got {bits}.")
    if dim is not None and bits > dim:
        raise ValueError(
            f"bits must be at most the descriptors' {dim} dimensions, as the "
            f"projections are orthogonal, got {bits}."
        )


@dataclasses.dataclass(frozen=True)
class HammingConfig:
    """Settings of the Hamming embedding: visual words, signatures, match weights."""

    num_words: int = 8192
    """Number of words; Tolias and Jegou use 65,536, for millions of descriptors."""
    bits: int = 128
    """Length of signatures, a multiple of 64, at most the descriptors' dimensions."""
    threshold: float = 3 / 8
    """Largest Hamming distance of a match, as a fraction of `bits`: 48 of 128."""
    sigma: float = 1 / 4
    """Width of the weight exp(-(h / sigma)^2), as a fraction of `bits`: 32 of 128."""
    assignments: int = 3
    """Number of words for each feature of a query; a feature of an image has one."""
    normalize_bursts: bool = True
    """Whether features of a query that match an image many times are down-weighted."""
    iterations: int = 10
    """Iterations of k-means."""
    samples_per_word: int = 32
    """Largest number of descriptors per word that k-means uses."""
    seed: int = 0
    """Random seed of k-means and of the projections."""

    def __post_init__(self) -> None:
        """Refuses settings outside their ranges."""
        check_signature_bits(self.bits)
        for name in ("num_words", "assignments", "iterations", "samples_per_word"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, got {getattr(self, name)}."
                )
        if self.assignments > self.num_words:
            raise ValueError(
                f"assignments must be at most num_words, {self.num_words}, got "
                f"{self.assignments}."
            )
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {self.threshold}.")
        check_in_range("sigma", self.sigma, low=0, high=np.inf)
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be in 0..2^31 - 1, got {self.seed}.")


def check_local_descriptors(
    name: str, descriptors: Float[Array | np.ndarray, "n d"], *, dim: int | None = None
) -> Float[np.ndarray, "n d"]:
    """Validates local descriptors, and converts them to NumPy in single precision.

    Args:
        name: Name of the argument, for errors.
        descriptors: Local descriptors.
        dim: Required number of dimensions; None for any.

    Returns:
        The descriptors, C-contiguous.

    Raises:
        ValueError: If they are no matrix, of other dimensions or not finite.
    """
    host = np.ascontiguousarray(descriptors, np.float32)
    if host.ndim != 2:
        raise ValueError(f"{name} must be a matrix, got shape {list(host.shape)}.")
    if dim is not None and host.shape[1] != dim:
        raise ValueError(
            f"{name} must have the collection's {dim} dimensions, got {host.shape[1]}."
        )
    not_finite = np.flatnonzero(~np.isfinite(host).all(axis=1))
    if not_finite.size:
        raise ValueError(
            f"{name} must be finite, got NaN or infinity in {not_finite.size} of "
            f"{len(host)} rows, first in row {not_finite[0]}."
        )
    return host


def count_ids_with_gaps(
    name: str,
    ids: Int[np.ndarray, " n"],
    *,
    rows: int,
    count: int | None,
    count_name: str,
) -> int:
    """Validates ids that may skip numbers, and counts the images or queries.

    Args:
        name: Name of the argument, for errors.
        ids: Image or query of each row, never decreasing.
        rows: Number of rows.
        count: Number of images or queries; None for the last id plus 1.
        count_name: Name of the argument `count`, for errors.

    Returns:
        The number of images or queries.

    Raises:
        ValueError: If ids are not whole numbers, one per row, decrease, are below 0, or
            reach `count`.
    """
    if ids.shape != (rows,) or ids.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be whole numbers, one for each of {rows} rows, got "
            f"{ids.dtype} {list(ids.shape)}."
        )
    # Differences of unsigned numbers would not be negative.
    decreases = np.flatnonzero(np.diff(ids.astype(np.int64), prepend=0) < 0)
    if decreases.size:
        raise ValueError(
            f"{name} must be at least 0 and never go back, got {ids[decreases[0]]} in "
            f"row {decreases[0]}: sort the rows by id."
        )
    min_count = int(ids[-1]) + 1 if rows else 0
    if count is None:
        return min_count
    if count < min_count:
        raise ValueError(f"{count_name} must be at least {min_count}, got {count}.")
    return count


def split_by_query(
    queries: Float[Array | np.ndarray, "r d"],
    query_ids: Int[Array | np.ndarray, " r"],
    *,
    num_queries: int | None,
    dim: int,
) -> list[Float[np.ndarray, "_ d"]]:
    """Splits local descriptors by query.

    Args:
        queries: Local descriptors of the queries.
        query_ids: Query of each descriptor, never decreasing.
        num_queries: Number of queries; None for the last id plus 1.
        dim: Required number of dimensions.

    Returns:
        The descriptors of each query; empty for a query whose number does not occur.

    Raises:
        ValueError: As `check_local_descriptors` and `count_ids_with_gaps`.
    """
    host = check_local_descriptors("queries", queries, dim=dim)
    ids = np.asarray(query_ids)
    count = count_ids_with_gaps(
        "query_ids", ids, rows=len(host), count=num_queries, count_name="num_queries"
    )
    bounds = np.searchsorted(ids, np.arange(count + 1))
    return [host[bounds[q] : bounds[q + 1]] for q in range(count)]


class VisualVocabulary(NamedTuple):
    """Visual vocabulary: visual words, and the embedding into binary signatures.

    Attributes:
        centroids: Centroids of the visual words.
        projection: Orthonormal rows, one per bit.
        medians: Medians of the projected features of each word.
    """

    centroids: Float[np.ndarray, "w d"]
    projection: Float[np.ndarray, "b d"]
    medians: Float[np.ndarray, "w b"]


def cluster_visual_words(
    descriptors: Float[np.ndarray, "t d"],
    *,
    num_words: int,
    iterations: int,
    samples_per_word: int,
    seed: int,
) -> Float[np.ndarray, "w d"]:
    """Clusters descriptors into visual words by the k-means of faiss.

    Args:
        descriptors: Training descriptors, in single precision.
        num_words: Number of words w.
        iterations: Iterations of k-means.
        samples_per_word: Largest number of descriptors used per word.
        seed: Random seed of the sample and of the initial centroids.

    Returns:
        The centroids.

    Raises:
        ValueError: If there are fewer descriptors than words.
    """
    if len(descriptors) < num_words:
        raise ValueError(
            f"num_words must be at most the number of descriptors to learn from, "
            f"{len(descriptors)}, got {num_words}; some 30 for each word are good."
        )
    clustering = faiss.Kmeans(
        descriptors.shape[1],
        num_words,
        niter=iterations,
        seed=seed,
        max_points_per_centroid=samples_per_word,
        min_points_per_centroid=1,  # Below it faiss writes a warning of its own.
    )
    clustering.train(descriptors)
    return np.asarray(clustering.centroids)


def assign_words(
    centroids: Float[np.ndarray, "w d"], descriptors: Float[np.ndarray, "n d"], k: int
) -> Int[np.ndarray, "n k"]:
    """Assigns each descriptor to the k visual words nearest to it.

    Args:
        centroids: Centroids of the visual words.
        descriptors: Local descriptors, in single precision.
        k: Number of words per descriptor, at most w.

    Returns:
        Words of each descriptor, nearest first.
    """
    if not len(descriptors):
        return np.empty((0, k), np.int64)
    _, words = faiss.knn(descriptors, centroids, k)
    return words


def fit_hamming_embedding(
    centroids: Float[np.ndarray, "w d"],
    descriptors: Float[np.ndarray, "t d"],
    words: Int[np.ndarray, " t"],
    *,
    bits: int,
    seed: int,
) -> VisualVocabulary:
    """Fits the Hamming embedding: random projections, and medians of every word.

    The projections are `bits` rows of a random orthogonal matrix: Q of the QR
    decomposition of a Gaussian one. The threshold of bit i in word c is the median of
    coordinate i over the descriptors of c, or that of its centroid where c has none.

    Args:
        centroids: Centroids of the visual words.
        descriptors: Training descriptors.
        words: Word of each training descriptor.
        bits: Length of signatures, a multiple of 64, at most d.
        seed: Random seed of the Gaussian matrix.

    Returns:
        The visual vocabulary.

    Raises:
        ValueError: If `bits` is not a multiple of 64, or above d.

    References:
        Jegou, Douze and Schmid, Hamming embedding and weak geometric consistency for
        large scale image search, ECCV 2008 (cited without equation numbers, as the
        paper was not available).
    """
    num_words, dim = centroids.shape
    check_signature_bits(bits, dim=dim)
    gaussian = np.random.default_rng(seed).normal(size=(dim, dim))
    projection = np.linalg.qr(gaussian).Q[:bits]
    medians = _project_descriptors(projection, centroids)
    order = np.argsort(words, kind="stable")
    bounds = np.searchsorted(words[order], np.arange(num_words + 1))
    # Word by word: NumPy has no median of segments, and a word has many rows.
    for word in np.flatnonzero(np.diff(bounds)):
        rows = order[bounds[word] : bounds[word + 1]]
        medians[word] = np.median(
            _project_descriptors(projection, descriptors[rows]), axis=0
        )
    return VisualVocabulary(centroids, projection, medians)


def compute_signatures(
    vocabulary: VisualVocabulary,
    descriptors: Float[np.ndarray, "n d"],
    words: Int[np.ndarray, "n k"],
) -> UInt64[np.ndarray, "n k s"]:
    """Computes the signatures of descriptors in each of their words.

    Bit i tells whether coordinate i of the projected descriptor is above the median of
    the word.

    Args:
        vocabulary: From `fit_hamming_embedding`.
        descriptors: Local descriptors.
        words: Words of each descriptor.

    Returns:
        Packed signatures.
    """
    n, k = words.shape
    bits = len(vocabulary.projection)
    signatures = np.empty((n, k, bits // 64), np.uint64)
    for start in range(0, n, _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        values = _project_descriptors(vocabulary.projection, descriptors[rows])
        above = values[:, None] > vocabulary.medians[words[rows]]
        signatures[rows] = pack_signatures(above.reshape(-1, bits)).reshape(
            *above.shape[:2], -1
        )
    return signatures


def _project_descriptors(
    projection: Float[np.ndarray, "b d"], descriptors: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, "n b"]:
    """Projects descriptors in double precision, and rounds to single.

    The median of an odd number of values is one of these values. The last digits of a
    product depend on which rows are multiplied together; rounding removes them, so that
    the median descriptor has the same bits in the database and in a query.
    """
    return (descriptors.astype(np.float64) @ projection.T).astype(np.float32)
