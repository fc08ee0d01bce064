import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.graph import _candidates
from diffjax.graph._candidates import rank_candidates


def rank_by_hand(vectors, node, candidates, k, *, own):
    """The definition, one node at a time, in Python."""
    numbers = {c for c in candidates if c >= 0} | ({node} if own else set())
    products = {c: float(vectors[c] @ vectors[node]) for c in numbers}
    if own:
        best = sorted(numbers - {node}, key=lambda c: (-products[c], c))[: k - 1]
        kept = {node, *best}
    else:
        kept = set(sorted(numbers, key=lambda c: (-products[c], c))[:k])
    order = sorted(kept, key=lambda c: (-products[c], c))
    empty = k - len(order)
    return order + [-1] * empty, [products[c] for c in order] + [0.0] * empty


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 9),
    width=st.integers(0, 12),
    own=st.booleans(),
)
def test_agrees_with_the_definition_ties_and_repeats_included(seed, k, width, own):
    # Small whole numbers: products are exact and often equal.
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, size=(11, 3)).astype(np.float32)
    nodes = rng.permutation(11)[:6]
    candidates = rng.integers(-1, 11, size=(6, width))
    indices, similarities = rank_candidates(vectors, nodes, candidates, k, own=own)
    for row, node in enumerate(nodes):
        expected = rank_by_hand(vectors, node, candidates[row], k, own=own)
        assert indices[row].tolist() == expected[0]
        assert similarities[row].tolist() == expected[1]


@pytest.mark.parametrize("gathered", [1, 100, 10_000])
def test_blocks_of_any_size_give_the_same(gathered, monkeypatch):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 4))
    candidates = rng.integers(0, 30, size=(30, 8))
    whole = rank_candidates(vectors, np.arange(30), candidates, 5, own=True)
    monkeypatch.setattr(_candidates, "_GATHERED", gathered)
    parts = rank_candidates(vectors, np.arange(30), candidates, 5, own=True)
    np.testing.assert_array_equal(parts[0], whole[0])
    np.testing.assert_array_equal(parts[1], whole[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_duplicates_have_equal_similarities_and_come_in_order(dtype):
    rng = np.random.default_rng(0)
    vectors = np.tile(rng.normal(size=(5, 67)), (9, 1)).astype(dtype)
    everyone = np.broadcast_to(np.arange(45)[::-1], (45, 45))
    indices, similarities = rank_candidates(
        vectors, np.arange(45), everyone, 9, own=False
    )
    assert (similarities == similarities[:, :1]).all()
    np.testing.assert_array_equal(
        indices, np.arange(45)[:, None] % 5 + 5 * np.arange(9)
    )
