"""Drawing of charts by Matplotlib, with labels clear of lines and points."""

import io
import itertools
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.ticker import MaxNLocator, NullLocator

from ._charts import Chart, Line
from ._figure import DPI, INK

_WIDTH, _HEIGHT = 5.6, 3.9  # In inches: text is legible on a phone's screen.
_GREY, _RULE = "#667085", "#dde1e8"
_COLORS = ("#2a5ca8", "#c8404a", "#12894a", "#7a4a12", "#7b4fa6", "#1d2430")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", (0, (5, 1.8)), (0, (1.5, 1.3)), (0, (6, 1.5, 1.3, 1.5)))
_LEVEL_DASHES = ((0, (2.5, 2.5)), (0, (1.2, 3.2)), (0, (8, 3)), (0, (8, 2, 1, 2)))
_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # Part of Matplotlib.
    "svg.fonttype": "none",  # Keeps text as text.
    "svg.hashsalt": "diffjax",  # Makes the names inside deterministic.
}
# Sides of a point for its label, in the order of preference.
_SIDES = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))


class LabelSpace(NamedTuple):
    """Space for labels in a drawing, in pixels; y grows upwards.

    Attributes:
        bounds: Corners (x0, y0, x1, y1).
        drawn: Points on the lines of the drawing, a few pixels apart.
        markers: Points with markers.
        gap: Distance from a point to its label.
    """

    bounds: tuple[float, float, float, float]
    drawn: Float[np.ndarray, "p 2"]
    markers: Float[np.ndarray, "m 2"]
    gap: float


def place_labels(
    points: Float[np.ndarray, "n 2"], sizes: Float[np.ndarray, "n 2"], space: LabelSpace
) -> Int[np.ndarray, "n 2"]:
    """Chooses a side of its point for each label, one after the other.

    Args:
        points: Points of the labels, in pixels.
        sizes: Widths and heights of the labels, in pixels.
        space: Bounds, and obstacles to avoid.

    Returns:
        For each label -1, 0 or 1 along x and along y: left, centred or right; below,
        level or above.
    """
    taken: list[tuple[float, float, float, float]] = []
    sides = []
    for point, size in zip(points, sizes, strict=True):
        boxes = [_label_box(point, size, side, gap=space.gap) for side in _SIDES]
        best = int(np.argmin([_placement_cost(box, space, taken) for box in boxes]))
        taken.append(boxes[best])
        sides.append(_SIDES[best])
    return np.array(sides, dtype=np.int64).reshape(-1, 2)


def sample_path(
    path: Float[np.ndarray, "n 2"], *, step: float
) -> Float[np.ndarray, "p 2"]:
    """Samples points along a line through `path`, at most `step` apart."""
    segments = [path[:1]]
    for start, end in itertools.pairwise(path):
        count = max(1, int(np.ceil(np.abs(end - start).max() / step)))
        share = np.arange(1, count + 1)[:, None] / count
        segments.append(start + share * (end - start))
    return np.concatenate(segments)


def _label_box(
    point: Float[np.ndarray, "2"],
    size: Float[np.ndarray, "2"],
    side: tuple[int, int],
    *,
    gap: float,
) -> tuple[float, float, float, float]:
    """Computes the corners of a label at one side of its point."""
    direction = np.array(side)
    low = point + direction * gap - (1 - direction) * size / 2
    x0, y0, x1, y1 = (*low, *(low + size))
    return x0, y0, x1, y1


def _placement_cost(
    box: tuple[float, float, float, float],
    space: LabelSpace,
    taken: Sequence[tuple[float, float, float, float]],
) -> float:
    """Rates a position: outside the drawing, on labels, on points, on lines."""
    x0, y0, x1, y1 = space.bounds
    is_outside = box[0] < x0 or box[1] < y0 or box[2] > x1 or box[3] > y1
    on_labels = sum(
        box[0] < right and left < box[2] and box[1] < upper and lower < box[3]
        for left, lower, right, upper in taken
    )
    on_points = _count_inside(space.markers, box, margin=space.gap / 2)
    return (
        1e6 * is_outside
        + 1e4 * on_labels
        + 1e2 * on_points
        + _count_inside(space.drawn, box)
    )


