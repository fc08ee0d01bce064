import re
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import PIL.Image
import pytest

from experiments.reporting import _plot
from experiments.reporting._charts import (
    Chart,
    HorizontalLine,
    Line,
    MarkedPoint,
    write_chart,
)

# Two lines with intervals and labels over k, levels and a mark.
K, BELOW, ABOVE = (5, 10, 20), (48, 57, 60), (52, 62, 65)
LOW = Line("global", K, (50, 60, 62.5), BELOW, ABOVE)
HIGH = Line("regional", (5, 10, 20), (70, 75, 80), labels=("9 ms", "12 ms", ""))
CHART = Chart(
    *("Neighbours", "k", "mAP, %"),
    lines=(LOW, HIGH),
    levels=(HorizontalLine("k-NN", 47.7), HorizontalLine("R-match", 55.5)),
    marks=(MarkedPoint("all regions", 21, 82),),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder of a chart that was written twice, once under other settings."""
    folder = tmp_path_factory.mktemp("charts")
    write_chart(folder / "a", CHART)
    with mpl.rc_context({"axes.linewidth": 5, "svg.fonttype": "path"}):
        write_chart(folder / "b", CHART)
        assert mpl.rcParams["axes.linewidth"] == 5
    return folder


@pytest.fixture
def svg(tmp_path):
    """Writes a chart and reads its SVG file."""

    def write_and_read(chart):
        write_chart(tmp_path / "chart", chart)
        return (tmp_path / "chart.svg").read_text()

    return write_and_read


@pytest.fixture
def axes():
    """Draws a chart and gives its axes."""

    def draw(chart):
        return _plot.draw_chart(chart).axes[0]

    return draw


def texts(svg):
    """Texts of an SVG file, in order."""
    return re.findall(r"<text[^>]*>([^<]+)</text>", svg)


def test_chart_is_written_as_svg_and_png_beside_each_other(files):
    assert {f.name for f in files.iterdir()} == {"a.svg", "a.png", "b.svg", "b.png"}
    with PIL.Image.open(files / "a.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == (896, 624)  # 5.6 by 3.9 inches of 160 dots.


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_equal_charts_are_equal_files_under_any_settings_of_the_user(files, suffix):
    first, second = ((files / f"{name}.{suffix}").read_bytes() for name in "ab")
    assert first == second
    assert b"atplotlib v" not in first  # Nor do they depend on who draws them.
    assert b"<dc:date>" not in first


def test_text_of_the_svg_is_text(files):
    svg = (files / "a.svg").read_text()
    wanted = {"Neighbours", "k", "mAP, %", "global", "regional", "k-NN", "R-match"}
    assert wanted | {"all regions", "9 ms", "12 ms"} <= set(texts(svg))
    assert "<title>Neighbours</title>" in svg


def test_names_are_plain_text_whatever_they_hold(svg):
    names = ["$x_1$ & <y>", "_hidden", r"a\b"]
    lines = [LOW._replace(name=name) for name in names]
    labels = ["$1$", "2$", "$"]
    shown = svg(
        Chart(names[0], names[1], names[2], [*lines, HIGH._replace(labels=labels)])
    )
    escaped = ["$x_1$ &amp; &lt;y&gt;", "_hidden", r"a\b"]
    assert all(texts(shown).count(name) == 2 for name in escaped)
    assert set(labels) <= set(texts(shown))


def test_lines_go_through_their_points_inside_their_bands(axes):
    drawn = axes(CHART)
    for line, wanted in zip(drawn.lines[:2], (LOW, HIGH), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), wanted.x)
        np.testing.assert_array_equal(line.get_ydata(), wanted.y)
    (band,) = drawn.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
    assert corners == {
        (x, y) for ends in (BELOW, ABOVE) for x, y in zip(K, ends, strict=True)
    }


def test_levels_are_horizontal_across_the_whole_axis(axes):
    levels = axes(CHART).lines[2:4]
    assert [line.get_ydata()[0] for line in levels] == [47.7, 55.5]
    for line in levels:
        assert line.get_ydata()[0] == line.get_ydata()[1]
        assert line.get_xdata() == [0, 1]  # Shares of the width.


def test_lines_and_levels_differ_by_more_than_colour(axes):
    eight = tuple(LOW._replace(name=str(number)) for number in range(8))
    levels = tuple(HorizontalLine(str(number), number) for number in range(4))
    drawn = axes(CHART._replace(lines=eight, levels=levels, marks=())).lines
    looks = {(str(line.get_marker()), str(line._dash_pattern)) for line in drawn}
    assert len(looks) == 12


@pytest.mark.parametrize("log_x", [False, True])
def test_labels_are_beside_their_points_and_overlap_nothing(axes, log_x):
    # Two lines that meet: six of the labels are where the lines are close.
    x = (2, 5, 10, 20, 50, 100)
    rising = Line("a", x, (48, 54, 60, 67, 74, 80), labels=list("abcdef"))
    steep = Line("b", x, (60, 70, 77, 80, 80, 80), labels=list("ghijkl"))
    drawn = axes(Chart("t", "x", "y", [rising, steep], log_x=log_x))
    boxes = [text.get_window_extent() for text in drawn.texts]
    assert [text.get_text() for text in drawn.texts] == list("abcdefghijkl")
    for number, (box, text) in enumerate(zip(boxes, drawn.texts, strict=True)):
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert (drawn.bbox.min <= box.min).all()
        assert (box.max <= drawn.bbox.max).all()
        point = drawn.transData.transform(text.xy)
        away = np.maximum(box.min - point, point - box.max).max()
        assert 10 < away < 16  # 6 points are 13 pixels of 1/160 inch.


def test_logarithmic_axis_has_the_values_that_were_tried_as_ticks(axes):
    x = (5, 10, 20, 50, 1000, 1001)
    line = Line("a", x, range(6))
    drawn = axes(Chart("t", "x", "y", [line], log_x=True))
    assert drawn.get_xscale() == "log"
    # 1,001 has no room beside 1,000.
    texts = [text.get_text() for text in drawn.get_xticklabels()]
    assert texts == ["5", "10", "20", "50", "1,000"]


def test_both_axes_may_be_logarithmic(axes):
    line = Line("a", (1, 10, 100), (2, 20, 200), labels=list("abc"))
    drawn = axes(Chart("t", "x", "y", [line], log_x=True, log_y=True))
    assert (drawn.get_xscale(), drawn.get_yscale()) == ("log", "log")
    # A power law is a straight line.
    shown = drawn.transData.transform(np.stack([line.x, line.y], 1))
    np.testing.assert_allclose(shown[1], (shown[0] + shown[2]) / 2)


def test_whole_settings_have_whole_ticks(axes):
    drawn = axes(Chart("t", "components", "y", [Line("a", (1, 2, 3), (1, 2, 3))]))
    assert all(tick == round(tick) for tick in drawn.get_xticks())


def test_a_logarithmic_height_is_drawn_as_one(axes):
    drawn = axes(Chart("t", "x", "y", [Line("a", (1, 2), (1, 100))], log_y=True))
    assert drawn.get_yscale() == "log"
    assert drawn.get_xscale() == "linear"


def test_long_names_are_wrapped_inside_the_figure(svg, tmp_path):
    names = [f"a rather long name of a method, the {i}th" for i in range(6)]
    lines = [LOW._replace(name=name) for name in names]
    shown = svg(Chart(" ".join(["word"] * 30), "x", "y", lines))
    assert set(names) <= set(texts(shown))
    with PIL.Image.open(tmp_path / "chart.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    edges = pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]
    assert all((edge == 255).all() for edge in edges)


def test_one_point_with_an_interval_is_drawn(axes):
    drawn = axes(Chart("t", "x", "y", [Line("a", [3], [0.5], [0.4], [0.6])]))
    ((segment,),) = [bar.get_segments() for bar in drawn.collections]
    np.testing.assert_array_equal(segment, [(3, 0.4), (3, 0.6)])


def test_integer_arrays_can_be_drawn(svg):
    assert svg(Chart("t", "x", "y", [Line("a", np.arange(1, 4), np.ones(3))]))


def with_line(**changed):
    """The chart with one line, changed."""
    return CHART._replace(lines=(LOW._replace(**changed),))


@pytest.mark.parametrize(
    ("chart", "rule"),
    [
        (CHART._replace(lines=()), "lines must hold at least one line"),
        (with_line(y=(1, 2)), "numbers of line 'global' must be as many as x"),
        (with_line(labels=["a"]), "numbers of line 'global' must be as many as x"),
        (with_line(low=(1,)), "numbers of line 'global' must be as many as x"),
        (CHART._replace(lines=(Line("a", [], []),)), "must be as many as x"),
        (with_line(y=(1, float("nan"), 2)), "y of line 'global' must be a row of fin"),
        (with_line(high=(1, float("inf"), 2)), "high of line 'global' must be a row"),
        (with_line(x=(5, 4, 6)), "x of line 'global' must not decrease"),
        (with_line(high=None), "low and high of line 'global' must be given toge"),
        (with_line(low=(60, 70, 80)), "low of line 'global' must not be above high"),
        (
            CHART._replace(levels=[HorizontalLine("a", np.nan)]),
            "levels and marks must be a",
        ),
        (
            CHART._replace(marks=[MarkedPoint("a", np.inf, 1)]),
            "levels and marks must be a",
        ),
        (with_line(y=(0, 1, 2))._replace(log_y=True), "y must be above 0 where log_y"),
        (with_line(x=(0, 1, 2))._replace(log_x=True), "x must be above 0 where log_x"),
        (with_line(y=(1, 0, 2), low=None, high=None)._replace(log_y=True), "y must be"),
        (
            CHART._replace(levels=[HorizontalLine("a", -1)], log_y=True),
            "y must be above 0",
        ),
        (
            CHART._replace(marks=[MarkedPoint("a", -1, 1)], log_x=True),
            "x must be above 0 where log_x",
        ),
    ],
)
def test_bad_charts_are_refused_and_nothing_is_written(tmp_path, chart, rule):
    with pytest.raises(ValueError, match=rule):
        write_chart(tmp_path / "chart", chart)
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_not_one_dimensional_are_refused(tmp_path, unchecked):
    with pytest.raises(ValueError, match="x of line 'global' must be a row of finite"):
        write_chart(tmp_path / "chart", with_line(x=((1, 2, 3),)))


def test_path_with_a_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"path must be without \.svg"):
        write_chart(tmp_path / "chart.svg", CHART)


def test_other_dots_in_a_name_are_part_of_it(tmp_path):
    write_chart(tmp_path / "figure.2", CHART)
    assert {f.name for f in tmp_path.iterdir()} == {"figure.2.svg", "figure.2.png"}


def test_drawing_imports_no_pyplot_and_importing_no_matplotlib(tmp_path):
    code = (
        "import sys\n"
        "from experiments.reporting import _charts as c\n"
        "assert 'matplotlib' not in sys.modules\n"
        "c.write_chart(sys.argv[1], c.Chart('t', 'x', 'y', [c.Line('a', [1], [2])]))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "chart")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
