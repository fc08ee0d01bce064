"""Ids of the user's choice, which an index keeps and gives back."""

import uuid

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from small_index import CONFIG

from diffjax.index import Index
from diffjax.index import _ids as ids_module
from diffjax.types import Neighbors

KINDS = {
    "strings": lambda i: f"album/\u2028 {7 * i % 24}.jpg",
    "bytes of a file name that are no text": lambda i: f"\udcff{i}",
    "uuids": lambda i: uuid.UUID(int=2**100 - i),
    "gaps": lambda i: 1000 - 3 * i,
    "large": lambda i: 2**63 + 5 - i,
}


def permuted(given, kind):
    """Order of the rows at random, and an id for each row in that order."""
    order = np.random.default_rng(5).permutation(len(given.vectors))
    return order, [kind(int(image)) for image in given.image_ids[order]]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
def test_ids_come_back_with_the_images_that_they_name(
    given, index, tmp_path, kind, on_disk
):
    order, ids = permuted(given, kind)
    path = tmp_path / "index" if on_disk else None
    built = Index.build(given.vectors[order], ids, config=CONFIG, path=path)
    built.save(tmp_path / "copy")
    expected = index.search(given.queries, top=3)
    for index_of_ids in built, Index.open(tmp_path / "copy", mmap=on_disk):
        assert set(index_of_ids.unique_ids.tolist()) == set(ids)
        np.testing.assert_array_equal(
            index_of_ids.ids, index_of_ids.unique_ids[index_of_ids.image_ids]
        )
        result = index_of_ids.search(given.queries, top=3)
        assert result.ids == [
            [kind(image) for image in row] for row in expected.images.tolist()
        ]


def test_rows_in_any_order_are_grouped_by_image(given, index):
    order, ids = permuted(given, KINDS["strings"])
    boxes = np.arange(4 * len(ids), dtype=np.float32).reshape(-1, 4) % 50
    boxes[:, 2:] += 100
    inverse = np.argsort(order)
    indices = np.asarray(index.neighbors.indices)[order]
    lists = Neighbors(
        jnp.asarray(inverse[indices].astype(np.int32)),
        index.neighbors.similarities[order],
    )
    built = Index.build(
        given.vectors[order], ids, config=CONFIG, boxes=boxes, neighbors=lists
    )
    stable = np.argsort(built.images_of(ids), kind="stable")
    np.testing.assert_array_equal(built.ids, np.array(ids, object)[stable])
    np.testing.assert_array_equal(built.boxes, boxes[stable])
    np.testing.assert_array_equal(built.vectors, index.vectors[order][stable])
    searched = Index.build(given.vectors[order], ids, config=CONFIG)
    np.testing.assert_array_equal(
        built.neighbors.similarities, searched.neighbors.similarities
    )
    expected, result = searched.search(given.queries), built.search(given.queries)
    assert result.ids == expected.ids


def test_an_index_is_rebuilt_from_its_own_vectors_and_ids(given):
    order, ids = permuted(given, KINDS["gaps"])
    built = Index.build(given.vectors[order], ids, config=CONFIG)
    again = Index.build(built.vectors, built.ids, config=CONFIG, prepared=True)
    np.testing.assert_array_equal(again.ids, built.ids)
    np.testing.assert_allclose(
        again.neighbors.similarities, built.neighbors.similarities, atol=1e-6
    )


def test_image_numbers_are_their_own_ids(given, index):
    assert "ids" not in index.store.arrays
    np.testing.assert_array_equal(index.ids, given.image_ids)
    result = index.search(given.queries, top=4)
    assert result.ids == np.asarray(result.images).tolist()


def test_columns_of_data_frames_are_ids(given):
    names = [f"picture {image}" for image in given.image_ids]
    for column in pd.Series(names), pd.Series(names, dtype="string"):
        built = Index.build(given.vectors, column, config=CONFIG)
        assert built.ids.tolist() == names


@for_all(
    st.one_of(
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30),
        st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30),
        st.lists(st.text(max_size=5), min_size=1, max_size=30),
        st.lists(st.uuids(), min_size=1, max_size=30),
    )
)
@settings(max_examples=60, deadline=None)
def test_numbers_and_ids_name_the_same_rows(ids):
    ids = [*ids, *ids[::2]]
    images = ids_module.number_images(ids, rows=len(ids))
    order = images.region_order
    rows = np.arange(len(ids)) if order is None else order
    count = len(set(ids))
    np.testing.assert_array_equal(np.unique(images.image_ids), np.arange(count))
    assert (np.diff(images.image_ids) >= 0).all()
    unique_ids = images.unique_ids
    unique_ids = np.arange(count) if unique_ids is None else unique_ids
    assert unique_ids[images.image_ids].tolist() == [ids[row] for row in rows]
    # Images appear in the order of their first rows, regions in that of their rows.
    assert unique_ids.tolist() == list(dict.fromkeys(ids))
    stored = ids_module.ids_to_arrays(unique_ids)
    loaded = ids_module.ids_from_arrays(stored)
    assert loaded is not None
    assert loaded.tolist() == unique_ids.tolist()
    assert [type(x) for x in loaded.tolist()] == [type(x) for x in unique_ids.tolist()]


BAD = {
    "short": ([0, 1], "must have one id per row, 3, got [2]"),
    "table": (np.zeros((3, 1), int), "must have one id per row, 3, got [3, 1]"),
    "mixed": ([0, "a", 1], "got str 'a' in row 1"),
    "fractions": ([0.0, 1.0, 2.0], "got float 0.0 in row 0"),
    "array of fractions": (np.zeros(3), "one per row, got float64 [3]"),
    "dates": (np.zeros(3, "M8[D]"), "one per row, got datetime64[D] [3]"),
    "truth": (np.zeros(3, bool), "one per row, got bool [3]"),
    "truth in a list": ([True, False, True], "got bool True in row 0"),
    "missing": (["a", None, "b"], "got NoneType None in row 1"),
    "masked": (np.ma.masked_equal([1, 2, 3], 2), "must have no masked entries"),
    "huge": ([2**64, 1, 2], f"must be integers of 64 bits, got {2**64}"),
    "negative and large": ([-1, 2**63, 2], "must be integers of 64 bits, got 9223372"),
}


@pytest.mark.parametrize(("ids", "message"), BAD.values(), ids=BAD)
def test_bad_ids_are_refused_in_a_line_that_says_why(tmp_path, ids, message, unchecked):
    vectors = np.eye(3, dtype=np.float32)
    for path in None, tmp_path / "index":
        with pytest.raises(ValueError) as caught:  # noqa: PT011  # Compared below.
            Index.build(vectors, ids, path=path)
        assert str(caught.value).startswith("ids must ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_unknown_ids_are_all_listed(given):
    built = Index.build(given.vectors, config=CONFIG)
    with pytest.raises(ValueError, match=r"^ids must be ids of the index, got 999, -1"):
        built.images_of([0, 999, -1])
    assert built.images_of([3, 0, 3]).tolist() == [3, 0, 3]
