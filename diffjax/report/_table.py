"""Tables of mean average precision."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffjax.report._layout import Table


def mean_ap_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Lays out mean average precision by method, in percent with intervals.

    Args:
        results: One mapping per method: `method`, `mean_ap`, `low` and `high` (95 %
            interval), in [0, 1]; if there is one, `differences`, each
            with `against` (the other method), `mean`, `low` and `high`; if it was
            measured, `seconds_per_query`.

    Returns:
        A table; columns that no method fills are left out.

    Raises:
        ValueError: If a result lacks one of those, or a value is not in its range.
    """
    compared = {
        _take(difference, "against")
        for result in results
        for difference in result.get("differences", ())
    }
    timed = any("seconds_per_query" in result for result in results)
    header = ["method", "mAP, % [95 % interval]"]
    if compared:
        same = f"difference from {next(iter(compared))} [95 % interval]"
        header.append(same if len(compared) == 1 else "difference [95 % interval]")
    if timed:
        header.append("time a query")
    rows = []
    for result in results:
        row = [str(_take(result, "method")), _interval(result, "mean_ap")]
        if compared:
            row.append(_difference(result, name_other=len(compared) > 1))
        if timed:
            row.append(_duration(result))
        rows.append(tuple(row))
    return Table(header=tuple(header), rows=tuple(rows))


def _take(result: Mapping[str, Any], name: str) -> Any:
    """Reads one entry of a result."""
    if name not in result:
        raise ValueError(f"results must have {name!r}, got only {sorted(result)}.")
    return result[name]


def _interval(
    result: Mapping[str, Any], name: str, *, least: int = 0, sign: str = ""
) -> str:
    """Writes a fraction and its interval in percent."""
    values = [_take(result, key) for key in (name, "low", "high")]
    if not all(least <= value <= 1 for value in values):
        raise ValueError(f"{name}, low, high must be in [{least}, 1], got {values}.")
    middle, low, high = (f"{100 * value:{sign}.1f}" for value in values)
    return f"{middle} [{low}, {high}]"


def _difference(result: Mapping[str, Any], *, name_other: bool) -> str:
    """Writes the differences from other methods, nothing where there are none."""
    texts = []
    for difference in result.get("differences", ()):
        text = _interval(difference, "mean", least=-1, sign="+")
        other = f" from {_take(difference, 'against')}" if name_other else ""
        texts.append(text + other)
    return "; ".join(texts)


def _duration(result: Mapping[str, Any]) -> str:
    """Writes a time in seconds or milliseconds, nothing where there is none."""
    if "seconds_per_query" not in result:
        return ""
    seconds = result["seconds_per_query"]
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.{0 if seconds >= 0.01 else 1}f} ms"
