"""Vectors, ids, boxes and queries that are refused, in memory and on disk."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from small_index import CONFIG

from diffjax.index import Index
from diffjax.types import Whitening


def spoiled(vectors, row, value):
    copy = vectors.copy()
    copy[row] = value
    return copy


def masked(vectors):
    return np.ma.masked_greater(vectors, 0)


BAD_VECTORS = {
    "nan": (lambda v: spoiled(v, 3, np.nan), "must be finite, got NaN.*first in row 3"),
    "infinite": (lambda v: spoiled(v, 2, -np.inf), "must be finite.*first in row 2"),
    "zero": (lambda v: spoiled(v, 1, 0), "must have a direction.*first row 1"),
    "truth": (lambda v: v > 0, r"must be real numbers .*got bool \["),
    "complex": (lambda v: v + 1j, r"must be real numbers .*got complex64 \["),
    "objects": (lambda v: v.astype(object), r"must be real numbers .*got object \["),
    "masked": (masked, "must have no masked entries"),
    "one vector": (
        lambda v: v[0],
        r"must be real numbers of shape \[n, d\], got float32 \[12\]",
    ),
    "three axes": (lambda v: v[None], r"must be real .*got float32 \[1, "),
    "list": (lambda v: v.tolist(), "must be an array, got list"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("spoil", "message"), BAD_VECTORS.values(), ids=BAD_VECTORS)
def test_rejects_invalid_vectors_with_the_reason(given, index, spoil, message):
    with pytest.raises(ValueError, match=f"^vectors {message}") as caught:
        Index.build(spoil(given.vectors), config=CONFIG)
    assert "\n" not in str(caught.value)
    for ask in (index.search, index.prepare):
        with pytest.raises(ValueError, match=f"^queries {message}"):
            ask(spoil(given.queries))


BAD_ON_DISK = {
    **BAD_VECTORS,
    "nan": (lambda v: spoiled(v, 3, np.nan), "got NaN or infinity in row 3"),
    "infinite": (lambda v: spoiled(v, 2, -np.inf), "got NaN or infinity in row 2"),
    "zero": (lambda v: spoiled(v, 1, 0), "got zero in row 1"),
    "none": (lambda v: v[:0], r"must be at least one, got \[0, 12\]"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("spoil", "message"), BAD_ON_DISK.values(), ids=BAD_ON_DISK)
def test_bad_vectors_are_refused_on_disk_too(given, tmp_path, spoil, message):
    path = tmp_path / "index"
    with pytest.raises(ValueError, match=f"^vectors .*{message}") as caught:
        Index.build(spoil(given.vectors), config=CONFIG, path=path)
    assert "\n" not in str(caught.value)
    assert not (path / "index.json").exists()


BAD_QUERY_IDS = {
    "gap": (lambda ids: ids + (ids > 2), "got 4 after 2 in row"),
    "back": (lambda ids: ids[::-1], "must start at 0, got"),
    "falling": (lambda ids: np.where(ids == 3, 1, ids), "got 1 after 2 in row"),
    "late": (lambda ids: ids + 1, "must start at 0, got 1"),
    "early": (lambda ids: ids - 1, "must start at 0, got -1"),
    "short": (lambda ids: ids[:-1], "must have one id per row"),
    "table": (lambda ids: ids[:, None], "must have one id per row"),
    "fractions": (lambda ids: ids / 1, "must be integers, got float64"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("spoil", "message"), BAD_QUERY_IDS.values(), ids=BAD_QUERY_IDS
)
def test_rejects_invalid_query_ids_with_the_reason(given, index, spoil, message):
    with pytest.raises(ValueError, match=f"^query_ids .*{message}"):
        index.search(given.queries, spoil(given.query_ids))


def test_ids_may_be_of_any_whole_type(given, index, unchecked):
    expected = index.search(given.queries, given.query_ids, top=24)
    kinds: tuple[Any, ...] = (np.int16, np.int64, jnp.asarray, np.ndarray.tolist)
    for kind in kinds:
        again = Index.build(given.vectors, kind(given.image_ids), config=CONFIG)
        assert again.image_ids.dtype == np.int32
        np.testing.assert_array_equal(again.image_ids, given.image_ids)
        result = index.search(given.queries, kind(given.query_ids), top=24)
        np.testing.assert_array_equal(result.images, expected.images)


def test_other_bad_arguments_are_refused(given, index):
    with pytest.raises(ValueError, match="vectors must be at least one, got none"):
        Index.build(given.vectors[:0])
    with pytest.raises(ValueError, match=r"must have the 12 dimensions .* got 11"):
        index.search(given.queries[:, :11])
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        index.search(given.queries, top=0)


KINDS = {
    "big-endian": lambda v: v.astype(">f4"),
    "doubles": lambda v: v.astype(np.float64),
    "big-endian doubles": lambda v: v.astype(">f8"),
    "jax": jnp.asarray,
    "columns first": np.asfortranarray,
    "data frame": pd.DataFrame,
    "unmasked": np.ma.asarray,
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_vectors_of_every_kind_give_the_same_index(
    given, index, tmp_path, unchecked, kind
):
    expected = index.search(given.queries, given.query_ids)
    for path in None, tmp_path / "index":
        again = Index.build(
            kind(given.vectors), given.image_ids, config=CONFIG, path=path
        )
        np.testing.assert_allclose(again.vectors, index.vectors, atol=1e-6)
        result = again.search(kind(given.queries), given.query_ids)
        np.testing.assert_array_equal(result.images, expected.images)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.int8, np.uint64])
def test_vectors_of_few_bits_and_whole_numbers_become_float32(
    given, tmp_path, unchecked, dtype
):
    few = (9 * np.abs(given.vectors) + 1).astype(dtype)
    expected = Index.build(few.astype(np.float32), config=CONFIG)
    for path in None, tmp_path / "index":
        built = Index.build(few, config=CONFIG, path=path)
        assert built.vectors.dtype == np.float32
        np.testing.assert_allclose(built.vectors, expected.vectors, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-300, 1e-42, 1e42, 1e300])
def test_doubles_beyond_single_precision_keep_their_direction(given, index, scale):
    built = Index.build(given.vectors.astype(np.float64) * scale, config=CONFIG)
    np.testing.assert_allclose(built.vectors, index.vectors, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_queries_take_the_precision_of_the_index(given, index):
    doubles = given.queries.astype(np.float64)
    np.testing.assert_array_equal(
        index.search(doubles).scores, index.search(given.queries).scores
    )
    double = Index.build(given.vectors.astype(np.float64), config=CONFIG)
    assert double.search(given.queries).scores.dtype == np.float64


def test_an_index_of_vectors_is_not_searched_with_pictures(index):
    with pytest.raises(ValueError, match="got one of vectors: search it with vectors"):
        index.search_picture(np.zeros((50, 50, 3), np.uint8))


def test_a_whitening_of_other_vectors_is_refused(given):
    whitening = Whitening(jnp.zeros(5), jnp.eye(5, 4))
    with pytest.raises(ValueError, match=r"whitening must be of vectors of 12 dim.* 5"):
        Index.build(given.vectors, config=CONFIG, whitening=whitening)
    with pytest.raises(ValueError, match=r"prepared must have the 4 dim.* got 12"):
        Index.build(given.vectors, config=CONFIG, whitening=whitening, prepared=True)


def test_codes_must_divide_the_dimensions(given, tmp_path):
    config = CONFIG.replace(storage="pq", code_bytes=5)
    for path in None, tmp_path / "index":
        with pytest.raises(ValueError, match=r"must divide the 12 dimensions .* got 5"):
            Index.build(given.vectors, config=config, path=path)


def test_codes_must_divide_what_whitening_keeps(given, tmp_path):
    tasks = []
    config = CONFIG.replace(k=4, query_k=4, dim=8, storage="pq", code_bytes=8)
    for path in None, tmp_path / "index":
        with (
            pytest.warns(UserWarning, match="12 vectors can tell apart: using 6"),
            pytest.raises(ValueError, match=r"6 dimensions that are stored, got 8"),
        ):
            Index.build(
                given.vectors[:12],
                config=config,
                path=path,
                progress=lambda task, *_: tasks.append(task),
            )
    assert set(tasks) == {"reading vectors"}


@pytest.fixture(scope="module")
def boxes(given):
    corners = np.random.default_rng(0).uniform(0, 50, (len(given.vectors), 2))
    return np.concatenate([corners, corners + 10], axis=1).astype(np.float32)


def test_boxes_are_kept(given, boxes, tmp_path):
    for path in None, tmp_path / "index":
        index = Index.build(
            given.vectors, given.image_ids, config=CONFIG, boxes=boxes, path=path
        )
        np.testing.assert_array_equal(index.boxes, boxes)
    index.save(tmp_path / "saved")
    np.testing.assert_array_equal(Index.open(tmp_path / "saved").boxes, boxes)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda b: b[1:], r"boxes must be \[\d+, 4\], one x0,y0,x1,y1 per region"),
        (lambda b: b[:, [2, 1, 0, 3]], r"must have x0 < x1 .* in row 0"),
        (lambda b: np.where(np.arange(len(b))[:, None] == 3, np.nan, b), "in row 3"),
    ],
)
def test_boxes_that_are_none_are_refused(
    given, boxes, tmp_path, spoil, complaint, unchecked
):
    for path in None, tmp_path / "index":
        with pytest.raises(ValueError, match=complaint):
            Index.build(
                *(given.vectors, given.image_ids),
                config=CONFIG,
                boxes=spoil(boxes),
                path=path,
            )
