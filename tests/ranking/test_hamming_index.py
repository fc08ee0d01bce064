import dataclasses
import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.ranking import rank
from diffjax.ranking._hamming_embedding import (
    HammingConfig,
    assign_words,
    compute_signatures,
    hamming_distances,
    majority_signatures,
    pack_signatures,
    unpack_signatures,
)
from diffjax.ranking._hamming_index import (
    HammingIndex,
    QuantizedFeatures,
    build_inverted_file,
    find_matches,
)

SMALL = HammingConfig(num_words=6, bits=64, assignments=2, iterations=5)


def draw(counts, *, seed, dim=64):
    """Descriptors in twelve clusters, some near-copies of others; ids may skip."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(12, dim))
    ids = np.repeat(np.arange(len(counts)), counts)
    rows = centres[rng.integers(12, size=len(ids))]
    return (rows + 0.4 * rng.normal(size=rows.shape)).astype(np.float32), ids


@pytest.fixture(scope="module")
def images():
    """Seven images, the fourth without features, the first mostly one burst."""
    descriptors, ids = draw([14, 9, 12, 0, 7, 11, 10], seed=1)
    rng = np.random.default_rng(2)
    descriptors[1:9] = descriptors[0] + 0.05 * rng.normal(size=(8, 64))
    return descriptors, ids


@pytest.fixture(scope="module")
def index(images):
    return HammingIndex.build(*images, config=SMALL)


@pytest.fixture(scope="module")
def asked(images):
    """Three queries: part of the first image, nothing, and unseen features."""
    seen = images[0][:6]
    unseen, _ = draw([8], seed=3)
    return np.concatenate([seen, unseen]), np.repeat([0, 2], [6, 8])


def words_of(index, x, k):
    return np.argsort(((index.vocabulary.centroids - x) ** 2).sum(1))[:k]


def bits_of(index, x, word):
    values = [np.float32(row @ x.astype(float)) for row in index.vocabulary.projection]
    return np.array(values) > index.vocabulary.medians[word]


def squared_idf(database_features, word, num_images):
    having = len({image for image, other, _ in database_features if other == word})
    return math.log(num_images / having) ** 2 if having else 0.0


def match_score(index, database_features, image, word, bits):
    """Score that one query feature adds to an image, in one word."""
    config = index.config
    distances = [
        int((bits != other_bits).sum())
        for other_image, other_word, other_bits in database_features
        if (other_image, other_word) == (image, word)
    ]
    close = [h for h in distances if h <= config.threshold * config.bits]
    sigma = config.sigma * config.bits
    total = sum(math.exp(-((h / sigma) ** 2)) for h in close)
    return total / math.sqrt(len(close)) if config.normalize_bursts and close else total


def by_loops(index, descriptors, ids, queries, query_ids, *, count):
    """Scores by loops over features: the docstring's formula."""
    m = index.num_images
    database_features = []
    for x, image in zip(descriptors, ids, strict=True):
        (word,) = words_of(index, x, 1)
        database_features.append((image, word, bits_of(index, x, word)))
    weights = [
        squared_idf(database_features, word, m)
        for word in range(index.config.num_words)
    ]

    def norm(words):
        return math.sqrt(sum(weights[word] for word in words)) or 1.0

    scores = np.zeros((m, count))
    for query in range(count):
        asked = [
            (word, bits_of(index, z, word))
            for z in queries[query_ids == query]
            for word in words_of(index, z, index.config.assignments)
        ]
        for image in range(m):
            scores[image, query] = (
                sum(
                    weights[word]
                    * match_score(index, database_features, image, word, bits)
                    for word, bits in asked
                )
                / norm({word for other, word, _ in database_features if other == image})
                / norm({word for word, _ in asked})
            )
    return scores


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"normalize_bursts": False},
        {"assignments": 1},
        {"threshold": 0.2, "sigma": 0.1},
    ],
    ids=["all", "no bursts", "one word", "strict"],
)
def test_agrees_with_loops_over_features_and_bits(index, images, asked, change):
    config = dataclasses.replace(SMALL, **change)
    changed = dataclasses.replace(index, config=config)
    got = changed.scores(*asked)
    expected = by_loops(changed, *images, *asked, count=3)
    assert got.dtype == jnp.float32
    assert (expected > 0).any(axis=0).tolist() == [True, False, True]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


