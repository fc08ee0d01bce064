"""Tables of mean average precision."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ._layout import Table

# Shares, which are written in percent.
_HEADERS = {"mean_ap": "mAP, %", "recall": "recall, %", "overlap": "overlap, %"}


def mean_ap_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Lays out mean average precision by method, in percent with intervals.

    Args:
        results: One mapping per method: `method`, `mean_ap`, `low` and `high` (95 %
            interval), in [0, 1]; if they were measured, `nearest_mean_ap` (of nearest
            neighbours on the same vectors) and `seconds_per_query`.

    Returns:
        A table; columns that no method has anything for are left out.

    Raises:
        ValueError: If a result lacks one of those, or a value is not in its range.
    """
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "method": lambda result: str(_take(result, "method")),
        "k-NN mAP, %": _nearest,
        "mAP, % [95 % interval]": lambda result: _interval(result, "mean_ap"),
        "time a query": _duration,
    }
    cells = {name: [write(r) for r in results] for name, write in columns.items()}
    optional = {"k-NN mAP, %", "time a query"}
    kept = [name for name in columns if name not in optional or any(cells[name])]
    rows = zip(*(cells[name] for name in kept), strict=True)
    return Table(header=tuple(kept), rows=tuple(rows))


def difference_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Lays out the paired differences between methods, in percent with intervals.

    Args:
        results: As for `mean_ap_table`; what a method is compared with stands in its
            `differences`, each with `against` (the other method), `mean`, `low` and
            `high`, in [-1, 1].

    Returns:
        A table, without rows where nothing is compared.

    Raises:
        ValueError: If a difference lacks one of those, or a value is not in its range.
    """
    rows = []
    for result in results:
        method = str(_take(result, "method"))
        for difference in result.get("differences", ()):
            text = _interval(difference, "mean", least=-1, sign="+")
            rows.append((method, f"{text} from {_take(difference, 'against')}"))
    return Table(("method", "difference in mAP, % [95 % interval]"), tuple(rows))


def measurement_tables(results: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Lays out results that are no methods with intervals, those of one kind together.

    Args:
        results: Mappings; those with `method` and `mean_ap` are for the other tables.
            Columns have the keys' names, underscores as spaces; numbers have three
            digits, `mean_ap`, `recall` and `overlap` are written in percent.

    Returns:
        One table for each set of keys, in the order of the results.

    Example:
        >>> measurement_tables([{"solver": "cg", "mean_ap": 0.5}])[0].rows
        (('cg', '50.0'),)
    """
    kinds: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for result in results:
        if not {"method", "mean_ap"} <= result.keys():
            cells = tuple(_number(name, value) for name, value in result.items())
            kinds.setdefault(tuple(result), []).append(cells)
    return [
        Table(tuple(_HEADERS.get(n, n.replace("_", " ")) for n in names), tuple(rows))
        for names, rows in kinds.items()
    ]


def _number(name: str, value: Any) -> str:
    """Writes a value as its column has it."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if name in _HEADERS:
        return f"{100 * value:.1f}"
    return f"{value:.3g}"


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


def _nearest(result: Mapping[str, Any]) -> str:
    """Writes what nearest neighbours reach, nothing where that was not measured."""
    if "nearest_mean_ap" not in result:
        return ""
    return f"{100 * result['nearest_mean_ap']:.1f}"


def _duration(result: Mapping[str, Any]) -> str:
    """Writes a time in seconds or milliseconds, nothing where there is none."""
    if "seconds_per_query" not in result:
        return ""
    seconds = result["seconds_per_query"]
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.{0 if seconds >= 0.01 else 1}f} ms"
