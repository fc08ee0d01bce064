"""Hamming query expansion: a query enriched by the features of images it matches."""

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ._hamming import HammingIndex, columns
from ._hamming_matches import Features, Matches
from ._hamming_rows import rows_of
from ._hamming_signatures import majority


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
    _check(index, top, strict, min_matches, new_words)
    limit = strict * index.config.bits
    dim = index.vocabulary.centroids.shape[1]
    found = []
    for own in rows_of(queries, query_ids, num_queries=num_queries, dim=dim):
        features = index.describe(own)
        matches = index.match(features)
        scores = index.score(features, matches)
        reliable = _reliable(matches, scores, top, limit, min_matches)
        if reliable.any():
            features = _enrich(index, features, reliable, new_words)
            scores = index.score(features, index.match(features))
        found.append(scores)
    return columns(found, index.num_images)


def _reliable(
    matches: Matches,
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


def _enrich(
    index: HammingIndex,
    features: Features,
    reliable: Bool[np.ndarray, " m"],
    new_words: float,
) -> Features:
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
    return Features(np.unique(together), majority(signatures[order], together[order]))


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


def _check(
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
