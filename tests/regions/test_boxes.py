import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.regions._boxes import (
    boxes_to_cells,
    cells_to_boxes,
    max_regions,
    region_boxes,
)
from diffjax.regions._grid import rmac_grid

SIZES = np.array([[320, 320], [320, 96], [320, 256]], np.int32)


def test_boxes_follow_the_size_without_padding():
    sizes = np.array([[320, 320], [320, 240], [300, 231]], np.int32)
    got = region_boxes(sizes, stride=32, max_regions=25)
    # 240 / 32 = 7.5 and 231 / 32 = 7.2 are eight cells, 300 / 32 = 9.4 ten.
    for boxes, count, size in zip(*got, [(10, 10), (10, 8), (10, 8)], strict=True):
        np.testing.assert_array_equal(boxes[:count], rmac_grid(*size))
        np.testing.assert_array_equal(boxes[count:], 0)


@pytest.mark.parametrize("scales", [0, 3, 5])
def test_the_largest_number_of_regions_is_what_boxes_need(scales):
    most = max_regions(SIZES, stride=32, scales=scales)
    got = region_boxes(SIZES, stride=32, max_regions=most, scales=scales)
    assert got.counts.max() == most
    np.testing.assert_array_equal(
        got.boxes[0, : got.counts[0]], rmac_grid(10, 10, scales=scales)
    )
    with pytest.raises(
        ValueError, match=f"max_regions must be at least {most} .*320 x"
    ):
        region_boxes(SIZES, stride=32, max_regions=most - 1, scales=scales)


def test_sizes_of_maps_have_stride_one():
    cells = -(-SIZES // 32)
    np.testing.assert_array_equal(
        region_boxes(cells, stride=1, max_regions=39).boxes,
        region_boxes(SIZES, stride=32, max_regions=39).boxes,
    )


def test_no_pictures_have_no_boxes():
    got = region_boxes(np.zeros((0, 2), np.int32), stride=32, max_regions=4)
    assert got.boxes.shape == (0, 4, 4)


@pytest.mark.parametrize(
    ("box", "cells"),
    [
        ((0.0, 0, 100, 70), (0, 0, 3, 4)),  # The whole of 100 x 70 px: 4 x 3 cells.
        ((33, 2, 36, 5), (0, 1, 1, 2)),  # Three pixels inside one cell.
        ((31, 2, 34, 5), (0, 0, 1, 2)),  # Three pixels across an edge.
        ((32, 32, 64, 64), (1, 1, 2, 2)),  # Edge to edge: just that cell.
        ((31.9, 32, 64.1, 64), (1, 0, 2, 3)),  # Parts of a pixel count.
        ((-9, -9, 1, 500), (0, 0, 3, 1)),  # Beyond the picture: to its edge.
        ((99, 69, 100, 70), (2, 3, 3, 4)),  # The last pixel.
        (
            (0, 0, 5e-324, 5e-324),
            (0, 0, 1, 1),
        ),  # The smallest number: a part of 1 / 32.
    ],
)
def test_pixels_become_the_cells_they_touch(box, cells):
    got = boxes_to_cells(np.array([box], np.float64), (70, 100), stride=32)
    np.testing.assert_array_equal(got, [cells])
    assert got.dtype == np.int32


def test_pixels_beyond_a_map_that_was_rounded_down_belong_to_its_last_cells():
    box = np.array([[97.0, 65.0, 100.0, 70.0]], np.float32)
    got = boxes_to_cells(box, (70, 100), stride=32, cells=(2, 3))
    np.testing.assert_array_equal(got, [[1, 2, 2, 3]])


def test_cells_become_their_pixels_up_to_the_edge():
    cells = np.array([[0, 0, 3, 4], [1, 1, 2, 2], [0, 0, 0, 0]], np.int32)
    got = cells_to_boxes(cells, stride=32, size=(70, 100))
    np.testing.assert_array_equal(
        got, [[0, 0, 100, 70], [32, 32, 64, 64], [0, 0, 0, 0]]
    )


@settings(deadline=None, max_examples=100)
@given(st.data(), st.integers(1, 300), st.integers(1, 300), st.integers(1, 40))
def test_boxes_hold_what_was_asked_for_and_come_back_unchanged(
    data, height, width, stride
):
    def side(length):
        ends = st.floats(-10, length + 10, width=32)
        low, high = sorted(data.draw(st.tuples(ends, ends)))
        return max(low, -10.0), high

    (y0, y1), (x0, x1) = side(height), side(width)
    if min(x1 - x0, y1 - y0) <= 0 or min(x1, y1) <= 0 or x0 >= width or y0 >= height:
        return
    boxes = np.array([[x0, y0, x1, y1]], np.float32)
    cells = boxes_to_cells(boxes, (height, width), stride=stride)
    assert (cells[:, :2] >= 0).all()
    assert (cells[:, :2] < cells[:, 2:]).all()
    assert (cells[:, 2:] <= [-(-height // stride), -(-width // stride)]).all()
    around = cells_to_boxes(cells, stride=stride, size=(height, width))
    inside = np.clip(boxes, 0, [width, height] * 2)
    assert (around[:, :2] <= inside[:, :2]).all()
    assert (around[:, 2:] >= inside[:, 2:]).all()
    assert (np.abs(around - inside) <= stride).all()
    again = boxes_to_cells(around, (height, width), stride=stride)
    np.testing.assert_array_equal(again, cells)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((5, 5, 5, 9), r"boxes must have an area.*got \[5.0, 5.0, 5.0, 9.0\] in row 1"),
        ((5, 9, 7, 5), "boxes must have an area"),
        ((100, 5, 120, 9), "boxes must share pixels .* 70 x 100 px .* in row 1"),
        ((5, -8, 9, 0), "boxes must share pixels"),
        ((5, 5, np.nan, 9), "boxes must be finite, got .*nan.* in row 1"),
        ((5, 5, np.inf, 9), "boxes must be finite"),
    ],
)
def test_boxes_that_cannot_be_are_refused_with_their_row(box, message):
    boxes = np.array([(0, 0, 9, 9), box], np.float32)
    with pytest.raises(ValueError, match=message):
        boxes_to_cells(boxes, (70, 100), stride=32)


def test_no_boxes_are_no_cells():
    none = np.zeros((0, 4), np.float32)
    assert boxes_to_cells(none, (70, 100), stride=32).shape == (0, 4)
