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
    bands: bool = True,
) -> Line:
    """Draws mAP in percent.

    Args:
        name: Of the line.
        entries: Its points, from `Collection.entry`.
        x: The name of what they are drawn against.
        labels: What stands beside each.
        bands: Whether intervals are drawn; those of methods that answer alike cover
            each other.
    """
    return Line(
        name,
        x=[entry[x] for entry in entries],
        y=[percent(entry["mean_ap"]) for entry in entries],
        low=[percent(entry["low"]) for entry in entries] if bands else None,
        high=[percent(entry["high"]) for entry in entries] if bands else None,
        labels=labels,
    )


def milliseconds(seconds: float) -> str:
    """A time as a point's label."""
    return f"{1000 * seconds:.2g} ms"
