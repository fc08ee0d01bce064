"""Hamming index: an inverted file of local features, its scores and query expansion."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt64

from ._hamming_embedding import (
    HammingConfig,
    VisualVocabulary,
    assign_words,
    check_local_descriptors,
    check_signature_bits,
    cluster_visual_words,
    compute_signatures,
    count_ids_with_gaps,
    fit_hamming_embedding,
    hamming_distances,
    majority_signatures,
    split_by_query,
)

_PAIRS_PER_BLOCK = 1 << 20  # Compared at a time, at some 60 bytes each.


class QuantizedFeatures(NamedTuple):
    """Quantized local features: visual words and signatures.

    Attributes:
        words: Visual word of each feature.
        signatures: Packed signature of each feature in its word.
    """

    words: Int[np.ndarray, " p"]
    signatures: UInt64[np.ndarray, "p s"]


class InvertedFile(NamedTuple):
    """Inverted file: the features of all images, sorted by word and then by image.

    Attributes:
        starts: Position of the first feature of each word, and the number of features.
        images: Image of every feature.
        signatures: Packed signature of every feature.
    """

    starts: Int[np.ndarray, " w_plus_1"]
    images: Int[np.ndarray, " n"]
    signatures: UInt64[np.ndarray, "n s"]

    def words(self, positions: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
        """Visual words of the features at these positions."""
        return np.searchsorted(self.starts, positions, side="right") - 1


class FeatureMatches(NamedTuple):
    """Matches of a query's and images' features, sorted by feature and then by image.

    Attributes:
        features: Number of the query's feature.
        images: Number of the image.
        distances: Hamming distance of the two signatures.
    """

    features: Int[np.ndarray, " t"]
    images: Int[np.ndarray, " t"]
    distances: Int[np.ndarray, " t"]


def build_inverted_file(
    features: QuantizedFeatures, image_ids: Int[np.ndarray, " n"], *, num_words: int
) -> InvertedFile:
    """Builds the inverted file: sorts the features of images by word.

    Args:
        features: Features of the images.
        image_ids: Image of each feature, never decreasing.
        num_words: Number of visual words.

    Returns:
        The inverted file.
    """
    order = np.argsort(features.words, kind="stable")
    starts = np.searchsorted(features.words[order], np.arange(num_words + 1))
    return InvertedFile(starts, image_ids[order], features.signatures[order])


def find_matches(
    inverted: InvertedFile, features: QuantizedFeatures, *, threshold: float
) -> FeatureMatches:
    """Finds the image features of the same word within a Hamming distance.

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
    blocks = []
    low = 0
    while low < len(lengths):
        num_done = ends[low] - lengths[low]
        limit = num_done + _PAIRS_PER_BLOCK
        high = max(low + 1, int(np.searchsorted(ends, limit, side="right")))
        rows = np.repeat(np.arange(low, high), lengths[low:high])
        # The k-th pair of a feature is with the k-th feature of its word.
        positions = np.arange(len(rows)) + num_done - (ends - lengths - first)[rows]
        distances = hamming_distances(
            inverted.signatures[positions], features.signatures[rows]
        )
        is_match = distances <= threshold
        images = inverted.images[positions[is_match]]
        blocks.append((rows[is_match], images, distances[is_match]))
        low = high
    if not blocks:
        empty = np.empty(0, np.int64)
        return FeatureMatches(empty, empty, empty)
    return FeatureMatches(
        *(np.concatenate(arrays) for arrays in zip(*blocks, strict=True))
    )


