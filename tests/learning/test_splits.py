import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffjax.evaluation import paired_bootstrap
from diffjax.learning import Split, hold_out, object_splits, pool_splits

lists = st.lists(st.sampled_from("abcdefghijkl"), min_size=4, max_size=40).filter(
    lambda names: len(set(names)) >= 4
)


@given(lists, st.integers(0, 100))
def test_every_query_is_in_one_part_and_no_object_is_in_two(objects, seed):
    for split in object_splits(objects, splits=3, seed=seed):
        np.testing.assert_array_equal(np.sum(split, axis=0), 1)
        parts = [{objects[i] for i in np.flatnonzero(part)} for part in split]
        assert not parts[0] & parts[1]
        assert not parts[1] & parts[2]
        assert not parts[0] & parts[2]


@given(lists)
def test_half_of_the_objects_learn_and_a_quarter_of_those_are_held_out(objects):
    n = len(set(objects))
    for split in object_splits(objects, splits=3):
        train, held_out, test = (
            len({objects[i] for i in np.flatnonzero(part)}) for part in split
        )
        assert train + held_out == n // 2
        assert held_out == max(1, n // 2 // 4)
        assert test == n - n // 2


def test_the_rule_is_the_one_that_is_written_down():
    objects = ["pear", "fig", "fig", "kiwi", "apple", "lime", "plum", "yam", "pea"]
    names = np.array(sorted(set(objects)))
    for i, split in enumerate(object_splits(objects, splits=4, seed=7)):
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
        object_splits(objects, splits=2),
        object_splits([objects[i] for i in order], splits=2),
        strict=True,
    ):
        np.testing.assert_array_equal(np.array(one)[:, order], np.array(other))


def test_splits_are_the_same_each_time_and_differ_among_themselves():
    objects = [f"object {i}" for i in range(30)]
    first, again = object_splits(objects), object_splits(objects)
    assert len(first) == 10
    np.testing.assert_array_equal(np.array(first), np.array(again))
    assert len({part.test.tobytes() for part in first}) == 10
    # A later seed starts later in the same series.
    np.testing.assert_array_equal(
        np.array(first)[3:], np.array(object_splits(objects, splits=7, seed=3))
    )


@pytest.mark.parametrize(
    ("objects", "found"),
    [([], "got 0"), (["a"] * 5, "got 1: a"), (list("abcab"), "got 3: a, b, c")],
)
def test_too_few_objects_to_nest_are_refused(objects, found):
    with pytest.raises(ValueError, match=f"objects must be at least 4 .*{found}"):
        object_splits(objects)


def test_four_objects_are_enough():
    (split,) = object_splits(list("abcd"), splits=1)
    assert [part.sum() for part in split] == [1, 1, 2]


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match="splits must be at least 1, got 0"):
        object_splits(list("abcd"), splits=0)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        object_splits(list("abcd"), seed=-1)


def split_for(*queries):
    test = np.isin(np.arange(4), queries)
    return Split(train=~test, held_out=np.zeros(4, bool), test=test)


def test_a_query_is_pooled_over_the_splits_that_tested_it():
    splits = split_for(0, 1), split_for(1, 2), split_for(1)
    precision = [np.array([0.5, 0.1, 9, 9]), np.array([9, 0.3, 0.7, 9])]
    precision.append(np.array([9, 0.5, 9, 9.0]))
    got = pool_splits(precision, splits)
    np.testing.assert_allclose(got, [0.5, (0.1 + 0.3 + 0.5) / 3, 0.7, np.nan])


def test_a_split_that_gives_a_query_no_number_is_left_out_for_it():
    nan = np.nan
    precision = [np.array([nan, nan, 1, 1]), np.array([0.4, nan, 1, 1])]
    got = pool_splits(precision, (split_for(0, 1), split_for(0, 1)))
    np.testing.assert_allclose(got, [0.4, nan, nan, nan])


def test_what_is_pooled_goes_into_an_interval_over_objects():
    objects = [name for name in "abcdefgh" for _ in range(3)]
    splits = object_splits(objects)
    base = np.linspace(0.2, 0.8, 24)
    pooled = [pool_splits([base + gain] * 10, splits) for gain in (0.1, 0.0)]
    got = paired_bootstrap(*pooled, groups=objects, resamples=200)
    np.testing.assert_allclose(got, 0.1)


def test_precision_must_fit_the_splits():
    with pytest.raises(ValueError, match=r"one array per split, 2 of them .* got 1"):
        pool_splits([np.zeros(4)], (split_for(0), split_for(1)))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        pool_splits([], ())
    with pytest.raises(ValueError, match=r"one number per query, 4, got \(3,\)"):
        pool_splits([np.zeros(3)], (split_for(0),))


@given(lists, st.integers(0, 100))
def test_a_quarter_of_the_objects_is_held_out(objects, seed):
    names = sorted(set(objects))
    away = {objects[i] for i in np.flatnonzero(hold_out(objects, seed=seed))}
    assert len(away) == max(1, len(names) // 4)
    order = np.random.default_rng(seed).permutation(len(names))
    assert away == {names[i] for i in order[: len(away)]}
    np.testing.assert_array_equal(
        hold_out(objects, seed=seed), [name in away for name in objects]
    )


def test_one_object_can_not_be_held_out():
    with pytest.raises(ValueError, match="at least 2, one to learn from"):
        hold_out(["a", "a"])
