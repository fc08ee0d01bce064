import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.graph import _brute_force
from diffjax.graph._brute_force import brute_force_neighbors, rank_candidates


def rank_by_hand(vectors, node, candidates, k, *, include_self):
    """The definition, one node at a time, in Python."""
    numbers = {c for c in candidates if c >= 0} | ({node} if include_self else set())
    products = {c: float(vectors[c] @ vectors[node]) for c in numbers}
    if include_self:
        best = sorted(numbers - {node}, key=lambda c: (-products[c], c))[: k - 1]
        chosen = {node, *best}
    else:
        chosen = set(sorted(numbers, key=lambda c: (-products[c], c))[:k])
    order = sorted(chosen, key=lambda c: (-products[c], c))
    num_empty = k - len(order)
    return order + [-1] * num_empty, [products[c] for c in order] + [0.0] * num_empty


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 9),
    width=st.integers(0, 12),
    include_self=st.booleans(),
)
def test_agrees_with_the_definition_ties_and_repeats_included(
    seed, k, width, include_self
):
    # Small whole numbers: products are exact and often equal.
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, size=(11, 3)).astype(np.float32)
    nodes = rng.permutation(11)[:6]
    candidates = rng.integers(-1, 11, size=(6, width))
    indices, similarities = rank_candidates(
        vectors, nodes, candidates, k, include_self=include_self
    )
    for row, node in enumerate(nodes):
        expected = rank_by_hand(
            vectors, node, candidates[row], k, include_self=include_self
        )
        assert indices[row].tolist() == expected[0]
        assert similarities[row].tolist() == expected[1]


@pytest.mark.parametrize("gathered", [1, 100, 10_000])
def test_candidates_in_blocks_of_any_size_give_the_same(gathered, monkeypatch):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 4))
    candidates = rng.integers(0, 30, size=(30, 8))
    whole = rank_candidates(vectors, np.arange(30), candidates, 5, include_self=True)
    monkeypatch.setattr(_brute_force, "_MAX_GATHERED_NUMBERS", gathered)
    blocks = rank_candidates(vectors, np.arange(30), candidates, 5, include_self=True)
    np.testing.assert_array_equal(blocks[0], whole[0])
    np.testing.assert_array_equal(blocks[1], whole[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_duplicates_have_equal_similarities_and_come_in_order(dtype):
    rng = np.random.default_rng(0)
    vectors = np.tile(rng.normal(size=(5, 67)), (9, 1)).astype(dtype)
    candidates = np.broadcast_to(np.arange(45)[::-1], (45, 45))
    indices, similarities = rank_candidates(
        vectors, np.arange(45), candidates, 9, include_self=False
    )
    assert (similarities == similarities[:, :1]).all()
    np.testing.assert_array_equal(
        indices, np.arange(45)[:, None] % 5 + 5 * np.arange(9)
    )


def sort_all(vectors, k):
    products = vectors @ vectors.T
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(products, order, axis=1)


def nearly_equal_vectors(rng, n):
    """Vectors that are equal in single precision, with exact double products.

    Coordinates are multiples of 1/4 up to 1 plus up to three times 2^-24: products are
    multiples of 2^-48 below 2^4, so 52 bits hold them; 2^-24 is half a unit in the last
    place of a float32 of 1.
    """
    coarse = rng.integers(1, 5, size=(n // 8, 6)) / 4
    return np.repeat(coarse, 8, axis=0) + rng.integers(-3, 4, size=(n, 6)) * 2.0**-24


@pytest.mark.parametrize("k", [1, 6, 40])
def test_doubles_that_are_equal_in_single_precision_are_ranked(k):
    vectors = nearly_equal_vectors(np.random.default_rng(k), 400)
    rounded = vectors.astype(np.float32).astype(np.float64)
    assert (sort_all(rounded, k)[0] != sort_all(vectors, k)[0]).mean() > 0.05
    indices, similarities = brute_force_neighbors(vectors, k)
    expected = sort_all(vectors, k)
    np.testing.assert_array_equal(indices, expected[0])
    np.testing.assert_array_equal(similarities, expected[1])


def test_ties_of_doubles_go_by_lower_index_however_many_there_are():
    # Each of 4 directions 30 times: no list of 5 holds all that are equally near.
    vectors = np.tile(np.eye(4), (30, 1))
    indices, similarities = brute_force_neighbors(vectors, 5)
    np.testing.assert_array_equal(
        indices, np.arange(120)[:, None] % 4 + 4 * np.arange(5)
    )
    np.testing.assert_array_equal(similarities, 1.0)


def test_ties_do_not_depend_on_the_rounding_of_a_matrix_product():
    # One direction and noise in the last bit: rounding decides the order.
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=67) + rng.integers(-2, 3, size=(120, 67)) * 2.0**-52
    nodes = np.arange(120)
    candidates = np.broadcast_to(nodes, (120, 120))
    expected = rank_candidates(vectors, nodes, candidates, 5, include_self=False)
    by_product = np.argsort(-(vectors @ vectors.T), axis=1, kind="stable")[:, :5]
    assert (by_product != expected[0]).any()
    indices, similarities = brute_force_neighbors(vectors, 5)
    np.testing.assert_array_equal(indices, expected[0])
    np.testing.assert_array_equal(similarities, expected[1])


def test_rows_with_a_clear_margin_are_not_searched_twice(collection, monkeypatch):
    num_rows = []
    search = _brute_force._float64_block_search

    def watch(vectors, nodes, k):
        num_rows.append(len(nodes))
        return search(vectors, nodes, k)

    monkeypatch.setattr(_brute_force, "_float64_block_search", watch)
    brute_force_neighbors(collection.vectors, 5)
    assert num_rows == [0]


@pytest.mark.parametrize("power", [-300, -60, 200, 300])
def test_the_scale_of_the_vectors_does_not_matter(collection, power):
    # A power of two: products change by exactly its square.
    indices, similarities = brute_force_neighbors(collection.vectors * 2.0**power, 6)
    expected = brute_force_neighbors(collection.vectors, 6)
    np.testing.assert_array_equal(indices, expected[0])
    np.testing.assert_array_equal(similarities, expected[1] * 4.0**power)


def test_vectors_of_very_different_lengths_are_ranked():
    # In the range of single precision the short ones are all zero.
    rng = np.random.default_rng(0)
    vectors = rng.integers(-8, 9, size=(80, 5)) * 1.0
    vectors[::2] *= 2.0**-200
    indices, similarities = brute_force_neighbors(vectors, 7)
    expected = sort_all(vectors, 7)
    np.testing.assert_array_equal(indices, expected[0])
    np.testing.assert_array_equal(similarities, expected[1])


def test_zero_vectors_have_all_similarities_zero():
    indices, similarities = brute_force_neighbors(np.zeros((40, 3)), 4)
    np.testing.assert_array_equal(indices, np.tile(np.arange(4), (40, 1)))
    np.testing.assert_array_equal(similarities, 0.0)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_blocks_of_any_size_give_the_same(rows, monkeypatch):
    vectors = nearly_equal_vectors(np.random.default_rng(0), 120)
    monkeypatch.setattr(_brute_force, "_FLOAT64_BLOCK_ROWS", rows)
    indices, _ = brute_force_neighbors(vectors, 6)
    np.testing.assert_array_equal(indices, sort_all(vectors, 6)[0])
