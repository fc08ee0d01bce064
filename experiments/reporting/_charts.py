"""Charts of measurements over one setting, as SVG and PNG."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Real

from diffjax._io import write_atomically

Numbers = Sequence[float] | Real[np.ndarray, " n"]


class Line(NamedTuple):
    """Measurements at several values of a setting.

    Attributes:
        name: Name in the legend.
        x: Values of the setting, in ascending order.
        y: Measurements, one for each of `x`.
        low: Lower ends of the intervals around `y`, drawn as a band; with `high`.
        high: Upper ends.
        labels: Text beside each point, such as a time; "" for none.
    """

    name: str
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None
    labels: Sequence[str] | None = None


class HorizontalLine(NamedTuple):
    """Measurement that does not depend on the setting, a horizontal line.

    Attributes:
        name: Name in the legend.
        y: Height of the line.
    """

    name: str
    y: float


class MarkedPoint(NamedTuple):
    """Single point with its name beside it.

    Attributes:
        name: Text beside the point.
        x: Value of the setting.
        y: Measurement.
    """

    name: str
    x: float
    y: float


class Chart(NamedTuple):
    """Chart of lines over one setting.

    Attributes:
        title: Title; a caption should explain bands and labels.
        x_label: Name of the setting.
        y_label: Name of the measurement, with its unit.
        lines: One line at least.
        levels: Horizontal lines to compare with.
        marks: Single points to compare with.
        log_x: Whether the setting's axis is logarithmic.
        log_y: Whether the measurement's axis is logarithmic.
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
    """Writes a chart as PATH.svg, with text as text, and as PATH.png.

    Equal charts give equal files. Lines differ in marker and dash as well as in
    colour, for prints in grey.

    Args:
        path: Path without suffix; files are written atomically.
        chart: The chart.

    Raises:
        ValueError: If there are no lines, the numbers of a line differ in length or are
            not finite, x decreases, an interval has one end or swapped ends, a
            logarithmic axis has a number that is not positive, or `path` has a suffix
            already. Nothing is written then.
    """
    path = pathlib.Path(path)
    if path.suffix in {".svg", ".png"}:
        raise ValueError(f"path must be without {path.suffix}, got {str(path)!r}.")
    chart = _check_chart(chart)
    # Deferred: Matplotlib takes long to import, and `_plot` imports this module.
    from experiments.reporting import _plot  # noqa: PLC0415

    for suffix, data in _plot.render_chart(chart).items():
        write_atomically(path.with_name(f"{path.name}.{suffix}"), data)


def _check_chart(chart: Chart) -> Chart:
    """Validates a chart and converts its numbers to arrays."""
    if not chart.lines:
        raise ValueError("lines must hold at least one line, got none.")
    lines = tuple(map(_check_line, chart.lines))
    heights = [*(level.y for level in chart.levels), *(m.y for m in chart.marks)]
    _finite_array([*heights, *(mark.x for mark in chart.marks)], "levels and marks")
    values = [*(x for line in lines for x in line.x), *(m.x for m in chart.marks)]
    if chart.log_x and min(values) <= 0:
        raise ValueError(f"x must be above 0 where log_x is set, got {min(values)}.")
    heights += [y for line in lines for y in line.y]
    heights += [y for line in lines if line.low is not None for y in line.low]
    if chart.log_y and min(heights) <= 0:
        raise ValueError(f"y must be above 0 where log_y is set, got {min(heights)}.")
    return chart._replace(lines=lines)


def _check_line(line: Line) -> Line:
    """Validates a line and converts its numbers to arrays; errors name the line."""
    name = f"of line {line.name!r}"
    if (line.low is None) != (line.high is None):
        raise ValueError(f"low and high {name} must be given together, got one.")
    arrays = {
        key: _finite_array(numbers, f"{key} {name}")
        for key in ("x", "y", "low", "high")
        if (numbers := getattr(line, key)) is not None
    }
    lengths = {key: len(numbers) for key, numbers in arrays.items()}
    if line.labels is not None:
        lengths["labels"] = len(line.labels)
    if len(set(lengths.values())) > 1 or lengths["x"] == 0:
        raise ValueError(f"numbers {name} must be as many as x, got {lengths}.")
    if (np.diff(arrays["x"]) < 0).any():
        raise ValueError(f"x {name} must not decrease, got {arrays['x']}.")
    if "low" in arrays and (arrays["low"] > arrays["high"]).any():
        raise ValueError(f"low {name} must not be above high, got {arrays['low']}.")
    return line._replace(**arrays)


def _finite_array(numbers: Numbers, name: str) -> Float[np.ndarray, " n"]:
    """Converts finite numbers to an array."""
    array = np.asarray(numbers, np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"{name} must be a row of finite numbers, got {numbers}.")
    return array


def to_percent(share: float) -> float:
    """Converts a share to percent."""
    return 100 * share


def mean_ap_line(
    name: str,
    entries: Sequence[Mapping[str, Any]],
    x: str,
    *,
    labels: Sequence[str] | None = None,
    bands: bool = True,
) -> Line:
    """Makes a line of mAP in percent.

    Args:
        name: Name of the line.
        entries: Its points, from `Collection.make_entry`.
        x: Key of the setting in the entries.
        labels: Text beside each point.
        bands: Whether to draw intervals; those of similar methods would overlap.
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
    """Formats a time as a point's label."""
    return f"{1000 * seconds:.2g} ms"
