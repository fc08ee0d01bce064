"""Hamming embedding of local descriptors: visual words and binary signatures."""

import dataclasses
from typing import NamedTuple

import faiss
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt64

from diffjax._arguments import check_in_range

_BITS_PER_NUMBER = 64  # Bits of one number of a signature.


def pack_signatures(bits: Bool[np.ndarray, "n b"]) -> UInt64[np.ndarray, "n s"]:
    """Packs bits, 64 to a number.

    Args:
        bits: One signature per row, its length a multiple of 64.

    Returns:
        The signatures, b / 64 numbers each.
    """
    return np.packbits(np.ascontiguousarray(bits), axis=1).view(np.uint64)


def unpack_signatures(signatures: UInt64[np.ndarray, "n s"]) -> Bool[np.ndarray, "n b"]:
    """Undoes `pack_signatures`.

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
    """Counts the bits in which signatures differ, row by row.

    Args:
        left: Packed signatures.
        right: As many others.

    Returns:
        Distances, 0 to 64 s.
    """
    distances = np.zeros(len(left), np.int32)
    # Number by number: a sum along so short an axis would cost more than all else.
    for number in range(left.shape[1]):
        distances += np.bitwise_count(left[:, number] ^ right[:, number])
    return distances


def majority_signatures(
    signatures: UInt64[np.ndarray, "n s"], groups: Int[np.ndarray, " n"]
) -> UInt64[np.ndarray, "g s"]:
    """Aggregates each group of signatures to the bits that most of them have.

    Args:
        signatures: Packed signatures; those of a group stand together.
        groups: Group of every row, never going back.

    Returns:
        One signature per group that occurs. Where as many have a bit as do not, it is
        that of the group's first row: a fixed value would draw all to one corner.
    """
    if not len(groups):
        return signatures
    bits = unpack_signatures(signatures)
    starts = np.flatnonzero(np.diff(groups, prepend=groups[0] - 1))
    sizes = np.diff(starts, append=len(groups))[:, None]
    votes = 2 * np.add.reduceat(bits.astype(np.int32), starts, axis=0)
    return pack_signatures(np.where(votes == sizes, bits[starts], votes > sizes))


def check_signature_bits(bits: int, *, dim: int | None = None) -> None:
    """Refuses lengths of signatures that can't be packed or projected.

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
    """How local descriptors become words and signatures, and what a match weighs."""

    num_words: int = 8192
    """Visual words; Tolias and Jegou take 65,536, for millions of descriptors."""
    bits: int = 128
    """Length of signatures, a multiple of 64, at most the descriptors' dimensions."""
    threshold: float = 3 / 8
    """Largest Hamming distance of a match, as a part of `bits`: 48 of 128."""
    sigma: float = 1 / 4
    """Width of a match's weight exp(-(h / sigma)^2), as a part of `bits`: 32 of 128."""
    assignments: int = 3
    """Words that each feature of a query is assigned to; one of an image, to one."""
    normalize_bursts: bool = True
    """Whether features of a query that match an image many times are held down."""
    iterations: int = 10
    """Rounds of k-means."""
    samples_per_word: int = 32
    """Descriptors per word that k-means looks at, at most."""
    seed: int = 0
    """Of k-means and the projections."""

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
    """Gives descriptors on the host, in single precision.

    Args:
        name: What errors call them.
        descriptors: Local descriptors.
        dim: Dimensions they must have; None for any.

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
    bad = np.flatnonzero(~np.isfinite(host).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{name} must be finite, got NaN or infinity in {bad.size} of {len(host)} "
            f"rows, first in row {bad[0]}."
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
    """Checks ids that may skip numbers, and counts what they number.

    Args:
        name: What errors call them.
        ids: One per row, never going back.
        rows: Number of rows.
        count: The number of images or queries; None for the last id plus 1.
        count_name: What errors call that.

    Returns:
        That number.

    Raises:
        ValueError: If ids are not whole numbers, one per row, go back or below 0, or
            reach `count`.
    """
    if ids.shape != (rows,) or ids.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be whole numbers, one for each of {rows} rows, got "
            f"{ids.dtype} {list(ids.shape)}."
        )
    # Unsigned numbers would not go below 0 in a difference.
    bad = np.flatnonzero(np.diff(ids.astype(np.int64), prepend=0) < 0)
    if bad.size:
        raise ValueError(
            f"{name} must be at least 0 and never go back, got {ids[bad[0]]} in row "
            f"{bad[0]}: sort the rows by id."
        )
    seen = int(ids[-1]) + 1 if rows else 0
    if count is None:
        return seen
    if count < seen:
        raise ValueError(f"{count_name} must be at least {seen}, got {count}.")
    return count


def split_by_query(
    queries: Float[Array | np.ndarray, "r d"],
    query_ids: Int[Array | np.ndarray, " r"],
    *,
    num_queries: int | None,
    dim: int,
) -> list[Float[np.ndarray, "_ d"]]:
    """Takes the descriptors of queries apart.

    Args:
        queries: Local descriptors of the queries.
        query_ids: Query of each, never going back.
        num_queries: Number of queries; None for the last id plus 1.
        dim: Dimensions they must have.

    Returns:
        The descriptors of each query, none for one whose number does not occur.

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


