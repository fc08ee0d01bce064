"""Vectors, ids, boxes and queries that are refused, in memory and on disk."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from small_index import CONFIG

from diffjax.index import Index
from diffjax.types import Whitening


def spoiled(vectors, row, value):
    copy = vectors.copy()
    copy[row] = value
    return copy


BAD_VECTORS = {
    "nan": (lambda v: spoiled(v, 3, np.nan), "must be finite, got NaN.*first in row 3"),
    "infinite": (lambda v: spoiled(v, 2, -np.inf), "must be finite.*first in row 2"),
    "zero": (lambda v: spoiled(v, 1, 0), "must have a direction.*first row 1"),
    "doubles": (
        lambda v: v.astype(np.float64),
        "must be float32 here, got float64: convert it, or turn on",
    ),
    "halves": (
        lambda v: v.astype(np.float16),
        r"must be float32 .*got float16 \[.*astype",
    ),
    "integers": (lambda v: (9 * v).astype(np.int32), r"must be float32 .*got int32 \["),
    "short floats": (
        lambda v: jnp.asarray(v, jnp.bfloat16),
        r"must be float32 .*got bfloat16 \[.*astype",
    ),
    "one vector": (
        lambda v: v[0],
        r"must be float32 of shape \[n, d\].* got float32 \[12\]",
    ),
    "three axes": (lambda v: v[None], r"must be float32 .*got float32 \[1, "),
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
    "nan": (lambda v: spoiled(v, 3, np.nan), "got NaN or infinity in row 3"),
    "infinite": (lambda v: spoiled(v, 2, -np.inf), "got NaN or infinity in row 2"),
    "zero": (lambda v: spoiled(v, 1, 0), "got zero in row 1"),
    "doubles": (lambda v: v.astype(np.float64), "must be float32 here, got float64"),
    "integers": (lambda v: (9 * v).astype(np.int32), r"float32 or float16 of shape"),
    "none": (lambda v: v[:0], r"float32 or float16 of shape \[n, d\], got .* \[0, 12"),
    "one vector": (lambda v: v[0], "must be a matrix, got ndarray"),
    "list": (lambda v: v.tolist(), "must be a matrix, got list"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("spoil", "message"), BAD_ON_DISK.values(), ids=BAD_ON_DISK)
def test_bad_vectors_are_refused_on_disk_too(given, tmp_path, spoil, message):
    path = tmp_path / "index"
    with pytest.raises(ValueError, match=f"^vectors .*{message}") as caught:
        Index.build(spoil(given.vectors), config=CONFIG, path=path)
    assert "\n" not in str(caught.value)
    assert not (path / "index.json").exists()


BAD_IDS = {
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
@pytest.mark.parametrize(("spoil", "message"), BAD_IDS.values(), ids=BAD_IDS)
def test_rejects_invalid_ids_with_the_reason(given, index, tmp_path, spoil, message):
    for path in None, tmp_path / "index":
        with pytest.raises(ValueError, match=f"^ids .*{message}"):
            Index.build(given.vectors, spoil(given.image_ids), config=CONFIG, path=path)
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


def test_lists_are_no_vectors(given, unchecked):
    with pytest.raises(ValueError, match="vectors must be an array, got list"):
        Index.build(given.vectors.tolist(), config=CONFIG)


@pytest.mark.usefixtures("x64")
def test_queries_of_another_precision_are_refused(given, index):
    doubles = given.queries.astype(np.float64)
    with pytest.raises(ValueError, match="must be float32 as the index, got float64"):
        index.search(doubles)
    double = Index.build(given.vectors.astype(np.float64), config=CONFIG)
    with pytest.raises(ValueError, match="must be float64 as the index, got float32"):
        double.search(given.queries)


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
