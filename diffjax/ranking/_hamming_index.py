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


class FeatureMatches(NamedTuple):
    """Pairs of a query's and an image's features, by feature and then by image.

    Attributes:
        features: Which feature of the query.
        images: The image.
        distances: Hamming distance of the two.
    """

    features: Int[np.ndarray, " t"]
    images: Int[np.ndarray, " t"]
    distances: Int[np.ndarray, " t"]


def build_inverted_file(
    features: QuantizedFeatures, image_ids: Int[np.ndarray, " n"], *, num_words: int
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
    inverted: InvertedFile, features: QuantizedFeatures, *, threshold: float
) -> FeatureMatches:
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
        high = max(
            low + 1, int(np.searchsorted(ends, done + _PAIRS_PER_BLOCK, side="right"))
        )
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
        return FeatureMatches(nothing, nothing, nothing)
    return FeatureMatches(
        *(np.concatenate(parts) for parts in zip(*found, strict=True))
    )


def sum_match_weights(
    matches: FeatureMatches,
    weights: Float[np.ndarray, " t"],
    *,
    num_images: int,
    normalize_bursts: bool,
) -> Float[np.ndarray, " m"]:
    r"""Adds the weights of matches up to image scores.

    A feature of the query that matches c features of an image counts there as
    sum w / sqrt(c) if `normalize_bursts`, else as sum w.

    Args:
        matches: Matches as `find_matches` orders them.
        weights: Weight of each.
        num_images: Number of images m.
        normalize_bursts: Whether repeated structures are held down.

    Returns:
        Scores of all images.
    """
    images = matches.images
    if normalize_bursts and len(images):
        pair = matches.features * num_images + images
        starts = np.flatnonzero(np.diff(pair, prepend=-1))
        sizes = np.diff(starts, append=len(pair))
        weights = np.add.reduceat(weights, starts) / np.sqrt(sizes)
        images = images[starts]
    # Without any match NumPy counts in whole numbers.
    return np.bincount(images, weights, minlength=num_images).astype(np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class HammingIndex:
    r"""The local features of a collection, ready to be matched.

    A feature x of an image and one z of a query match if they have the same visual
    word c and their signatures differ in h <= threshold bits. The match weighs
    idf(c)^2 exp(-h^2 / sigma^2). The score of image X for query Q is

        sum_z (sum of the weights of z's c(z, X) matches in X) / sqrt(c(z, X)),

    divided by |X| and |Q|, where |X|^2 is the sum of idf(c)^2 over the different words
    of X. idf(c) = log(m / m_c) for m_c of the m images with word c, 0 if m_c is 0.

    On the host, not in JAX: lists of words have any length, and a processor compares
    packed signatures by its own instruction.

    Attributes:
        vocabulary: Words and embedding.
        inverted: Features of all images.
        weights: idf(c)^2 of every word.
        norms: |X| of every image, 1 where it would be 0.
        config: The settings.

    References:
        Jegou, Douze and Schmid, ECCV 2008 (Hamming embedding) and CVPR 2009
        (burstiness); Tolias and Jegou, Visual query expansion with or without geometry,
        Pattern Recognition 47(10), 2014. The papers were not at hand, so no equation is
        cited: weight, threshold, burst rule and norm are those of the code released
        with the last, https://github.com/gtolias/hqe, of which no line is here. The
        burst rule is its 1 / sqrt(c), not the sqrt(w / sum w) per match ascribed to
        CVPR 2009; both are the same where the matches weigh the same. That code also
        subtracts the mean descriptor, which is left to the caller.
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
        """Learns the words and files the features of all images.

        With the same seed and number of threads the index is the same.

        Args:
            descriptors: Local descriptors of all images, used in single precision.
            image_ids: Image of every one, from 0 upwards without going back; an image
                without features leaves its number out.
            num_images: Number of images m; None for the last number plus 1.
            training: Descriptors of other images to learn the words from; None for
                `descriptors`. Words with few of them, 10 say, have poor medians.
            config: The settings; None for those of `HammingConfig()`.

        Returns:
            The index.

        Raises:
            ValueError: If there are fewer descriptors than words, dimensions differ or
                are fewer than bits, values are not finite, ids go back or below 0, or
                `num_images` is too small.
        """
        config = HammingConfig() if config is None else config
        own = check_local_descriptors("descriptors", descriptors)
        check_signature_bits(config.bits, dim=own.shape[1])
        ids = np.asarray(image_ids)
        m = count_ids_with_gaps(
            "image_ids", ids, rows=len(own), count=num_images, count_name="num_images"
        )
        learn = own
        if training is not None:
            learn = check_local_descriptors("training", training, dim=own.shape[1])
        centroids = cluster_visual_words(
            learn,
            num_words=config.num_words,
            iterations=config.iterations,
            samples_per_word=config.samples_per_word,
            seed=config.seed,
        )
        words = assign_words(centroids, own, 1)
        learnt = words if training is None else assign_words(centroids, learn, 1)
        vocabulary = fit_hamming_embedding(
            centroids, learn, learnt[:, 0], bits=config.bits, seed=config.seed
        )
        features = QuantizedFeatures(
            words[:, 0], compute_signatures(vocabulary, own, words)[:, 0]
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
        """Turns the descriptors of one query into features.

        Args:
            descriptors: Local descriptors, in single precision.

        Returns:
            One feature for each of `assignments` words of each descriptor.
        """
        words = assign_words(
            self.vocabulary.centroids, descriptors, self.config.assignments
        )
        signatures = compute_signatures(self.vocabulary, descriptors, words)
        return QuantizedFeatures(
            words.ravel(), signatures.reshape(-1, signatures.shape[2])
        )

    def match(self, features: QuantizedFeatures) -> FeatureMatches:
        """Finds the image features that a query's features match.

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
            matches: What `match` found for them.

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
        # Where all words are everywhere the norm is 0, and so are all scores.
        own = np.sqrt(self.weights[np.unique(features.words)].sum()) or 1.0
        return sums / self.norms / own

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
            query_ids: Query of each, from 0 upwards without going back; a query without
                features leaves its number out.
            num_queries: Number of queries q; None for the last number plus 1.

        Returns:
            Image scores, at least 0, one column per query; 0 without a match.

        Raises:
            ValueError: If dimensions differ, values are not finite, ids go back or
                below 0, or `num_queries` is too small.
        """
        dim = self.vocabulary.centroids.shape[1]
        found = []
        for own in split_by_query(queries, query_ids, num_queries=num_queries, dim=dim):
            features = self.quantize(own)
            found.append(self.score_matches(features, self.match(features)))
        return stack_score_columns(found, self.num_images)


def stack_score_columns(
    scores: list[Float[np.ndarray, " m"]], num_images: int
) -> Float[Array, "m q"]:
    """Puts the scores of queries side by side, in single precision."""
    table = np.empty((num_images, len(scores)), np.float32)
    for query, own in enumerate(scores):
        table[:, query] = own
    return jnp.asarray(table)


def _idf_weights_and_norms(words, image_ids, num_words, num_images):
    """Squares of idf [w], and norms [m] of the images."""
    pairs = np.unique(image_ids.astype(np.int64) * num_words + words)
    image, word = np.divmod(pairs, num_words)
    having = np.bincount(word, minlength=num_words)
    idf = np.log(num_images / np.where(having > 0, having, num_images))
    weights = idf**2
    norms = np.sqrt(np.bincount(image, weights[word], minlength=num_images))
    return weights, np.where(norms > 0, norms, 1.0)


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
    r"""Scores images by queries that are enriched by their best answers.

    An image among the `top` best is reliable if it has `min_matches` matches whose
    signatures differ in at most `strict` times the bits; no geometry is looked at.
    Visual words are ordered by the number of reliable images that have them, ties by
    lower number, and taken until `new_words` times the number of the query's own words
    are new. In these words the features of the reliable images join those of the query;
    all of a word become one, whose signature is the majority of theirs, bit by bit.
    The enriched query is scored as `HammingIndex` says. A query without a reliable
    image keeps its scores.

    Args:
        index: The collection.
        queries: Local descriptors of the queries.
        query_ids: Query of each, from 0 upwards without going back; a query without
            features leaves its number out.
        num_queries: Number of queries q; None for the last number plus 1.
        top: Images that may be reliable, by score.
        strict: Largest Hamming distance of a match that speaks for an image, as a part
            of the bits: 32 of 128.
        min_matches: Such matches that make it reliable.
        new_words: Words added, as a part of the query's own.

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
        was not at hand). Read differently: the first ranking has idf and norms, where
        that code's has not; a bit on which as many features are for as against stays
        that of the first feature, the query's if it has the word, where that code
        draws it; and words stop before the first new one too many, not at the last
        new one.
    """
    _check_expansion_settings(index, top, strict, min_matches, new_words)
    limit = strict * index.config.bits
    dim = index.vocabulary.centroids.shape[1]
    found = []
    for own in split_by_query(queries, query_ids, num_queries=num_queries, dim=dim):
        features = index.quantize(own)
        matches = index.match(features)
        scores = index.score_matches(features, matches)
        reliable = _find_reliable_images(matches, scores, top, limit, min_matches)
        if reliable.any():
            features = _enrich_query(index, features, reliable, new_words)
            scores = index.score_matches(features, index.match(features))
        found.append(scores)
    return stack_score_columns(found, index.num_images)


def _find_reliable_images(
    matches: FeatureMatches,
    scores: Float[np.ndarray, " m"],
    top: int,
    limit: float,
    min_matches: int,
) -> Bool[np.ndarray, " m"]:
    """Which of the best images match well often enough."""
    close = matches.images[matches.distances <= limit]
    often = np.bincount(close, minlength=len(scores)) >= min_matches
    best = np.argsort(-scores, kind="stable")[:top]
    reliable = np.zeros(len(scores), bool)
    reliable[best] = often[best]
    return reliable


def _enrich_query(
    index: HammingIndex,
    features: QuantizedFeatures,
    reliable: Bool[np.ndarray, " m"],
    new_words: float,
) -> QuantizedFeatures:
    """One feature for each word of the query and each that the images add to it."""
    inverted = index.inverted
    # By word and image, as the inverted file is.
    places = np.flatnonzero(reliable[inverted.images])
    words = inverted.words(places)
    taken = _frequent_words(
        words, inverted.images[places], np.unique(features.words), new_words
    )
    places, words = places[np.isin(words, taken)], words[np.isin(words, taken)]
    together = np.concatenate([features.words, words])
    signatures = np.concatenate([features.signatures, inverted.signatures[places]])
    # Stable, so that the query's features stay before those of the images.
    order = np.argsort(together, kind="stable")
    return QuantizedFeatures(
        np.unique(together), majority_signatures(signatures[order], together[order])
    )


def _frequent_words(
    words: Int[np.ndarray, " p"],
    images: Int[np.ndarray, " p"],
    own: Int[np.ndarray, " u"],
    new_words: float,
) -> Int[np.ndarray, " k"]:
    """The words that most images have, until enough of them are new."""
    once = (np.diff(words, prepend=-1) != 0) | (np.diff(images, prepend=-1) != 0)
    seen, having = np.unique(words[once], return_counts=True)
    seen = seen[np.argsort(-having, kind="stable")]
    new = np.flatnonzero(~np.isin(seen, own))
    most = int(new_words * len(own))
    return seen[: new[most]] if most < len(new) else seen


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
