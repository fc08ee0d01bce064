"""Visual words and the Hamming embedding: local descriptors to words and bits."""

from typing import NamedTuple

import faiss
import numpy as np
from jaxtyping import Float, Int, UInt64

from ._hamming_signatures import check_bits, pack_signatures

_BLOCK_ROWS = 32_768


class Vocabulary(NamedTuple):
    """What turns a local descriptor into a visual word and a binary signature.

    Attributes:
        centroids: The visual words.
        projection: Orthonormal rows, one per bit.
        medians: Per word, the medians of its features' projections.
    """

    centroids: Float[np.ndarray, "w d"]
    projection: Float[np.ndarray, "b d"]
    medians: Float[np.ndarray, "w b"]


def cluster_words(
    descriptors: Float[np.ndarray, "t d"],
    *,
    num_words: int,
    iterations: int,
    sample: int,
    seed: int,
) -> Float[np.ndarray, "w d"]:
    """Finds visual words by k-means, as faiss has it.

    Args:
        descriptors: Local descriptors to learn from, in single precision.
        num_words: Number of words w.
        iterations: Rounds of k-means.
        sample: Descriptors looked at per word, at most.
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
        max_points_per_centroid=sample,
        min_points_per_centroid=1,  # Below it faiss writes a warning of its own.
    )
    clustering.train(descriptors)
    return np.asarray(clustering.centroids)


def nearest_words(
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


def fit_embedding(
    centroids: Float[np.ndarray, "w d"],
    descriptors: Float[np.ndarray, "t d"],
    words: Int[np.ndarray, " t"],
    *,
    bits: int,
    seed: int,
) -> Vocabulary:
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
    check_bits(bits, dim=dim)
    gaussian = np.random.default_rng(seed).normal(size=(dim, dim))
    projection = np.linalg.qr(gaussian).Q[:bits]
    medians = _project(projection, centroids)
    order = np.argsort(words, kind="stable")
    bounds = np.searchsorted(words[order], np.arange(num_words + 1))
    # Word by word: there is no median of segments, and a word has many rows.
    for word in np.flatnonzero(np.diff(bounds)):
        own = order[bounds[word] : bounds[word + 1]]
        medians[word] = np.median(_project(projection, descriptors[own]), axis=0)
    return Vocabulary(centroids, projection, medians)


def sign(
    vocabulary: Vocabulary,
    descriptors: Float[np.ndarray, "n d"],
    words: Int[np.ndarray, "n k"],
) -> UInt64[np.ndarray, "n k s"]:
    """Gives descriptors their signatures in each of their words.

    Bit i says whether coordinate i of the projected descriptor is above the median of
    the word.

    Args:
        vocabulary: What `fit_embedding` gave.
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
        values = _project(vocabulary.projection, descriptors[rows])
        above = values[:, None] > vocabulary.medians[words[rows]]
        signatures[rows] = pack_signatures(above.reshape(-1, bits)).reshape(
            *above.shape[:2], -1
        )
    return signatures


def _project(
    projection: Float[np.ndarray, "b d"], descriptors: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, "n b"]:
    """Projects in double precision and rounds to single.

    The median of an odd number of values is one of them. A product's last digits
    depend on which rows are multiplied together; rounded away, that descriptor has the
    same bits in the database and in a query.
    """
    return (descriptors.astype(np.float64) @ projection.T).astype(np.float32)
