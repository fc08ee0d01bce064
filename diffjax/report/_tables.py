"""Tables of results: mean average precision, differences, measurements."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

# Headers of fractions, which are written in percent.
_PERCENT_HEADERS = {
    "mean_ap": "mAP, %",
    "paper_map": "paper, %",
    "recall": "recall, %",
    "overlap": "overlap, %",
}
_CITED_MARK = "†"  # Beside values that the paper takes from other publications.


class Table(NamedTuple):
    """Table of text cells.

    Attributes:
        header: Name of each column.
        rows: As many cells in each row as there are columns.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown of a table, with columns aligned in the source as well.

    The first column is aligned to the left; the others, being numbers, to the right.

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
    """Plain text of a table, aligned like `markdown_table`.

    Raises:
        ValueError: If `header` is empty or a row has another number of cells.
    """
    lines = _pad_columns(header, *rows)
    rule = ["-" * len(cell) for cell in lines[0]]
    lines = [lines[0], rule, *lines[1:]]
    return "".join("  ".join(line).rstrip() + "\n" for line in lines)


def escape_markdown(cell: str) -> str:
    """Text in one line that markdown does not read as structure or HTML."""
    cell = cell.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(cell.split())


def _pad_columns(*lines: Sequence[str]) -> list[list[str]]:
    """Cells padded to one width per column, of at least 3."""
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


def mean_ap_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Table of mean average precision by method, in percent with intervals.

    Args:
        results: One mapping per method with `method`, `mean_ap`, `low` and `high` (95 %
            interval), in [0, 1], and optionally
            `nearest_mean_ap`, of nearest neighbours on the same vectors;
            `seconds_per_query`;
            `paper_map`, a paper's value in [0, 1] or None where it gives none, and
            `paper_cited`, whether the paper cites it from another publication;
            `instre_map`, the paper's value on INSTRE, for a collection that it does not
            have: no difference is computed;
            `first_mean_ap`, before tuning, `chosen`, the tuned settings in words, and
            `solves`, the number of diffusions that tuning took;
            `precision_at_10` and `recall_at_100`;
            `expected_ap`, mean average precision with ties broken at random, shown if
            it differs from `mean_ap` for any method.

    Returns:
        A table without columns that no method has values for. The difference from the
        paper is that of the rounded numbers.

    Raises:
        ValueError: If a result lacks a required entry, or a value is out of its
            range.
    """
    is_any_cited = any(result.get("paper_cited") for result in results)
    paper_header = f"paper, % ({_CITED_MARK} cited)" if is_any_cited else "paper, %"
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "method": lambda result: str(_require_entry(result, "method")),
        paper_header: _format_paper_value,
        "paper on INSTRE, %": lambda result: _percent(result, "instre_map"),
        "k-NN mAP, %": lambda result: _percent(result, "nearest_mean_ap"),
        "not tuned, %": lambda result: _percent(result, "first_mean_ap"),
        "mAP, % [95 % interval]": lambda result: _format_interval(result, "mean_ap"),
        "with ties at random, %": lambda result: _percent(result, "expected_ap"),
        "mP@10, %": lambda result: _percent(result, "precision_at_10"),
        "recall@100, %": lambda result: _percent(result, "recall_at_100"),
        "ours - paper": _difference_from_paper,
        "time a query": _format_query_time,
        "solves": _format_solves,
        "settings": lambda result: str(result.get("chosen", "")),
    }
    if not any(_ties_matter(result) for result in results):
        del columns["with ties at random, %"]
    cells = {name: [write(r) for r in results] for name, write in columns.items()}
    required = {"method", "mAP, % [95 % interval]"}
    header = [name for name in columns if name in required or any(cells[name])]
    rows = zip(*(cells[name] for name in header), strict=True)
    return Table(header=tuple(header), rows=tuple(rows))


def difference_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Table of paired differences between methods, in percent with intervals.

    Args:
        results: As for `mean_ap_table`. Comparisons of a method are its `differences`,
            mappings with `against` (the other method), `mean`, `low` and `high`, in
            [-1, 1], and optionally `p`, of a paired test.

    Returns:
        A table, without rows if there are no comparisons.

    Raises:
        ValueError: If a difference lacks a required entry, or a value is out of its
            range.
    """
    rows = []
    for result in results:
        method = str(_require_entry(result, "method"))
        for difference in result.get("differences", ()):
            text = _format_interval(difference, "mean", low_limit=-1, sign="+")
            text += f" from {_require_entry(difference, 'against')}"
            if "p" in difference:
                text += f", p {difference['p']:.2g}"
            rows.append((method, text))
    return Table(("method", "difference in mAP, % [95 % interval]"), tuple(rows))


