"""Entries of a record as lines of a chart."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffjax.report import Line


def percent(share: float) -> float:
    """A share in percent."""
    return 100 * share


def line(
    name: str,
    entries: Sequence[Mapping[str, Any]],
    x: str,
    *,
    labels: Sequence[str] | None = None,
) -> Line:
    """Draws mAP in percent, with intervals where there are some.

    Args:
        name: Of the line.
        entries: Its points, from `Collection.entry`.
        x: The name of what they are drawn against.
        labels: What stands beside each.
    """
    bounded = all("low" in entry for entry in entries)
    return Line(
        name,
        x=[entry[x] for entry in entries],
        y=[percent(entry["mean_ap"]) for entry in entries],
        low=[percent(entry["low"]) for entry in entries] if bounded else None,
        high=[percent(entry["high"]) for entry in entries] if bounded else None,
        labels=labels,
    )


def milliseconds(seconds: float) -> str:
    """A time as a point's label."""
    return f"{1000 * seconds:.2g} ms"