def _count_inside(
    points: Float[np.ndarray, "p 2"],
    box: tuple[float, float, float, float],
    *,
    margin: float = 0.0,
) -> int:
    """Counts the points in a box or nearer to it than `margin`."""
    low, high = np.array(box[:2]) - margin, np.array(box[2:]) + margin
    return int(((low < points) & (points < high)).all(1).sum())


def render_chart(chart: Chart) -> dict[str, bytes]:
    """Draws a validated chart; returns the files by their suffix."""
    files = {}
    # Matplotlib reads some settings from its global state alone: within this context
    # they are its defaults and ours, whatever the user has set.
    with style.context("default"), style.context(_STYLE):
        figure = draw_chart(chart)
        # Without date, Matplotlib's name and version, equal charts are equal files.
        for suffix, metadata in {
            "svg": {"Date": None, "Creator": None, "Title": chart.title},
            "png": {"Software": None},
        }.items():
            file = io.BytesIO()
            figure.savefig(file, format=suffix, dpi=DPI, metadata=metadata)
            files[suffix] = file.getvalue()
    return files


def draw_chart(chart: Chart) -> Figure:
    """Draws title, axes, lines, legend and, where space is left, the labels."""
    figure = Figure(
        figsize=(_WIDTH, _HEIGHT),
        dpi=DPI,
        facecolor="white",
        layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06),  # In inches.
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    keys = [_draw_line(axes, line, number) for number, line in enumerate(chart.lines)]
    for number, level in enumerate(chart.levels):
        dashes = _LEVEL_DASHES[number % len(_LEVEL_DASHES)]
        keys.append(axes.axhline(level.y, color=INK, linewidth=1.1, linestyle=dashes))
    for mark in chart.marks:
        axes.plot(
            *(mark.x, mark.y),
            marker="*",
            markersize=11,
            color=INK,
            markeredgecolor="white",
            zorder=5,
        )
    _style_axes(axes, chart)
    _add_legend(figure, keys, [line.name for line in (*chart.lines, *chart.levels)])
    # Labels avoid everything else, which is laid out before.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    _write_labels(axes, chart)
    return figure


def _draw_line(axes: Axes, line: Line, number: int) -> Artist:
    """Draws a line over its band; returns its artist for the legend."""
    color = _COLORS[number % len(_COLORS)]
    if line.low is not None and line.high is not None:
        ends = line.x, line.low, line.high
        if len(line.x) > 1:
            axes.fill_between(*ends, color=color, alpha=0.14, linewidth=0)
        else:
            axes.vlines(*ends, color=color, linewidth=1)
    (drawn,) = axes.plot(
        *(line.x, line.y),
        color=color,
        linewidth=1.5,
        linestyle=_DASHES[number % len(_DASHES)],
        marker=_MARKERS[number % len(_MARKERS)],
        markersize=5.5,
        # Alternately full and hollow: a difference that is visible in grey.
        markerfacecolor="white" if number % 2 else color,
        markeredgecolor=color,
        zorder=4,
    )
    return drawn


