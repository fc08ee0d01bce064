"""Charts of what an experiment measured over one of its settings, as SVG and PNG."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Real

from diffjax._io import write_atomically

Numbers = Sequence[float] | Real[np.ndarray, " n"]


class Line(NamedTuple):
    """What was measured at several values of a setting.

    Attributes:
        name: What to call it in the legend.
        x: Values of the setting, none below the one before it.
        y: What was measured, one number for each of `x`.
        low: Lower ends of the intervals around `y`, drawn as a band; with `high`.
        high: Upper ends.
        labels: What to write beside each point, such as the time it took; "" for
            nothing.
    """

    name: str
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None
    labels: Sequence[str] | None = None


class HorizontalLine(NamedTuple):
    """What does not depend on the setting, drawn as a horizontal line.

    Attributes:
        name: What to call it in the legend.
        y: Its height.
    """

    name: str
    y: float


class MarkedPoint(NamedTuple):
    """One point that stands for itself.

    Attributes:
        name: What to write beside it.
        x: Its place along the setting's axis.
        y: Its height.
    """

    name: str
    x: float
    y: float


class Chart(NamedTuple):
    """Lines over one setting.

    Attributes:
        title: Above the chart; what bands and labels are is for a caption to say.
        x_label: The setting.
        y_label: What was measured, and in which unit.
        lines: One at least.
        levels: Horizontal lines to compare them with.
        marks: Single points to compare them with.
        log_x: Whether the setting's axis is logarithmic.
        log_y: Whether the axis of what was measured is logarithmic.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    levels: Sequence[HorizontalLine] = ()
    marks: Sequence[MarkedPoint] = ()
    log_x: bool = False
    log_y: bool = False


def write_chart(path: str | os.PathLike[str], chart: Chart) -> None:
    """Draws a chart as PATH.svg, its text kept as text, and as PATH.png.

    Equal charts give equal files. Lines differ in marker and dash as well as in
    colour, so that a grey print tells them apart.

    Args:
        path: Where to, without the files' suffix; written aside and renamed.
        chart: What to draw.

    Raises:
        ValueError: If there are no lines, those of one line's numbers differ in length
            or are not finite, x decreases, an interval has one end or its ends are
            swapped, a logarithmic axis gets a number that is not positive, or `path`
            has a suffix already. Nothing is written then.
    """
    path = pathlib.Path(path)
    if path.suffix in {".svg", ".png"}:
        raise ValueError(f"path must be without {path.suffix}, got {str(path)!r}.")
    chart = _check_chart(chart)
    # Matplotlib takes longer to import than all the rest of this stage.
    from experiments.reporting import _plot  # noqa: PLC0415

    for suffix, data in _plot.render_chart(chart).items():
        write_atomically(path.with_name(f"{path.name}.{suffix}"), data)


def _check_chart(chart: Chart) -> Chart:
    """The chart with arrays for its numbers, or a ValueError."""
    if not chart.lines:
        raise ValueError("lines must hold at least one line, got none.")
    lines = tuple(map(_check_line, chart.lines))
    others = [*(level.y for level in chart.levels), *(m.y for m in chart.marks)]
    _finite_array([*others, *(mark.x for mark in chart.marks)], "levels and marks")
    places = [*(x for line in lines for x in line.x), *(m.x for m in chart.marks)]
    if chart.log_x and min(places) <= 0:
        raise ValueError(f"x must be above 0 where log_x is set, got {min(places)}.")
    heights = [*(y for line in lines for y in line.y), *others[: len(chart.levels)]]
    heights += [mark.y for mark in chart.marks]
    heights += [y for line in lines if line.low is not None for y in line.low]
    if chart.log_y and min(heights) <= 0:
        raise ValueError(f"y must be above 0 where log_y is set, got {min(heights)}.")
    return chart._replace(lines=lines)


def _check_line(line: Line) -> Line:
    """The line with arrays for its numbers, or a ValueError that names it."""
    name = f"of line {line.name!r}"
    if (line.low is None) != (line.high is None):
        raise ValueError(f"low and high {name} must be given together, got one.")
    given = {
        key: _finite_array(numbers, f"{key} {name}")
        for key in ("x", "y", "low", "high")
        if (numbers := getattr(line, key)) is not None
    }
    lengths = {key: len(numbers) for key, numbers in given.items()}
    if line.labels is not None:
        lengths["labels"] = len(line.labels)
    if len(set(lengths.values())) > 1 or lengths["x"] == 0:
        raise ValueError(f"numbers {name} must be as many as x, got {lengths}.")
    if (np.diff(given["x"]) < 0).any():
        raise ValueError(f"x {name} must not decrease, got {given['x']}.")
    if "low" in given and (given["low"] > given["high"]).any():
        raise ValueError(f"low {name} must not be above high, got {given['low']}.")
    return line._replace(**given)


def _finite_array(numbers: Numbers, name: str) -> Float[np.ndarray, " n"]:
    """Numbers as an array."""
    array = np.asarray(numbers, np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"{name} must be a row of finite numbers, got {numbers}.")
    return array


def to_percent(share: float) -> float:
    """A share in percent."""
    return 100 * share


def mean_ap_line(
    name: str,
    entries: Sequence[Mapping[str, Any]],
    x: str,
    *,
    labels: Sequence[str] | None = None,
    bands: bool = True,
) -> Line:
    """Draws mAP in percent.

    Args:
        name: Of the line.
        entries: Its points, from `Collection.make_entry`.
        x: The name of what they are drawn against.
        labels: What stands beside each.
        bands: Whether intervals are drawn; those of methods that answer alike cover
            each other.
    """
    return Line(
        name,
        x=[entry[x] for entry in entries],
        y=[to_percent(entry["mean_ap"]) for entry in entries],
        low=[to_percent(entry["low"]) for entry in entries] if bands else None,
        high=[to_percent(entry["high"]) for entry in entries] if bands else None,
        labels=labels,
    )


def format_milliseconds(seconds: float) -> str:
    """A time as a point's label."""
    return f"{1000 * seconds:.2g} ms"