_BLOCK_ROWS = 32_768


class VisualVocabulary(NamedTuple):
    """What turns a local descriptor into a visual word and a binary signature.

    Attributes:
        centroids: The visual words.
        projection: Orthonormal rows, one per bit.
        medians: Per word, the medians of its features' projections.
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
    """Finds visual words by k-means, as faiss has it.

    Args:
        descriptors: Local descriptors to learn from, in single precision.
        num_words: Number of words w.
        iterations: Rounds of k-means.
        samples_per_word: Descriptors looked at per word, at most.
        seed: Of the sample and the start.

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
        centroids: The visual words.
        descriptors: Local descriptors, in single precision.
        k: Words per descriptor, at most w.

    Returns:
        Words, nearest first.
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
    """Draws the projections and finds the medians of every word.

    The projections are `bits` rows of a random orthogonal matrix: Q of the QR
    decomposition of a Gaussian one. The threshold of bit i in word c is the median of
    coordinate i over the descriptors of c; of its centroid where c has none.

    Args:
        centroids: The visual words.
        descriptors: Local descriptors to learn from.
        words: Word of each of them.
        bits: Length of signatures, a multiple of 64, at most d.
        seed: Of the Gaussian matrix.

    Returns:
        All that is needed to describe features.

    Raises:
        ValueError: If `bits` is no such number.

    References:
        Jegou, Douze and Schmid, Hamming embedding and weak geometric consistency for
        large scale image search, ECCV 2008 (cited without equation numbers, as the
        paper was not at hand).
    """
    num_words, dim = centroids.shape
    check_signature_bits(bits, dim=dim)
    gaussian = np.random.default_rng(seed).normal(size=(dim, dim))
    projection = np.linalg.qr(gaussian).Q[:bits]
    medians = _project_descriptors(projection, centroids)
    order = np.argsort(words, kind="stable")
    bounds = np.searchsorted(words[order], np.arange(num_words + 1))
    # Word by word: there is no median of segments, and a word has many rows.
    for word in np.flatnonzero(np.diff(bounds)):
        own = order[bounds[word] : bounds[word + 1]]
        medians[word] = np.median(
            _project_descriptors(projection, descriptors[own]), axis=0
        )
    return VisualVocabulary(centroids, projection, medians)


def compute_signatures(
    vocabulary: VisualVocabulary,
    descriptors: Float[np.ndarray, "n d"],
    words: Int[np.ndarray, "n k"],
) -> UInt64[np.ndarray, "n k s"]:
    """Gives descriptors their signatures in each of their words.

    Bit i says whether coordinate i of the projected descriptor is above the median of
    the word.

    Args:
        vocabulary: What `fit_hamming_embedding` gave.
        descriptors: Local descriptors.
        words: Words of each of them.

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
    """Projects in double precision and rounds to single.

    The median of an odd number of values is one of them. A product's last digits
    depend on which rows are multiplied together; rounded away, that descriptor has the
    same bits in the database and in a query.
    """
    return (descriptors.astype(np.float64) @ projection.T).astype(np.float32)