def sum_match_weights(
    matches: FeatureMatches,
    weights: Float[np.ndarray, " t"],
    *,
    num_images: int,
    normalize_bursts: bool,
) -> Float[np.ndarray, " m"]:
    r"""Sums the weights of matches to image scores.

    A feature of the query that matches c features of an image adds sum w / sqrt(c) to
    its score if `normalize_bursts`, else sum w.

    Args:
        matches: Matches in the order of `find_matches`.
        weights: Weight of each match.
        num_images: Number of images m.
        normalize_bursts: Whether repeated structures are down-weighted.

    Returns:
        Scores of all images.
    """
    images = matches.images
    if normalize_bursts and len(images):
        pairs = matches.features * num_images + images
        starts = np.flatnonzero(np.diff(pairs, prepend=-1))
        sizes = np.diff(starts, append=len(pairs))
        weights = np.add.reduceat(weights, starts) / np.sqrt(sizes)
        images = images[starts]
    # Without any match NumPy would return whole numbers.
    return np.bincount(images, weights, minlength=num_images).astype(np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class HammingIndex:
    r"""Hamming index: the local features of a collection in an inverted file.

    A feature x of an image and one z of a query match if they have the same visual
    word c and their signatures differ in h <= threshold bits. The match weighs
    idf(c)^2 exp(-h^2 / sigma^2). The score of image X for query Q is

        sum_z (sum of the weights of z's c(z, X) matches in X) / sqrt(c(z, X)),

    divided by |X| and |Q|, where |X|^2 is the sum of idf(c)^2 over the different words
    of X. idf(c) = log(m / m_c) for m_c of the m images with word c, 0 if m_c is 0.

    Computed in NumPy, not in JAX: lists of words have different lengths, and processors
    have an instruction to compare packed signatures.

    Attributes:
        vocabulary: Visual words and embedding.
        inverted: Features of all images.
        weights: idf(c)^2 of every word.
        norms: |X| of every image, 1 where it would be 0.
        config: Settings of the index.

    References:
        Jegou, Douze and Schmid, ECCV 2008 (Hamming embedding) and CVPR 2009
        (burstiness); Tolias and Jegou, Visual query expansion with or without geometry,
        Pattern Recognition 47(10), 2014. The papers were not available, so no equation
        is cited: weight, threshold, burst rule and norm are those of the code released
        with the last, https://github.com/gtolias/hqe, of which no line is copied. The
        burst rule is its 1 / sqrt(c), not the sqrt(w / sum w) per match ascribed to
        CVPR 2009; both are equal where the matches have equal weights. That code also
        subtracts the mean descriptor, which callers do here.
    """

    vocabulary: VisualVocabulary
    inverted: InvertedFile
    weights: Float[np.ndarray, " w"]
    norms: Float[np.ndarray, " m"]
    config: HammingConfig

    @classmethod
    def build(
        cls,
        descriptors: Float[Array | np.ndarray, "n d"],
        image_ids: Int[Array | np.ndarray, " n"],
        *,
        num_images: int | None = None,
        training: Float[Array | np.ndarray, "t d"] | None = None,
        config: HammingConfig | None = None,
    ) -> "HammingIndex":
        """Builds the index: learns the visual words, and sorts the images' features.

        The same seed and number of threads give the same index.

        Args:
            descriptors: Local descriptors of all images, used in single precision.
            image_ids: Image of every descriptor, from 0 upwards, never decreasing; the
                number of an image without features is skipped.
            num_images: Number of images m; None for the last number plus 1.
            training: Descriptors of other images to learn the words from; None for
                `descriptors`. Words with few of them, 10 say, have poor medians.
            config: Settings of the index; None for those of `HammingConfig()`.

        Returns:
            The index.

        Raises:
            ValueError: If there are fewer descriptors than words, dimensions differ or
                are fewer than bits, values are not finite, ids decrease or are below 0,
                or `num_images` is too small.
        """
        config = HammingConfig() if config is None else config
        host = check_local_descriptors("descriptors", descriptors)
        check_signature_bits(config.bits, dim=host.shape[1])
        ids = np.asarray(image_ids)
        m = count_ids_with_gaps(
            "image_ids", ids, rows=len(host), count=num_images, count_name="num_images"
        )
        training_host = host
        if training is not None:
            training_host = check_local_descriptors(
                "training", training, dim=host.shape[1]
            )
        centroids = cluster_visual_words(
            training_host,
            num_words=config.num_words,
            iterations=config.iterations,
            samples_per_word=config.samples_per_word,
            seed=config.seed,
        )
        words = training_words = assign_words(centroids, host, 1)
        if training is not None:
            training_words = assign_words(centroids, training_host, 1)
        vocabulary = fit_hamming_embedding(
            centroids,
            training_host,
            training_words[:, 0],
            bits=config.bits,
            seed=config.seed,
        )
        features = QuantizedFeatures(
            words[:, 0], compute_signatures(vocabulary, host, words)[:, 0]
        )
        inverted = build_inverted_file(features, ids, num_words=config.num_words)
        weights, norms = _idf_weights_and_norms(
            features.words, ids, config.num_words, m
        )
        return cls(vocabulary, inverted, weights, norms, config)

    @property
    def num_images(self) -> int:
        """Number of images m."""
        return len(self.norms)

    def quantize(self, descriptors: Float[np.ndarray, "p d"]) -> QuantizedFeatures:
        """Quantizes the descriptors of one query to features.

        Args:
            descriptors: Local descriptors, in single precision.

        Returns:
            One feature for each of the `assignments` words of each descriptor.
        """
        words = assign_words(
            self.vocabulary.centroids, descriptors, self.config.assignments
        )
        signatures = compute_signatures(self.vocabulary, descriptors, words)
        return QuantizedFeatures(
            words.ravel(), signatures.reshape(-1, signatures.shape[2])
        )

    def match(self, features: QuantizedFeatures) -> FeatureMatches:
        """Matches the features of a query with those of the images.

        Args:
            features: Features of one query.

        Returns:
            All matches within the threshold.
        """
        limit = self.config.threshold * self.config.bits
        return find_matches(self.inverted, features, threshold=limit)

    def score_matches(
        self, features: QuantizedFeatures, matches: FeatureMatches
    ) -> Float[np.ndarray, " m"]:
        """Scores all images by the matches of one query.

        Args:
            features: Features of the query.
            matches: Matches of the features, from `match`.

        Returns:
            Image scores, in double precision.
        """
        width = self.config.sigma * self.config.bits
        weights = self.weights[features.words[matches.features]]
        weights = weights * np.exp(-((matches.distances / width) ** 2))
        sums = sum_match_weights(
            matches,
            weights,
            num_images=self.num_images,
            normalize_bursts=self.config.normalize_bursts,
        )
        # If all images have all words the norm is 0, and so are all scores.
        query_norm = np.sqrt(self.weights[np.unique(features.words)].sum()) or 1.0
        return sums / self.norms / query_norm

    def scores(
        self,
        queries: Float[Array | np.ndarray, "r d"],
        query_ids: Int[Array | np.ndarray, " r"],
        *,
        num_queries: int | None = None,
    ) -> Float[Array, "m q"]:
        """Scores all images for every query.

        Args:
            queries: Local descriptors of the queries.
            query_ids: Query of each descriptor, from 0 upwards, never decreasing; the
                number of a query without features is skipped.
            num_queries: Number of queries q; None for the last number plus 1.

        Returns:
            Image scores, at least 0, one column per query; 0 without a match.

        Raises:
            ValueError: If dimensions differ, values are not finite, ids decrease or are
                below 0, or `num_queries` is too small.
        """
        dim = self.vocabulary.centroids.shape[1]
        columns = []
        for descriptors in split_by_query(
            queries, query_ids, num_queries=num_queries, dim=dim
        ):
            features = self.quantize(descriptors)
            columns.append(self.score_matches(features, self.match(features)))
        return stack_score_columns(columns, self.num_images)


def hamming_query_expansion(
    index: HammingIndex,
    queries: Float[Array | np.ndarray, "r d"],
    query_ids: Int[Array | np.ndarray, " r"],
    *,
    num_queries: int | None = None,
    top: int = 100,
    strict: float = 1 / 4,
    min_matches: int = 5,
    new_words: float = 0.5,
) -> Float[Array, "m q"]:
    r"""Scores images by Hamming query expansion with features of the best answers.

    An image among the `top` best is reliable if it has `min_matches` matches whose
    signatures differ in at most `strict` times the bits; geometry is not verified.
    Visual words are ordered by the number of reliable images that have them, ties by
    lower number, and selected until `new_words` times the number of the query's words
    are new. In the selected words the features of the reliable images are added to
    those of the query; all features of a word become one, whose signature is the
    majority of theirs, bit by bit. The enriched query is scored as by `HammingIndex`. A
    query without a reliable image keeps its scores.

    Args:
        index: The index of the collection.
        queries: Local descriptors of the queries.
        query_ids: Query of each descriptor, from 0 upwards, never decreasing; the
            number of a query without features is skipped.
        num_queries: Number of queries q; None for the last number plus 1.
        top: Number of best images that can be reliable.
        strict: Largest Hamming distance of a match that supports an image, as a
            fraction of the bits: 32 of 128.
        min_matches: Number of such matches that makes an image reliable.
        new_words: Number of added words, as a fraction of the query's.

    Returns:
        Image scores, at least 0, one column per query; 0 without a match. Those of
        different queries can't be compared.

    Raises:
        ValueError: If a setting is outside its range, `strict` is above the index's
            threshold, or queries or ids are refused by `HammingIndex.scores`.

    References:
        Tolias and Jegou, Visual query expansion with or without geometry: refining
        local descriptors by feature aggregation, Pattern Recognition 47(10), 2014:
        the variant without geometry, with the settings of the code released with it,
        https://github.com/gtolias/hqe (cited without equation numbers, as the paper
        was not available). Three things differ: the first ranking has idf and norms,
        which that code's has not; a tied bit is that of the first feature, the query's
        if it has the word, where that code draws it; and words stop before the first
        new word too many, not at the last new one.
    """
    _check_expansion_settings(index, top, strict, min_matches, new_words)
    limit = strict * index.config.bits
    dim = index.vocabulary.centroids.shape[1]
    columns = []
    for descriptors in split_by_query(
        queries, query_ids, num_queries=num_queries, dim=dim
    ):
        features = index.quantize(descriptors)
        matches = index.match(features)
        scores = index.score_matches(features, matches)
        is_reliable = _find_reliable_images(matches, scores, top, limit, min_matches)
        if is_reliable.any():
            features = _enrich_query(index, features, is_reliable, new_words)
            scores = index.score_matches(features, index.match(features))
        columns.append(scores)
    return stack_score_columns(columns, index.num_images)


def _find_reliable_images(
    matches: FeatureMatches,
    scores: Float[np.ndarray, " m"],
    top: int,
    limit: float,
    min_matches: int,
) -> Bool[np.ndarray, " m"]:
    """Finds the best images that have enough matches within the strict distance."""
    matched_images = matches.images[matches.distances <= limit]
    has_enough = np.bincount(matched_images, minlength=len(scores)) >= min_matches
    best = np.argsort(-scores, kind="stable")[:top]
    is_reliable = np.zeros(len(scores), bool)
    is_reliable[best] = has_enough[best]
    return is_reliable


def _enrich_query(
    index: HammingIndex,
    features: QuantizedFeatures,
    is_reliable: Bool[np.ndarray, " m"],
    new_words: float,
) -> QuantizedFeatures:
    """Adds features of reliable images to the query, one feature per word."""
    inverted = index.inverted
    # Sorted by word and image, as the inverted file is.
    positions = np.flatnonzero(is_reliable[inverted.images])
    words = inverted.words(positions)
    selected = np.isin(
        words,
        _frequent_words(
            words, inverted.images[positions], np.unique(features.words), new_words
        ),
    )
    positions, words = positions[selected], words[selected]
    all_words = np.concatenate([features.words, words])
    signatures = np.concatenate([features.signatures, inverted.signatures[positions]])
    # Stable, so that the query's features stay before those of the images.
    order = np.argsort(all_words, kind="stable")
    return QuantizedFeatures(
        np.unique(all_words), majority_signatures(signatures[order], all_words[order])
    )


def _frequent_words(
    words: Int[np.ndarray, " p"],
    images: Int[np.ndarray, " p"],
    query_words: Int[np.ndarray, " u"],
    new_words: float,
) -> Int[np.ndarray, " k"]:
    """Selects the words that most images have, until enough of them are new."""
    is_first = (np.diff(words, prepend=-1) != 0) | (np.diff(images, prepend=-1) != 0)
    candidates, counts = np.unique(words[is_first], return_counts=True)
    candidates = candidates[np.argsort(-counts, kind="stable")]
    new_positions = np.flatnonzero(~np.isin(candidates, query_words))
    max_new = int(new_words * len(query_words))
    return (
        candidates[: new_positions[max_new]]
        if max_new < len(new_positions)
        else candidates
    )


def _check_expansion_settings(
    index: HammingIndex, top: int, strict: float, min_matches: int, new_words: float
) -> None:
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}.")
    if not 0 <= strict <= index.config.threshold:
        raise ValueError(
            "strict must be between 0 and the index's threshold, "
            f"{index.config.threshold}, got {strict}."
        )
    if min_matches < 1:
        raise ValueError(f"min_matches must be at least 1, got {min_matches}.")
    if not 0 <= new_words < np.inf:
        raise ValueError(f"new_words must be finite and at least 0, got {new_words}.")


def stack_score_columns(
    scores: list[Float[np.ndarray, " m"]], num_images: int
) -> Float[Array, "m q"]:
    """Stacks the scores of queries as columns, in single precision."""
    table = np.empty((num_images, len(scores)), np.float32)
    for query, column in enumerate(scores):
        table[:, query] = column
    return jnp.asarray(table)


def _idf_weights_and_norms(words, image_ids, num_words, num_images):
    """Computes squares of idf, [w], and norms of the images, [m]."""
    pairs = np.unique(image_ids.astype(np.int64) * num_words + words)
    image, word = np.divmod(pairs, num_words)
    counts = np.bincount(word, minlength=num_words)
    idf = np.log(num_images / np.where(counts > 0, counts, num_images))
    weights = idf**2
    norms = np.sqrt(np.bincount(image, weights[word], minlength=num_images))
    return weights, np.where(norms > 0, norms, 1.0)
