"""Labelled queries, splits by object, mined positives."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.evaluation import paired_bootstrap
from diffjax.learning import (
    LabelledQueries,
    QueryDescriptors,
    QuerySplit,
    average_over_splits,
    hold_out_objects,
    mine_positives,
    split_by_object,
    training_graphs,
)
from diffjax.learning._labels import make_query_table, relevance_lists, select_queries

# Four queries of 1, 3, 2 and 1 regions, of which the third has no right answer.
IDS = np.array([0, 1, 1, 1, 2, 2, 3])
VECTORS = np.eye(7, dtype=np.float32)
POSITIVES = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1]], bool)
USED = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]], bool)


@pytest.fixture(scope="module")
def collection_of_three():
    return training_graphs(VECTORS[:6], np.repeat(np.arange(3), 2), k=2)


def labelled(**changes):
    start = LabelledQueries(QueryDescriptors((VECTORS,), IDS), POSITIVES, USED)
    return start._replace(**changes)


def test_a_query_without_answers_is_left_out(collection_of_three):
    table = make_query_table("training", labelled(), collection_of_three)
    np.testing.assert_array_equal(table.numbers, [0, 1, 3])
    np.testing.assert_array_equal(table.rows, [[0, -1, -1], [1, 2, 3], [6, -1, -1]])
    right, junk = relevance_lists(table)
    assert [list(x) for x in right] == [[0], [1, 2], [2]]
    assert [list(x) for x in junk] == [[2], [], []]


def test_rows_left_over_belong_to_no_query_of_the_batch(collection_of_three):
    table = make_query_table("training", labelled(), collection_of_three)
    taken = select_queries(table, jnp.array([1, 2, -1], jnp.int32))
    ids = np.asarray(taken.query_ids)
    np.testing.assert_array_equal(ids, [0, 0, 0, 1, 3, 3, 3, 3, 3])
    np.testing.assert_array_equal(taken.vectors[0][ids < 3], VECTORS[[1, 2, 3, 6]])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"positives": POSITIVES[:2]}, r"shape \[3, 4\].* got \[2, 4\] and \[3, 4\]"),
        ({"positives": POSITIVES[:, :3]}, "one column per query, 4, got 3"),
        ({"used": USED & ~POSITIVES}, "must have a query with a positive .* among 4"),
        ({"used": POSITIVES}, "a positive and a negative"),
        ({"objects": ("a", "b")}, "objects must be one per query, 4, got 2"),
        (
            {"queries": QueryDescriptors((VECTORS,), IDS + 1)},
            "query_ids must start at 0, got 1",
        ),
    ],
)
def test_rejects_labels_that_contradict_the_collection(
    collection_of_three, changes, match
):
    with pytest.raises(ValueError, match=f"training.*{match}"):
        make_query_table("training", labelled(**changes), collection_of_three)


lists = st.lists(st.sampled_from("abcdefghijkl"), min_size=4, max_size=40).filter(
    lambda names: len(set(names)) >= 4
)


@given(lists, st.integers(0, 100))
def test_every_query_is_in_one_part_and_no_object_is_in_two(objects, seed):
    for split in split_by_object(objects, splits=3, seed=seed):
        np.testing.assert_array_equal(np.sum(split, axis=0), 1)
        parts = [{objects[i] for i in np.flatnonzero(part)} for part in split]
        assert not parts[0] & parts[1]
        assert not parts[1] & parts[2]
        assert not parts[0] & parts[2]


@given(lists)
def test_half_of_the_objects_learn_and_a_quarter_of_those_are_held_out(objects):
    n = len(set(objects))
    for split in split_by_object(objects, splits=3):
        train, held_out, test = (
            len({objects[i] for i in np.flatnonzero(part)}) for part in split
        )
        assert train + held_out == n // 2
        assert held_out == max(1, n // 2 // 4)
        assert test == n - n // 2


def test_the_rule_is_the_one_that_is_written_down():
    objects = ["pear", "fig", "fig", "kiwi", "apple", "lime", "plum", "yam", "pea"]
    names = np.array(sorted(set(objects)))
    for i, split in enumerate(split_by_object(objects, splits=4, seed=7)):
        shuffled = names[np.random.default_rng(7 + i).permutation(8)]
        # 8 objects: 4 learn, of which 1 is held out.
        expected = [shuffled[1:4], shuffled[:1], shuffled[4:]]
        for part, members in zip(split, expected, strict=True):
            np.testing.assert_array_equal(part, np.isin(objects, members))


@given(lists, st.randoms())
def test_the_order_of_the_queries_does_not_matter(objects, random):
    order = list(range(len(objects)))
    random.shuffle(order)
    for one, other in zip(
        split_by_object(objects, splits=2),
        split_by_object([objects[i] for i in order], splits=2),
        strict=True,
    ):
        np.testing.assert_array_equal(np.array(one)[:, order], np.array(other))


def test_splits_are_the_same_each_time_and_differ_among_themselves():
    objects = [f"object {i}" for i in range(30)]
    first, again = split_by_object(objects), split_by_object(objects)
    assert len(first) == 10
    np.testing.assert_array_equal(np.array(first), np.array(again))
    assert len({part.test.tobytes() for part in first}) == 10
    # A later seed starts later in the same series.
    np.testing.assert_array_equal(
        np.array(first)[3:], np.array(split_by_object(objects, splits=7, seed=3))
    )


@pytest.mark.parametrize(
    ("objects", "complaint"),
    [([], "got 0"), (["a"] * 5, "got 1: a"), (list("abcab"), "got 3: a, b, c")],
)
def test_too_few_objects_to_nest_are_refused(objects, complaint):
    with pytest.raises(ValueError, match=f"objects must be at least 4 .*{complaint}"):
        split_by_object(objects)


def test_four_objects_are_enough():
    (split,) = split_by_object(list("abcd"), splits=1)
    assert [part.sum() for part in split] == [1, 1, 2]


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match="splits must be at least 1, got 0"):
        split_by_object(list("abcd"), splits=0)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        split_by_object(list("abcd"), seed=-1)


def split_for(*queries):
    test = np.isin(np.arange(4), queries)
    return QuerySplit(train=~test, held_out=np.zeros(4, bool), test=test)


def test_a_query_is_pooled_over_the_splits_that_tested_it():
    splits = split_for(0, 1), split_for(1, 2), split_for(1)
    precision = [np.array([0.5, 0.1, 9, 9]), np.array([9, 0.3, 0.7, 9])]
    precision.append(np.array([9, 0.5, 9, 9.0]))
    got = average_over_splits(precision, splits)
    np.testing.assert_allclose(got, [0.5, (0.1 + 0.3 + 0.5) / 3, 0.7, np.nan])


def test_a_split_that_gives_a_query_no_number_is_left_out_for_it():
    nan = np.nan
    precision = [np.array([nan, nan, 1, 1]), np.array([0.4, nan, 1, 1])]
    got = average_over_splits(precision, (split_for(0, 1), split_for(0, 1)))
    np.testing.assert_allclose(got, [0.4, nan, nan, nan])


def test_averages_over_splits_go_into_an_interval_over_objects():
    objects = [name for name in "abcdefgh" for _ in range(3)]
    splits = split_by_object(objects)
    base = np.linspace(0.2, 0.8, 24)
    pooled = [average_over_splits([base + gain] * 10, splits) for gain in (0.1, 0.0)]
    got = paired_bootstrap(*pooled, groups=objects, resamples=200)
    np.testing.assert_allclose(got, 0.1)


def test_precision_must_fit_the_splits():
    with pytest.raises(ValueError, match=r"one array per split, 2 of them .* got 1"):
        average_over_splits([np.zeros(4)], (split_for(0), split_for(1)))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        average_over_splits([], ())
    with pytest.raises(ValueError, match=r"one number per query, 4, got \(3,\)"):
        average_over_splits([np.zeros(3)], (split_for(0),))


@given(lists, st.integers(0, 100))
def test_a_quarter_of_the_objects_is_held_out(objects, seed):
    names = sorted(set(objects))
    away = {objects[i] for i in np.flatnonzero(hold_out_objects(objects, seed=seed))}
    assert len(away) == max(1, len(names) // 4)
    order = np.random.default_rng(seed).permutation(len(names))
    assert away == {names[i] for i in order[: len(away)]}
    np.testing.assert_array_equal(
        hold_out_objects(objects, seed=seed), [name in away for name in objects]
    )


def test_one_object_can_not_be_held_out():
    with pytest.raises(ValueError, match="at least 2, one to learn from"):
        hold_out_objects(["a", "a"])


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
def test_agrees_with_the_protocol_pair_by_pair(case):
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


def test_neighbours_in_one_view_alone_are_not_used():
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
        split_by_object(got.objects)


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