def _style_axes(axes: Axes, chart: Chart) -> None:
    """Sets title, names and ticks of the axes, and thin rules behind the lines."""
    title = textwrap.fill(chart.title, 58)
    axes.set_title(
        title, loc="left", size=10, weight="bold", color=INK, parse_math=False
    )
    axes.set_xlabel(chart.x_label, size=9, color=INK, parse_math=False)
    axes.set_ylabel(chart.y_label, size=9, color=INK, parse_math=False)
    if chart.log_x:
        axes.set_xscale("log")
        ticks = _log_ticks(chart)
        axes.set_xticks(ticks, labels=[_format_tick(tick) for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    elif all(x == round(x) for x in _setting_values(chart)):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if chart.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.05, y=0.1)
    axes.grid(axis="y", color=_RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)
    axes.tick_params(labelsize=8.5, labelcolor=INK, color=_GREY, length=3)


def _log_ticks(chart: Chart) -> list[float]:
    """Chooses ticks among the values of the setting, some distance apart."""
    values = _setting_values(chart)
    min_ratio = (values[-1] / values[0]) ** (1 / 11)
    ticks: list[float] = []
    for value in values:
        if not ticks or value >= min_ratio * ticks[-1]:
            ticks.append(value)
    return ticks


def _setting_values(chart: Chart) -> list[float]:
    """Lists all values of the setting in ascending order."""
    lines = {float(x) for line in chart.lines for x in line.x}
    return sorted(lines | {float(mark.x) for mark in chart.marks})


def _format_tick(number: float) -> str:
    """Formats a number, without an exponent where it is whole."""
    return f"{int(number):,}" if number == int(number) else f"{number:.3g}"


def _add_legend(figure: Figure, keys: Sequence[Artist], names: Sequence[str]) -> None:
    """Adds a legend below the axes, in as many columns as fit."""
    for columns in range(min(4, len(keys)), 0, -1):
        legend = _legend(figure, keys, names, columns=columns)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def _legend(
    figure: Figure, keys: Sequence[Artist], names: Sequence[str], *, columns: int
) -> Legend:
    """Makes a legend without a frame."""
    # Set as labels, names with $ would be formulas and names after _ be left out.
    legend = figure.legend(
        keys,
        list(map(str, range(len(keys)))),
        loc="outside lower left",
        ncols=columns,
        handlelength=3.2,
        columnspacing=1.5,
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(textwrap.fill(name, 60))
        text.set_parse_math(False)
    return legend


def _write_labels(axes: Axes, chart: Chart) -> None:
    """Writes the names of marks and the labels of points beside them."""
    labels = [((m.x, m.y), m.name, INK) for m in chart.marks]
    for number, line in enumerate(chart.lines):
        color = _COLORS[number % len(_COLORS)]
        points = zip(line.x, line.y, strict=True)
        texts = line.labels or [""] * len(line.x)
        labels += [
            (point, text, color) for point, text in zip(points, texts, strict=True)
        ]
    labels = [label for label in labels if label[1]]
    if not labels:
        return
    annotations = [
        axes.annotate(
            text,
            point,
            xytext=(0, 0),
            textcoords="offset points",
            size=7.5,
            color=color,
            parse_math=False,
            zorder=6,
        )
        for point, text, color in labels
    ]
    positions = axes.transData.transform([point for point, *_ in labels])
    sizes = [text.get_window_extent().size for text in annotations]
    gap = 6.0  # In points of 1/72 inch.
    space = _label_space(axes, chart, gap=gap * DPI / 72)
    sides = place_labels(positions, np.array(sizes), space)
    for text, (x, y) in zip(annotations, sides.tolist(), strict=True):
        text.set_position((x * gap, y * gap))
        text.set_horizontalalignment(("center", "left", "right")[x])
        text.set_verticalalignment(("center", "bottom", "top")[y])


def _label_space(axes: Axes, chart: Chart, *, gap: float) -> LabelSpace:
    """Collects the obstacles that labels avoid."""
    to_pixels = axes.transData.transform
    paths = [to_pixels(np.stack([line.x, line.y], 1)) for line in chart.lines]
    marks = to_pixels(_as_points([(mark.x, mark.y) for mark in chart.marks]))
    left, right = axes.get_xlim()
    levels = [to_pixels([(left, lv.y), (right, lv.y)]) for lv in chart.levels]
    x0, y0, x1, y1 = axes.bbox.extents
    return LabelSpace(
        bounds=(x0, y0, x1, y1),
        drawn=np.concatenate([sample_path(path, step=3) for path in (*paths, *levels)]),
        markers=np.concatenate([*paths, marks]),
        gap=gap,
    )


def _as_points(points: Sequence[tuple[float, float]]) -> Float[np.ndarray, "n 2"]:
    """Converts points to an array, also if there are none."""
    return np.array(points, np.float64).reshape(-1, 2)
