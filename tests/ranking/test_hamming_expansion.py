import dataclasses

import numpy as np
import pytest

from diffjax.ranking._hamming_embedding import (
    HammingConfig,
    pack_signatures,
    unpack_signatures,
)
from diffjax.ranking._hamming_index import (
    FeatureMatches,
    HammingIndex,
    QuantizedFeatures,
    _enrich_query,
    _find_reliable_images,
    _frequent_words,
    build_inverted_file,
    hamming_query_expansion,
)

DIM = 64
CONFIG = HammingConfig(num_words=60, bits=64, assignments=1, iterations=4)


@pytest.fixture(scope="module")
def chain():
    """Images A, B, C and five of other things, and a query that shows what A shows.

    A shares eight points with B and B eight others with C; A and C share none. Words
    and medians are learnt from points of no image.
    """
    rng = np.random.default_rng(0)
    points = rng.normal(size=(72, DIM))

    def view(shown):
        return points[shown] + 0.1 * rng.normal(size=(len(shown), DIM))

    shown = [np.arange(low, low + 16) for low in (0, 8, 16)]
    shown += [np.arange(32 + 8 * i, 40 + 8 * i) for i in range(5)]
    descriptors = np.concatenate([view(rows) for rows in shown]).astype(np.float32)
    ids = np.repeat(np.arange(8), [len(rows) for rows in shown])
    learn = rng.normal(size=(3000, DIM)).astype(np.float32)
    index = HammingIndex.build(descriptors, ids, training=learn, config=CONFIG)
    return index, view(shown[0]).astype(np.float32), np.zeros(16, int)


def test_expansion_finds_an_image_linked_only_through_another(chain):
    before = np.asarray(chain[0].scores(*chain[1:]))[:, 0]
    after = np.asarray(hamming_query_expansion(*chain))[:, 0]
    assert before[2] == 0
    for scores in (before, after):
        assert set(np.argsort(-scores)[:2]) == {0, 1}
    assert np.argsort(-after)[2] == 2
    assert after[2] > 2 * after[3:].max()


def reliable_images(
    index, query_features, database_features, scores, top, strict, min_matches
):
    """Reliable images: the best ones with enough close matches, pair by pair."""
    close = [0] * index.num_images
    for word, signature in query_features:
        for other_word, image, other_signature in database_features:
            distance = int(np.bitwise_count(signature ^ other_signature).sum())
            is_close = distance <= strict * index.config.bits
            close[image] += word == other_word and is_close
    best = sorted(range(index.num_images), key=lambda i: (-scores[i], i))[:top]
    return {image for image in best if close[image] >= min_matches}


def frequent_words(database_features, reliable, query_words, max_new_words):
    """Words of most reliable images, until the limit of new ones is reached."""
    images_of_word = {}
    for word, image, _ in database_features:
        if image in reliable:
            images_of_word.setdefault(word, set()).add(image)
    words, num_new = set(), 0
    for word in sorted(images_of_word, key=lambda w: (-len(images_of_word[w]), w)):
        if word not in query_words:
            if num_new == max_new_words:
                break
            num_new += 1
        words.add(word)
    return words


def majority_bits(signatures):
    """Majority of each bit; that of the first signature where votes are equal."""
    bits = unpack_signatures(np.stack(signatures))
    votes = bits.sum(0) * 2 - len(bits)
    return np.where(votes == 0, bits[0], votes > 0)


def scores_by_steps(index, queries, query_ids, *, top, strict, min_matches, new_words):
    """Expanded scores by the docstring's steps; all queries must have features."""
    database_features = [
        (word, int(index.inverted.images[i]), index.inverted.signatures[i])
        for word in range(index.config.num_words)
        for i in range(*index.inverted.starts[word : word + 2])
    ]
    columns = []
    for query in range(query_ids.max() + 1):
        features = index.quantize(queries[query_ids == query])
        query_features = list(zip(features.words, features.signatures, strict=True))
        scores = index.score_matches(features, index.match(features))
        reliable = reliable_images(
            index, query_features, database_features, scores, top, strict, min_matches
        )
        if reliable:
            query_words = {word for word, _ in query_features}
            max_new_words = int(new_words * len(query_words))
            added_words = frequent_words(
                database_features, reliable, query_words, max_new_words
            )
            joined = query_features + [
                (word, signature)
                for word, image, signature in database_features
                if image in reliable and word in added_words
            ]
            words = sorted({word for word, _ in joined})
            bits = [
                majority_bits([s for w, s in joined if w == word]) for word in words
            ]
            rich = QuantizedFeatures(np.array(words), pack_signatures(np.stack(bits)))
            scores = index.score_matches(rich, index.match(rich))
        columns.append(scores)
    return np.stack(columns, axis=1)


