"""Tables of results: mean average precision, differences, measurements."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Table(NamedTuple):
    """Text in rows and columns.

    Attributes:
        header: Name of each column.
        rows: As many cells in each row as there are columns.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Writes a markdown table, its columns aligned in the source as well.

    The first column stands to the left, the others, being numbers, to the right.

    Raises:
        ValueError: If `header` is empty or a row has another number of cells.
    """
    lines = _pad_columns(
        *([escape_markdown(cell) for cell in row] for row in [header, *rows])
    )
    widths = [len(cell) for cell in lines[0]]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "".join(f"| {' | '.join(line)} |\n" for line in [lines[0], rule, *lines[1:]])


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Writes a table in plain text, aligned like `markdown_table`.

    Raises:
        ValueError: If `header` is empty or a row has another number of cells.
    """
    lines = _pad_columns(header, *rows)
    rule = ["-" * len(cell) for cell in lines[0]]
    lines = [lines[0], rule, *lines[1:]]
    return "".join("  ".join(line).rstrip() + "\n" for line in lines)


def escape_markdown(cell: str) -> str:
    """Keeps text from being read as markdown or HTML structure."""
    cell = cell.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(cell.split())


def _pad_columns(*lines: Sequence[str]) -> list[list[str]]:
    """Brings the cells of each column to one width, of 3 at least."""
    if not lines[0]:
        raise ValueError("header must name at least one column, got none.")
    for line in lines:
        if len(line) != len(lines[0]):
            raise ValueError(
                f"rows must have {len(lines[0])} cells each, as header has, "
                f"got {len(line)}: {list(line)}."
            )
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    return [
        [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]
        for line in lines
    ]


# Shares, which are written in percent.
_HEADERS = {
    "mean_ap": "mAP, %",
    "paper_map": "paper, %",
    "recall": "recall, %",
    "overlap": "overlap, %",
}
CITED_MARK = "†"  # Beside values that the paper takes from other publications.


def mean_ap_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Lays out mean average precision by method, in percent with intervals.

    Args:
        results: One mapping per method: `method`, `mean_ap`, `low` and `high` (95 %
            interval), in [0, 1]; if they were measured, `nearest_mean_ap` (of nearest
            neighbours on the same vectors) and `seconds_per_query`. If it is to be
            compared with a paper, `paper_map`, the paper's value in [0, 1] or None
            where it gives none, and `paper_cited`, whether the paper cites it from
            another publication; of a collection that the paper does not have,
            `instre_map`, its value on INSTRE, which nothing is subtracted from. Of a
            method that was tuned, `first_mean_ap`, at the settings tried first,
            `chosen`, the settings in words, and `solves`, the diffusions that it took
            to find them. Of its first answers, `precision_at_10` and
            `recall_at_100`; and `expected_ap`, mean average precision with ties broken
            at random, shown where that differs from `mean_ap` for any method.

    Returns:
        A table; columns that no method has anything for are left out. The difference
        from the paper is that of the two numbers as they are shown.

    Raises:
        ValueError: If a result lacks one of those, or a value is not in its range.
    """
    marked = any(result.get("paper_cited") for result in results)
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "method": lambda result: str(require_entry(result, "method")),
        f"paper, %{f' ({CITED_MARK} cited)' if marked else ''}": _format_paper_value,
        "paper on INSTRE, %": lambda result: _percent(result, "instre_map"),
        "k-NN mAP, %": lambda result: _percent(result, "nearest_mean_ap"),
        "not tuned, %": lambda result: _percent(result, "first_mean_ap"),
        "mAP, % [95 % interval]": lambda result: format_interval(result, "mean_ap"),
        "with ties at random, %": lambda result: _percent(result, "expected_ap"),
        "mP@10, %": lambda result: _percent(result, "precision_at_10"),
        "recall@100, %": lambda result: _percent(result, "recall_at_100"),
        "ours - paper": _difference_from_paper,
        "time a query": format_query_time,
        "solves": _format_solves,
        "settings": lambda result: str(result.get("chosen", "")),
    }
    if not any(_ties_matter(result) for result in results):
        del columns["with ties at random, %"]
    cells = {name: [write(r) for r in results] for name, write in columns.items()}
    needed = {"method", "mAP, % [95 % interval]"}
    kept = [name for name in columns if name in needed or any(cells[name])]
    rows = zip(*(cells[name] for name in kept), strict=True)
    return Table(header=tuple(kept), rows=tuple(rows))


def difference_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Lays out the paired differences between methods, in percent with intervals.

    Args:
        results: As for `mean_ap_table`; what a method is compared with stands in its
            `differences`, each with `against` (the other method), `mean`, `low` and
            `high`, in [-1, 1], and perhaps `p`, of a paired test.

    Returns:
        A table, without rows where nothing is compared.

    Raises:
        ValueError: If a difference lacks one of those, or a value is not in its range.
    """
    rows = []
    for result in results:
        method = str(require_entry(result, "method"))
        for difference in result.get("differences", ()):
            text = format_interval(difference, "mean", least=-1, sign="+")
            text += f" from {require_entry(difference, 'against')}"
            if "p" in difference:
                text += f", p {difference['p']:.2g}"
            rows.append((method, text))
    return Table(("method", "difference in mAP, % [95 % interval]"), tuple(rows))


