"""Images scored by local descriptors: an inverted file with Hamming embedding."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ._hamming_config import HammingConfig
from ._hamming_matches import (
    Features,
    InvertedFile,
    Matches,
    add_up,
    find_matches,
    invert,
)
from ._hamming_rows import check_descriptors, count_ids_with_gaps, rows_of
from ._hamming_signatures import check_bits
from ._hamming_vocabulary import (
    Vocabulary,
    cluster_words,
    fit_embedding,
    nearest_words,
    sign,
)


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

    vocabulary: Vocabulary
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
        own = check_descriptors("descriptors", descriptors)
        check_bits(config.bits, dim=own.shape[1])
        ids = np.asarray(image_ids)
        m = count_ids_with_gaps(
            "image_ids", ids, rows=len(own), count=num_images, count_name="num_images"
        )
        learn = own
        if training is not None:
            learn = check_descriptors("training", training, dim=own.shape[1])
        centroids = cluster_words(
            learn,
            num_words=config.num_words,
            iterations=config.iterations,
            sample=config.sample,
            seed=config.seed,
        )
        words = nearest_words(centroids, own, 1)
        learnt = words if training is None else nearest_words(centroids, learn, 1)
        vocabulary = fit_embedding(
            centroids, learn, learnt[:, 0], bits=config.bits, seed=config.seed
        )
        features = Features(words[:, 0], sign(vocabulary, own, words)[:, 0])
        inverted = invert(features, ids, num_words=config.num_words)
        weights, norms = _weigh(features.words, ids, config.num_words, m)
        return cls(vocabulary, inverted, weights, norms, config)

    @property
    def num_images(self) -> int:
        """Number of images m."""
        return len(self.norms)

    def describe(self, descriptors: Float[np.ndarray, "p d"]) -> Features:
        """Turns the descriptors of one query into features.

        Args:
            descriptors: Local descriptors, in single precision.

        Returns:
            One feature for each of `assignments` words of each descriptor.
        """
        words = nearest_words(
            self.vocabulary.centroids, descriptors, self.config.assignments
        )
        signatures = sign(self.vocabulary, descriptors, words)
        return Features(words.ravel(), signatures.reshape(-1, signatures.shape[2]))

    def match(self, features: Features) -> Matches:
        """Finds the image features that a query's features match.

        Args:
            features: Features of one query.

        Returns:
            All matches within the threshold.
        """
        limit = self.config.threshold * self.config.bits
        return find_matches(self.inverted, features, threshold=limit)

    def score(self, features: Features, matches: Matches) -> Float[np.ndarray, " m"]:
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
        sums = add_up(
            matches, weights, num_images=self.num_images, burst=self.config.burst
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
        for own in rows_of(queries, query_ids, num_queries=num_queries, dim=dim):
            features = self.describe(own)
            found.append(self.score(features, self.match(features)))
        return columns(found, self.num_images)


def columns(
    scores: list[Float[np.ndarray, " m"]], num_images: int
) -> Float[Array, "m q"]:
    """Puts the scores of queries side by side, in single precision."""
    table = np.empty((num_images, len(scores)), np.float32)
    for query, own in enumerate(scores):
        table[:, query] = own
    return jnp.asarray(table)


def _weigh(words, image_ids, num_words, num_images):
    """Squares of idf [w], and norms [m] of the images."""
    pairs = np.unique(image_ids.astype(np.int64) * num_words + words)
    image, word = np.divmod(pairs, num_words)
    having = np.bincount(word, minlength=num_words)
    idf = np.log(num_images / np.where(having > 0, having, num_images))
    weights = idf**2
    norms = np.sqrt(np.bincount(image, weights[word], minlength=num_images))
    return weights, np.where(norms > 0, norms, 1.0)
