"""R-MAC grid and boxes."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diffjax.regions._grid import (
    boxes_to_cells,
    cells_to_boxes,
    max_regions,
    region_boxes,
    rmac_grid,
)

sides = st.integers(1, 48)


def extra_squares(short, long):
    """The e whose overlap of neighbours at scale 1 is nearest to 0.4, exactly."""
    if short == long:
        return {0}
    miss = {
        e: abs(1 - Fraction(long - short, e * short) - Fraction(2, 5))
        for e in range(1, 7)
    }
    return {e for e in miss if miss[e] == min(miss.values())}


def published_grid(height, width, extra, scales=3):
    """The grid in floating point, with centres, as the paper's authors wrote it."""
    short = min(height, width)
    regions = {(0, 0, height, width)}
    for scale in range(1, scales + 1):
        side = math.floor(2 * short / (scale + 1))
        half = math.floor(side / 2 - 1)

        def starts(length, more, scale=scale, side=side, half=half):
            count = scale + more
            step = (length - side) / (count - 1) if count > 1 else 0
            return [math.floor(half + i * step) - half for i in range(count)]

        if side > 0:
            regions |= {
                (y, x, y + side, x + side)
                for y in starts(height, extra if height > width else 0)
                for x in starts(width, extra if width > height else 0)
            }
    return regions


@settings(deadline=None)
@given(sides, sides, st.integers(1, 5))
def test_the_grid_is_the_published_one_without_repeats(height, width, scales):
    got = rmac_grid(height, width, scales=scales)
    extras = extra_squares(min(height, width), max(height, width))
    assert set(map(tuple, got.tolist())) in [
        published_grid(height, width, e, scales) for e in extras
    ]
    assert len(np.unique(got, axis=0)) == len(got)


@pytest.mark.parametrize(
    ("height", "width", "count"),
    [
        # e squares more along the longer side: 1 (1 + e) + 2 (2 + e) + 3 (3 + e).
        (10, 10, 1 + 4 + 9),  # e = 0, and scale 1 is the whole map, kept once.
        (9, 12, 1 + 2 + 6 + 12),  # e = 1: overlap 1 - 3 / 9 = 0.67 is the nearest.
        (12, 9, 1 + 2 + 6 + 12),
        (30, 60, 1 + 3 + 8 + 15),  # e = 2: overlap 1 - (30 / 2) / 30 = 0.5.
        # side 1, 0, 0 and e = 6: step 4 / 6, so starts 0 0 1 2 2 3 4, five of them.
        (1, 5, 1 + 5),
        (1, 1, 1),
    ],
)
def test_known_numbers_of_regions(height, width, count):
    assert len(rmac_grid(height, width)) == count


@pytest.mark.parametrize(
    ("height", "width", "extra"), [(30, 30, 0), (30, 40, 1), (40, 30, 1), (30, 60, 2)]
)
@pytest.mark.parametrize("scales", range(1, 6))
def test_scale_l_adds_l_times_l_plus_e_regions(height, width, extra, scales):
    # Sides 30, 20, 15, 12 and 10 differ, so nothing falls together but scale 1 of a
    # square map and the map. 4:3 gives 3, 9, 21, 41, 71; a square 1, 5, 14, 30, 55.
    squares = sum(scale * (scale + extra) for scale in range(1, scales + 1))
    whole = 1 if extra else 0
    assert len(rmac_grid(height, width, scales=scales)) == whole + squares


def test_a_small_grid_by_hand_with_its_order():
    # 3 x 4 cells, e = 1. Sides 3, 2, 1; e.g. scale 2: rows 0, 1; columns 0, 1, 2.
    whole = [[0, 0, 3, 4]]
    first = [[0, x, 3, x + 3] for x in (0, 1)]
    second = [[y, x, y + 2, x + 2] for y in (0, 1) for x in (0, 1, 2)]
    third = [[y, x, y + 1, x + 1] for y in (0, 1, 2) for x in (0, 1, 2, 3)]
    np.testing.assert_array_equal(rmac_grid(3, 4), whole + first + second + third)


@settings(deadline=None)
@given(sides, sides)
def test_turning_the_map_turns_the_grid(height, width):
    turned = rmac_grid(width, height)[:, [1, 0, 3, 2]]
    assert set(map(tuple, turned)) == set(map(tuple, rmac_grid(height, width)))


@settings(deadline=None)
@given(sides, sides)
@example(62, 2)  # Here the published division slips and loses the last row.
def test_regions_lie_inside_and_every_scale_reaches_all_four_edges(height, width):
    grid = rmac_grid(height, width)
    np.testing.assert_array_equal(grid[0], [0, 0, height, width])
    assert (grid[:, :2] >= 0).all()
    assert (grid[:, :2] < grid[:, 2:]).all()
    assert (grid[:, 2:] <= [height, width]).all()
    sizes = grid[:, 2:] - grid[:, :2]
    for scale in (1, 2, 3):
        side = 2 * min(height, width) // (scale + 1)
        squares = grid[(sizes == side).all(1)]
        if side > 0:
            assert squares[:, :2].min(0).tolist() == [0, 0]
            assert squares[:, 2:].max(0).tolist() == [height, width]


@settings(deadline=None)
@given(st.integers(6, 48), st.integers(6, 48))
def test_no_cell_is_missed_at_any_scale_on_ordinary_maps(height, width):
    short, long = min(height, width), max(height, width)
    if long > 2 * short:
        return
    grid = rmac_grid(height, width)
    for scale in (1, 2, 3):
        side = 2 * short // (scale + 1)
        covered = np.zeros((height, width), bool)
        for y0, x0, y1, x1 in grid[((grid[:, 2:] - grid[:, :2]) == side).all(1)]:
            covered[y0:y1, x0:x1] = True
        # Steps are rounded down, so one cell may stay free where squares just touch.
        assert covered.mean() >= 1 - 1 / short


def test_fewer_scales_are_the_beginning_of_more():
    assert len(rmac_grid(9, 12, scales=0)) == 1
    assert len(rmac_grid(9, 12, scales=1)) == 3
    np.testing.assert_array_equal(
        rmac_grid(9, 12, scales=2), rmac_grid(9, 12, scales=3)[:9]
    )
    np.testing.assert_array_equal(
        rmac_grid(30, 40, scales=3), rmac_grid(30, 40, scales=5)[:21]
    )


def test_maps_and_scales_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="height and width must be at least 1"):
        rmac_grid(0, 5)
    with pytest.raises(ValueError, match="scales must be at least 0, got -1"):
        rmac_grid(5, 5, scales=-1)


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