def _format_solves(result: Mapping[str, Any]) -> str:
    return f"{result['solves']:,.0f}" if "solves" in result else ""


def measurement_tables(results: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Lays out results that are no methods with intervals, those of one kind together.

    Args:
        results: Mappings; those with `method` and `mean_ap` are for the other tables.
            Columns have the keys' names, underscores as spaces; numbers have three
            digits, `mean_ap`, `paper_map`, `recall` and `overlap` are written in
            percent, None as a dash.

    Returns:
        One table for each set of keys, in the order of the results.

    Example:
        >>> measurement_tables([{"solver": "cg", "mean_ap": 0.5}])[0].rows
        (('cg', '50.0'),)
    """
    kinds: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for result in results:
        if not {"method", "mean_ap"} <= result.keys():
            cells = tuple(_format_value(name, value) for name, value in result.items())
            kinds.setdefault(tuple(result), []).append(cells)
    return [
        Table(tuple(_HEADERS.get(n, n.replace("_", " ")) for n in names), tuple(rows))
        for names, rows in kinds.items()
    ]


def _format_value(name: str, value: Any) -> str:
    """Writes a value as its column has it."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if name in _HEADERS:
        return f"{100 * value:.1f}"
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def require_entry(result: Mapping[str, Any], name: str) -> Any:
    """Reads one entry of a result."""
    if name not in result:
        raise ValueError(f"results must have {name!r}, got only {sorted(result)}.")
    return result[name]


def format_interval(
    result: Mapping[str, Any], name: str, *, least: int = 0, sign: str = ""
) -> str:
    """Writes a fraction and its interval in percent."""
    values = [require_entry(result, key) for key in (name, "low", "high")]
    if not all(least <= value <= 1 for value in values):
        raise ValueError(f"{name}, low, high must be in [{least}, 1], got {values}.")
    middle, low, high = (f"{100 * value:{sign}.1f}" for value in values)
    return f"{middle} [{low}, {high}]"


def format_paper(percent: float | None, *, cited: bool) -> str:
    """Writes a paper's value, a dash where it gives none."""
    if percent is None:
        return "-"
    if not 0 <= percent <= 100:
        raise ValueError(f"a paper's mAP must be in [0, 100] %, got {percent}.")
    return f"{percent:.1f}{CITED_MARK if cited else ''}"


def format_difference(mean_ap: float, percent: float | None) -> str:
    """Writes by how much the one number, as shown, is above the other."""
    if percent is None:
        return "-"
    difference = round(float(f"{100 * mean_ap:.1f}") - float(f"{percent:.1f}"), 1)
    return f"{difference + 0.0:+.1f}"  # The sum has no negative zero.


def format_query_time(result: Mapping[str, Any]) -> str:
    """Writes a result's time a query, nothing where there is none."""
    if "seconds_per_query" not in result:
        return ""
    return format_duration(result["seconds_per_query"])


def format_duration(seconds: float) -> str:
    """Writes a time in milliseconds, seconds, minutes or hours."""
    for unit, length in {"h": 3600, "min": 60}.items():
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.{0 if seconds >= 0.01 else 1}f} ms"


def _percent(result: Mapping[str, Any], name: str) -> str:
    """Writes a share in percent, nothing where it was not measured."""
    return f"{100 * result[name]:.1f}" if result.get(name) is not None else ""


def _ties_matter(result: Mapping[str, Any]) -> bool:
    """Whether breaking ties at random changes the mean as it is shown."""
    return _percent(result, "expected_ap") not in ("", _percent(result, "mean_ap"))


def _format_paper_value(result: Mapping[str, Any]) -> str:
    """Writes the paper's value, nothing where a result is compared with none."""
    if "paper_map" not in result:
        return ""
    return format_paper(_paper_percent(result), cited=bool(result.get("paper_cited")))


def _difference_from_paper(result: Mapping[str, Any]) -> str:
    """Writes the difference from the paper's value."""
    if "paper_map" not in result:
        return ""
    return format_difference(result["mean_ap"], _paper_percent(result))


def _paper_percent(result: Mapping[str, Any]) -> float | None:
    """The paper's value, of a result that has it as a fraction."""
    value = result["paper_map"]
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"paper_map must be in [0, 1] or None, got {value}.")
    return None if value is None else 100 * value
