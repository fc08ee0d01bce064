"""Features that match by word and signature, and the image scores they add up to."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt64

from ._hamming_signatures import hamming_distances

_PAIRS = 1 << 20  # Compared at a time, at some 60 bytes each.


class Features(NamedTuple):
    """Features as they are matched.

    Attributes:
        words: Visual word of each.
        signatures: Its packed signature in that word.
    """

    words: Int[np.ndarray, " p"]
    signatures: UInt64[np.ndarray, "p s"]


class InvertedFile(NamedTuple):
    """The features of all images, word by word and within a word image by image.

    Attributes:
        starts: Where the features of each word begin, and where the last ones end.
        images: Image of every feature.
        signatures: Its packed signature.
    """

    starts: Int[np.ndarray, " w_plus_1"]
    images: Int[np.ndarray, " n"]
    signatures: UInt64[np.ndarray, "n s"]

    def words(self, positions: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
        """The visual words of the features at some positions."""
        return np.searchsorted(self.starts, positions, side="right") - 1


class Matches(NamedTuple):
    """Pairs of a query's and an image's features, by feature and then by image.

    Attributes:
        features: Which feature of the query.
        images: The image.
        distances: Hamming distance of the two.
    """

    features: Int[np.ndarray, " t"]
    images: Int[np.ndarray, " t"]
    distances: Int[np.ndarray, " t"]


def invert(
    features: Features, image_ids: Int[np.ndarray, " n"], *, num_words: int
) -> InvertedFile:
    """Sorts the features of images by word.

    Args:
        features: Features of the images.
        image_ids: Image of each, never going back.
        num_words: Number of visual words.

    Returns:
        The inverted file.
    """
    order = np.argsort(features.words, kind="stable")
    starts = np.searchsorted(features.words[order], np.arange(num_words + 1))
    return InvertedFile(starts, image_ids[order], features.signatures[order])


def find_matches(
    inverted: InvertedFile, features: Features, *, threshold: float
) -> Matches:
    """Finds the image features of the same word and a signature close enough.

    Args:
        inverted: Features of the images.
        features: Features of a query.
        threshold: Largest Hamming distance of a match.

    Returns:
        All matches.
    """
    first = inverted.starts[features.words]
    lengths = inverted.starts[features.words + 1] - first
    ends = np.cumsum(lengths)
    found = []
    low = 0
    while low < len(lengths):
        done = ends[low] - lengths[low]
        high = max(low + 1, int(np.searchsorted(ends, done + _PAIRS, side="right")))
        asked = np.repeat(np.arange(low, high), lengths[low:high])
        # The k-th pair of a feature is with the k-th feature of its word.
        place = np.arange(len(asked)) + done - (ends - lengths - first)[asked]
        distances = hamming_distances(
            inverted.signatures[place], features.signatures[asked]
        )
        close = distances <= threshold
        found.append((asked[close], inverted.images[place[close]], distances[close]))
        low = high
    if not found:
        nothing = np.empty(0, np.int64)
        return Matches(nothing, nothing, nothing)
    return Matches(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def add_up(
    matches: Matches, weights: Float[np.ndarray, " t"], *, num_images: int, burst: bool
) -> Float[np.ndarray, " m"]:
    r"""Adds the weights of matches up to image scores.

    A feature of the query that matches c features of an image counts there as
    sum w / sqrt(c) if `burst`, else as sum w.

    Args:
        matches: Matches as `find_matches` orders them.
        weights: Weight of each.
        num_images: Number of images m.
        burst: Whether repeated structures are held down.

    Returns:
        Scores of all images.
    """
    images = matches.images
    if burst and len(images):
        pair = matches.features * num_images + images
        starts = np.flatnonzero(np.diff(pair, prepend=-1))
        sizes = np.diff(starts, append=len(pair))
        weights = np.add.reduceat(weights, starts) / np.sqrt(sizes)
        images = images[starts]
    # Without any match NumPy counts in whole numbers.
    return np.bincount(images, weights, minlength=num_images).astype(np.float64)