@settings(deadline=None, max_examples=20)
@given(st.data(), st.sampled_from([64, 128]))
def test_signature_distance_counts_differing_bits(data, bits):
    rows = st.lists(st.lists(st.booleans(), min_size=bits, max_size=bits), min_size=2)
    drawn = np.array(data.draw(rows))
    packed = pack_signatures(drawn)
    assert packed.shape == (len(drawn), bits // 64)
    np.testing.assert_array_equal(unpack_signatures(packed), drawn)
    expected = [
        sum(int(a != b) for a, b in zip(drawn[0], row, strict=True)) for row in drawn
    ]
    first = np.broadcast_to(packed[0], packed.shape)
    np.testing.assert_array_equal(hamming_distances(first, packed), expected)


def test_majority_is_bitwise_and_ties_take_the_first_signature():
    bits = np.zeros((6, 64), bool)
    bits[0, :3] = True  # Alone in its group.
    bits[1, :2] = True  # Two against two: bits 0 and 2 tie, 1 has three votes.
    bits[2, 1] = bits[2, 2] = bits[3, 1] = bits[3, 2] = bits[4, 0] = True
    got = unpack_signatures(
        majority_signatures(pack_signatures(bits), np.array([3, 5, 5, 5, 5, 9]))
    )
    assert [np.flatnonzero(row).tolist() for row in got] == [[0, 1, 2], [0, 1], []]


def test_projections_are_orthonormal_and_medians_halve_every_word(index, images):
    vocabulary = index.vocabulary
    np.testing.assert_allclose(
        vocabulary.projection @ vocabulary.projection.T, np.eye(64), atol=1e-12
    )
    words = assign_words(vocabulary.centroids, images[0], 1)
    bits = unpack_signatures(compute_signatures(vocabulary, images[0], words)[:, 0])
    for word in range(6):
        bits_of_word = bits[words[:, 0] == word]
        # At most the lower half is not above the median; the middle one is not, either.
        np.testing.assert_array_equal(bits_of_word.sum(0), len(bits_of_word) // 2)


def test_signature_of_a_descriptor_does_not_depend_on_others(index, images):
    descriptors = images[0]
    words = assign_words(index.vocabulary.centroids, descriptors, 2)
    together = compute_signatures(index.vocabulary, descriptors, words)
    for row in range(len(descriptors)):
        alone = compute_signatures(
            index.vocabulary, descriptors[row : row + 1], words[row : row + 1]
        )
        np.testing.assert_array_equal(alone[0], together[row])


def test_word_weight_is_the_squared_inverse_document_frequency(index, images):
    words = assign_words(index.vocabulary.centroids, images[0], 1)[:, 0]
    for word in range(6):
        having = len(set(images[1][words == word]))
        assert index.weights[word] == pytest.approx(math.log(7 / having) ** 2)


def test_words_in_all_images_have_weight_zero():
    descriptors, ids = draw([5, 5], seed=1)
    one = dataclasses.replace(SMALL, num_words=1, assignments=1)
    everywhere = HammingIndex.build(descriptors, ids, config=one)
    np.testing.assert_array_equal(everywhere.scores(descriptors, ids), 0)


def test_burst_normalization_counts_four_equal_matches_as_two(
    index,
):
    # Word 0 has four copies in image 1, one in image 0, and none in others.
    signature = np.zeros((5, 1), np.uint64)
    features = QuantizedFeatures(np.zeros(5, int), signature)
    database_features = build_inverted_file(
        features, np.array([0, 1, 1, 1, 1]), num_words=6
    )
    for normalize_bursts, expected in [(True, 2.0), (False, 4.0)]:
        changed = dataclasses.replace(
            index,
            inverted=database_features,
            config=dataclasses.replace(SMALL, normalize_bursts=normalize_bursts),
        )
        query = QuantizedFeatures(np.zeros(1, int), signature[:1])
        scores = changed.score_matches(query, changed.match(query)) * changed.norms
        assert scores[0] > 0
        assert scores[1] / scores[0] == pytest.approx(expected)
        np.testing.assert_array_equal(scores[2:], 0)


def test_an_image_scores_one_for_itself_and_zero_for_others():
    # Sixteen features apart from each other, each its own word.
    descriptors = 8 * np.eye(64, dtype=np.float32)[:16]
    ids = np.repeat(np.arange(4), 4)
    config = HammingConfig(num_words=16, bits=64, assignments=1)
    scores = HammingIndex.build(descriptors, ids, config=config).scores(
        descriptors, ids
    )
    np.testing.assert_allclose(scores, np.eye(4), rtol=1e-6)


def test_a_copied_image_ranks_its_original_first(index, images):
    best = np.asarray(rank(index.scores(*images)))[0]
    images_with_features = np.unique(images[1])
    np.testing.assert_array_equal(best[images_with_features], images_with_features)


def test_images_and_queries_without_features_score_zero(index, asked):
    scores = np.asarray(index.scores(*asked, num_queries=5))
    assert scores.shape == (7, 5)
    np.testing.assert_array_equal(scores[3], 0)
    np.testing.assert_array_equal(scores[:, [1, 3, 4]], 0)
    nothing = np.empty((0, 64), np.float32), np.empty(0, int)
    assert index.scores(*nothing).shape == (7, 0)


def test_equal_seeds_give_equal_indexes_and_others_do_not(images, index, asked):
    again, other = (
        HammingIndex.build(*images, config=dataclasses.replace(SMALL, seed=seed))
        for seed in (0, 1)
    )
    np.testing.assert_array_equal(again.scores(*asked), index.scores(*asked))
    for left, right in zip(again.vocabulary, index.vocabulary, strict=True):
        np.testing.assert_array_equal(left, right)
    assert not np.array_equal(other.scores(*asked), index.scores(*asked))


def test_vocabulary_can_be_trained_on_other_images(images, asked):
    learn, _ = draw([40], seed=9)
    index = HammingIndex.build(*images, num_images=8, training=learn, config=SMALL)
    assert index.num_images == 8
    words = assign_words(index.vocabulary.centroids, learn, 1)
    bits = unpack_signatures(compute_signatures(index.vocabulary, learn, words)[:, 0])
    for word in np.unique(words):
        bits_of_word = bits[words[:, 0] == word]
        np.testing.assert_array_equal(bits_of_word.sum(0), len(bits_of_word) // 2)
    np.testing.assert_allclose(
        index.scores(*asked),
        by_loops(index, *images, *asked, count=3),
        rtol=1e-5,
        atol=1e-7,
    )


def test_scores_of_a_query_do_not_depend_on_other_queries(index, asked):
    together = index.scores(*asked)
    alone = index.scores(asked[0][6:], np.zeros(8, int))
    np.testing.assert_array_equal(alone[:, 0], together[:, 2])


def test_block_size_does_not_change_matches(index, images, asked, monkeypatch):
    features = index.quantize(asked[0])
    whole = find_matches(index.inverted, features, threshold=24)
    assert len(whole.features) > 20
    monkeypatch.setattr("diffjax.ranking._hamming_index._PAIRS_PER_BLOCK", 7)
    parts = find_matches(index.inverted, features, threshold=24)
    for left, right in itertools.zip_longest(whole, parts):
        np.testing.assert_array_equal(left, right)


def test_building_an_index_prints_nothing(images, capfd):
    HammingIndex.build(*images, config=SMALL)
    out, err = capfd.readouterr()
    assert out == err == ""


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"num_words": 0}, "num_words must be at least 1, got 0"),
        ({"bits": 96}, "bits must be a multiple of 64 from 64, got 96"),
        ({"bits": 0}, "bits must be a multiple of 64 from 64, got 0"),
        ({"assignments": 7}, "assignments must be at most num_words, 6, got 7"),
        ({"threshold": 24}, "threshold must be in"),
        ({"sigma": 0.0}, "sigma must be finite and above 0, got 0"),
        ({"samples_per_word": 0}, "samples_per_word must be at least 1"),
        ({"seed": -1}, "seed must be in"),
    ],
)
def test_rejects_settings_outside_their_ranges(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"config": HammingConfig(num_words=64, bits=64)}, "to learn from, 63, got 64"),
        ({"config": HammingConfig(num_words=6)}, "descriptors' 64 dimensions.*got 128"),
        ({"image_ids": np.zeros(62, int)}, "image_ids must be whole numbers, one for"),
        ({"image_ids": np.zeros(63)}, "image_ids must be whole numbers"),
        ({"image_ids": np.arange(63) - 1}, "image_ids must be at least 0.*got -1 in"),
        ({"image_ids": np.arange(63)[::-1]}, "never go back, got 61 in row 1"),
        ({"num_images": 6}, "num_images must be at least 7, got 6"),
        ({"training": np.ones((9, 32), np.float32)}, "training must have the coll"),
        ({"descriptors": np.full((63, 64), np.nan)}, "NaN or infinity in 63 of 63"),
        ({"descriptors": np.ones(63)}, r"must be a matrix, got shape \[63\]"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_rejects_invalid_collections(images, change, complaint):
    arguments = {"descriptors": images[0], "image_ids": images[1], "config": SMALL}
    with pytest.raises(ValueError, match=complaint):
        HammingIndex.build(**arguments | change)


@pytest.mark.usefixtures("unchecked")
def test_rejects_invalid_queries(index, asked):
    queries, ids = asked
    for bad, complaint in [
        ((queries[:, :32], ids), "queries must have the collection's 64 dimensions"),
        ((queries, ids[::-1]), "query_ids must be at least 0 and never go back"),
        ((queries, ids[1:]), "query_ids must be whole numbers, one for each of 14"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            index.scores(*bad)
    with pytest.raises(ValueError, match="num_queries must be at least 3, got 2"):
        index.scores(*asked, num_queries=2)
