import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.learning import mine_positives, object_splits


@st.composite
def cases(draw):
    """Two or three views of up to 9 images, with empty places, and a k."""
    m = draw(st.integers(3, 9))
    width = draw(st.integers(1, m))
    row = st.permutations(range(m)).map(lambda order: order[:width])
    views = []
    for _ in range(draw(st.integers(2, 3))):
        table = np.array([draw(row) for _ in range(m)])
        cut = draw(st.integers(0, width))
        table[0, cut:] = -1
        views.append(table)
    return views, draw(st.integers(1, width))


def rows_of(view):
    """What each image lists, itself and empty places left out."""
    return [[int(j) for j in row if j not in {i, -1}] for i, row in enumerate(view)]


def pair_by_pair(views, k):
    """The protocol, one pair of images at a time."""
    m = len(views[0])
    rows = [rows_of(view) for view in views]
    positive, used = np.zeros((m, m), bool), np.zeros((m, m), bool)
    for i, j in itertools.permutations(range(m), 2):
        agreed = all(j in v[i][:k] and i in v[j][:k] for v in rows)
        listed = any(j in v[i] or i in v[j] for v in rows)
        positive[j, i], used[j, i] = agreed, agreed or not listed
    return positive, used


@settings(max_examples=150, deadline=None)
@given(cases())
def test_is_what_the_protocol_says_pair_by_pair(case):
    views, k = case
    positive, used = pair_by_pair(views, k)
    expected = np.flatnonzero(positive.any(0) & (used & ~positive).any(0))
    pairs = itertools.combinations(map(rows_of, views), 2)
    if any(one == other for one, other in pairs) or not expected.size:
        with pytest.raises(ValueError, match="views must"):
            mine_positives(views, k=k)
        return
    got = mine_positives(views, k=k)
    np.testing.assert_array_equal(got.query_images, expected)
    np.testing.assert_array_equal(got.positives, positive[:, expected])
    np.testing.assert_array_equal(got.used, used[:, expected])


def rings():
    """Two objects of three images and two stray ones; the second view errs in one."""
    first = np.array([[1, 2], [0, 2], [0, 1], [4, 5], [3, 5], [3, 4], [0, 1], [3, 4]])
    second = first.copy()
    second[5], second[6] = [6, 3], [5, 0]
    return first, second


def test_objects_that_both_views_see_are_found():
    got = mine_positives(rings(), k=2)
    # 5 names 4 no longer, so they are no positives; 5 and 3 still are.
    expected = {0: {1, 2}, 1: {0, 2}, 2: {0, 1}, 3: {4, 5}, 4: {3}, 5: {3}}
    assert got.query_images.tolist() == list(expected)
    for query, positives in zip(expected, got.positives.T, strict=True):
        assert set(np.flatnonzero(positives).tolist()) == expected[query]


def test_what_one_view_alone_says_is_not_used():
    got = mine_positives(rings(), k=2)
    column = got.query_images.tolist().index(5)
    # 4 by the first view alone, 6 by the second alone, 5 is the query itself.
    assert np.flatnonzero(~got.used[:, column]).tolist() == [4, 5, 6]


def test_every_query_has_a_positive_and_a_negative_and_not_itself():
    got = mine_positives(rings(), k=2)
    assert (got.positives & got.used).any(0).all()
    assert (~got.positives & got.used).any(0).all()
    assert not (got.positives & ~got.used).any()
    assert not got.used[got.query_images, np.arange(got.query_images.size)].any()


def test_queries_that_share_answers_are_one_object():
    got = mine_positives(rings(), k=2)
    assert len(set(got.objects[:3])) == 1
    assert len(set(got.objects[3:])) == 1
    assert got.objects[0] != got.objects[3]
    with pytest.raises(ValueError, match="objects must be at least 4"):
        object_splits(got.objects)


def test_the_image_itself_in_its_list_changes_nothing():
    views = rings()
    with_self = [np.column_stack([np.arange(8), view]) for view in views]
    expected, got = mine_positives(views, k=2), mine_positives(with_self, k=2)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_order_of_the_views_changes_nothing():
    first, second = rings()
    expected, got = (mine_positives(v, k=2) for v in ([first, second], [second, first]))
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_views_that_agree_by_chance_alone_find_next_to_nothing():
    # Mutual in two views by chance: (k / m)^4 of all pairs, here 160,000 / 20^4 = 1.
    rng = np.random.default_rng(0)
    views = [rng.permuted(np.tile(np.arange(400), (400, 1)), axis=1) for _ in range(2)]
    views = [view[:, :41] for view in views]
    for view in views:  # And one pair that is true.
        view[0, view[0] == 1], view[1, view[1] == 0] = view[0, 0], view[1, 0]
        view[0, 0], view[1, 0] = 1, 0
    got = mine_positives(views, k=20)
    assert {0, 1} <= set(got.query_images.tolist())
    assert got.positives.sum() <= 2 + 8


def test_queries_are_drawn_by_the_seed():
    everything = mine_positives(rings(), k=2)
    few, again = (mine_positives(rings(), k=2, max_queries=3, seed=1) for _ in range(2))
    np.testing.assert_array_equal(few.query_images, again.query_images)
    assert few.query_images.size == 3
    assert np.all(np.diff(few.query_images) > 0)
    columns = np.searchsorted(everything.query_images, few.query_images)
    np.testing.assert_array_equal(few.positives, everything.positives[:, columns])
    np.testing.assert_array_equal(few.used, everything.used[:, columns])
    draws = [
        mine_positives(rings(), k=2, max_queries=3, seed=s).query_images.tolist()
        for s in range(5)
    ]
    assert len({tuple(draw) for draw in draws}) > 1
    assert mine_positives(rings(), k=2, max_queries=9).query_images.size == 6


def test_bad_views_are_named(unchecked):
    first, second = rings()
    with pytest.raises(ValueError, match="views must be at least 2, got 1"):
        mine_positives([first], k=1)
    with pytest.raises(ValueError, match=r"got float64 \[8, 2\] for view 1"):
        mine_positives([first, second.astype(float)], k=1)
    with pytest.raises(ValueError, match="same images, 8, got 7 for view 1"):
        mine_positives([first, second[:7]], k=1)
    with pytest.raises(ValueError, match="0 to 7, or -1, got 8 in view 1"):
        mine_positives([first, np.where(second == 3, 8, second)], k=1)
    with pytest.raises(ValueError, match="got 6 twice for image 0 in view 0"):
        mine_positives([np.where(first < 3, 6, first), second], k=1)
    with pytest.raises(ValueError, match="the same lists for views 0 and 2"):
        mine_positives([first, second, first], k=1)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        mine_positives([first, second], k=0)
    with pytest.raises(ValueError, match="max_queries must be at least 1, got 0"):
        mine_positives([first, second], k=1, max_queries=0)
    with pytest.raises(ValueError, match="views must agree on a pair of images"):
        mine_positives([first, np.full((8, 2), -1)], k=2)