@pytest.fixture(scope="module")
def crowd():
    """Twelve images and four queries that share points two by two, and few words."""
    rng = np.random.default_rng(3)
    points = rng.normal(size=(30, DIM))
    rows = points[rng.integers(30, size=160)] + 0.25 * rng.normal(size=(160, DIM))
    rows = rows.astype(np.float32)
    learn = rng.normal(size=(1500, DIM)).astype(np.float32)
    config = dataclasses.replace(CONFIG, num_words=25, assignments=2)
    ids = np.repeat(np.arange(12), 10)
    index = HammingIndex.build(rows[:120], ids, training=learn, config=config)
    return index, rows[120:], np.repeat(np.arange(4), 10)


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"new_words": 0.1},
        {"new_words": 0.0},
        {"new_words": 3.0},
        {"top": 1},
        {"top": 3},
        {"min_matches": 4},
        {"strict": 0.1},
    ],
    ids=str,
)
def test_agrees_with_the_docstring_step_by_step(crowd, setting):
    full = {"top": 100, "strict": 0.25, "min_matches": 2, "new_words": 0.5} | setting
    got = np.asarray(hamming_query_expansion(*crowd, **full))
    assert got.dtype == np.float32
    np.testing.assert_allclose(
        got, scores_by_steps(*crowd, **full), rtol=1e-5, atol=1e-7
    )
    # The setting matters here, and queries are indeed enriched.
    assert not np.allclose(got, crowd[0].scores(*crowd[1:]), atol=1e-3)
    if setting:
        usual = hamming_query_expansion(*crowd, min_matches=2)
        assert not np.allclose(got, usual, atol=1e-3)


def test_reliable_images_have_enough_matches_within_the_strict_distance():
    # Image 0 has two of distance 16 at most, image 1 one, image 2 two but is third.
    images = np.array([0, 0, 1, 1, 2, 2])
    distances = np.array([16, 3, 16, 17, 0, 0])
    matches = FeatureMatches(np.arange(6), images, distances)
    got = _find_reliable_images(matches, np.array([3.0, 2.0, 1.0]), 2, 16.0, 2)
    np.testing.assert_array_equal(got, [True, False, False])


def test_frequent_words_are_added_until_the_limit_of_new_words():
    # Word 2 in images 0, 1 and 3; 5 in 0 and 1 (twice); 7 in 0 and 3; 4 and 9 in one.
    words = np.array([2, 2, 2, 4, 5, 5, 5, 7, 7, 9])
    images = np.array([0, 1, 3, 0, 0, 1, 1, 0, 3, 3])
    query_words = np.array([2, 9])
    for share, expected in [
        (0.0, [2]),
        (0.5, [2, 5]),
        (1.0, [2, 5, 7]),
        (1.5, [2, 5, 7, 4, 9]),
        (9.0, [2, 5, 7, 4, 9]),
    ]:
        got = _frequent_words(words, images, query_words, share)
        np.testing.assert_array_equal(got, expected)


def test_features_of_one_word_merge_into_their_majority_signature(chain):
    index = chain[0]
    bits = np.zeros((5, DIM), bool)
    bits[:2, 0] = True  # The query's only feature of word 4, and image 0's.
    bits[3:, 1] = True  # Both images in word 6.
    signatures = pack_signatures(bits)
    filed = build_inverted_file(
        QuantizedFeatures(np.array([4, 6, 4, 6]), signatures[1:][[0, 2, 1, 3]]),
        np.array([0, 0, 1, 1]),
        num_words=CONFIG.num_words,
    )
    both = np.arange(8) < 2
    got = _enrich_query(
        dataclasses.replace(index, inverted=filed),
        QuantizedFeatures(np.array([4]), signatures[:1]),
        both,
        1.0,
    )
    np.testing.assert_array_equal(got.words, [4, 6])
    set_bits = [np.flatnonzero(row) for row in unpack_signatures(got.signatures)]
    assert [row.tolist() for row in set_bits] == [[0], [1]]


def test_without_reliable_images_scores_are_unchanged(chain):
    got = hamming_query_expansion(*chain, min_matches=17)
    np.testing.assert_array_equal(got, chain[0].scores(*chain[1:]))


def test_queries_without_features_score_zero_and_change_no_others(chain):
    index, query, ids = chain
    got = hamming_query_expansion(index, query, ids + 1, num_queries=3)
    np.testing.assert_array_equal(got[:, [0, 2]], 0)
    np.testing.assert_array_equal(
        got[:, 1], hamming_query_expansion(index, query, ids)[:, 0]
    )
    empty = hamming_query_expansion(index, query[:0], ids[:0])
    assert empty.shape == (8, 0)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"top": 0}, "top must be at least 1, got 0"),
        ({"strict": 0.5}, "strict must be between 0 and the index's threshold, 0.375"),
        ({"strict": -0.1}, "strict must be between 0"),
        ({"min_matches": 0}, "min_matches must be at least 1, got 0"),
        ({"new_words": -1.0}, "new_words must be finite and at least 0, got -1"),
        ({"new_words": np.nan}, "new_words must be finite and at least 0, got nan"),
        ({"num_queries": 0}, "num_queries must be at least 1, got 0"),
    ],
)
def test_rejects_settings_outside_their_ranges(chain, setting, complaint):
    with pytest.raises(ValueError, match=complaint):
        hamming_query_expansion(*chain, **setting)


@pytest.mark.usefixtures("unchecked")
def test_rejects_queries_of_another_dimension(chain):
    with pytest.raises(ValueError, match="queries must have the collection's 64"):
        hamming_query_expansion(chain[0], chain[1][:, :9], chain[2])