def _format_solves(result: Mapping[str, Any]) -> str:
    return f"{result['solves']:,.0f}" if "solves" in result else ""


def measurement_tables(results: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Tables of results other than methods with intervals, one per set of keys.

    Args:
        results: Mappings; those with `method` and `mean_ap` are left to the other
            tables. Headers are the keys with spaces for underscores; numbers have three
            digits; `mean_ap`, `paper_map`, `recall` and `overlap` are in percent; None
            is a dash.

    Returns:
        The tables, in the order of the results.

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
        Table(
            tuple(_PERCENT_HEADERS.get(n, n.replace("_", " ")) for n in names),
            tuple(rows),
        )
        for names, rows in kinds.items()
    ]


def _format_value(name: str, value: Any) -> str:
    """Text of a value in the format of its column."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if name in _PERCENT_HEADERS:
        return f"{100 * value:.1f}"
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def _require_entry(result: Mapping[str, Any], name: str) -> Any:
    """Entry of a result, which must have it."""
    if name not in result:
        raise ValueError(f"results must have {name!r}, got only {sorted(result)}.")
    return result[name]


def _format_interval(
    result: Mapping[str, Any], name: str, *, low_limit: int = 0, sign: str = ""
) -> str:
    """Fraction with its interval as text in percent."""
    values = [_require_entry(result, key) for key in (name, "low", "high")]
    if not all(low_limit <= value <= 1 for value in values):
        raise ValueError(
            f"{name}, low, high must be in [{low_limit}, 1], got {values}."
        )
    middle, low, high = (f"{100 * value:{sign}.1f}" for value in values)
    return f"{middle} [{low}, {high}]"


def _format_query_time(result: Mapping[str, Any]) -> str:
    """Time per query as text, empty if it was not measured."""
    if "seconds_per_query" not in result:
        return ""
    return format_duration(result["seconds_per_query"])


def format_duration(seconds: float) -> str:
    """Time as text in milliseconds, seconds, minutes or hours."""
    for unit, length in {"h": 3600, "min": 60}.items():
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.{0 if seconds >= 0.01 else 1}f} ms"


def _percent(result: Mapping[str, Any], name: str) -> str:
    """Fraction as text in percent, empty if it was not measured."""
    return f"{100 * result[name]:.1f}" if result.get(name) is not None else ""


def _ties_matter(result: Mapping[str, Any]) -> bool:
    """Whether breaking ties at random changes the rounded mean."""
    return _percent(result, "expected_ap") not in ("", _percent(result, "mean_ap"))


def _format_paper_value(result: Mapping[str, Any]) -> str:
    """The paper's value as text, empty for a result that is not compared with one."""
    if "paper_map" not in result:
        return ""
    percent = _paper_percent(result)
    if percent is None:
        return "-"
    return f"{percent:.1f}{_CITED_MARK if result.get('paper_cited') else ''}"


def _difference_from_paper(result: Mapping[str, Any]) -> str:
    """Difference of the rounded values, ours minus the paper's."""
    if "paper_map" not in result:
        return ""
    percent = _paper_percent(result)
    if percent is None:
        return "-"
    difference = round(float(f"{100 * result['mean_ap']:.1f}") - percent, 1)
    return f"{difference + 0.0:+.1f}"  # The sum has no negative zero.


def _paper_percent(result: Mapping[str, Any]) -> float | None:
    """The paper's value in percent, rounded to one decimal; None if it has none."""
    value = result["paper_map"]
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"paper_map must be in [0, 1] or None, got {value}.")
    return None if value is None else float(f"{100 * value:.1f}")
