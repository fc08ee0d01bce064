"""A paper's table with our numbers beside the published ones."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ._tables import (
    CITED_MARK,
    Table,
    format_difference,
    format_interval,
    format_paper,
    format_query_time,
    require_entry,
)


class Cited(NamedTuple):
    """A value that the paper itself takes from another publication.

    Attributes:
        percent: Mean average precision in percent.
    """

    percent: float


Published = float | Cited | None  # None where the paper gives no value.


def paper_table(
    results: Sequence[Mapping[str, Any]],
    paper: Mapping[str, Published],
    *,
    others: Mapping[str, Mapping[str, Published]] | None = None,
) -> Table:
    """Lays out methods, a paper's mean average precision and ours, in percent.

    Args:
        results: One mapping per method, as `mean_ap_table` takes them: `method`,
            `mean_ap`, `low`, `high`, perhaps `seconds_per_query`.
        paper: The paper's value of each method, in percent, on the data set of
            `results`; None, shown as a dash, where it gives none. `Cited` values are
            marked. Empty if the paper has not used that data set: then there is no
            such column and no difference, which would mean nothing.
        others: The same of further data sets, by their names, shown beside it.

    Returns:
        A table. Methods stand in the order of `results`; those that only the paper has
        follow, so that none goes missing. The difference is that of the two numbers as
        they are shown.

    Raises:
        ValueError: If a method has two results, a result lacks an entry, or a value is
            not in its range.

    Example:
        >>> ours = {"method": "R-match", "mean_ap": 0.8, "low": 0.7, "high": 0.9}
        >>> paper_table([ours], {"R-match": 81.5, "CroW": Cited(68.2)}).rows
        (('R-match', '81.5', '80.0 [70.0, 90.0]', '-1.5'), ('CroW', '68.2†', '-', '-'))
    """
    measured = {str(require_entry(result, "method")): result for result in results}
    if len(measured) != len(results):
        names = [result["method"] for result in results]
        raise ValueError(f"results must name each method once, got {names}.")
    columns = {"paper, %": paper} if paper else {}
    columns |= {f"paper, {name}, %": values for name, values in (others or {}).items()}
    # A dict keeps the order and each name once.
    methods = dict.fromkeys(
        [*measured, *(name for v in columns.values() for name in v)]
    )
    cells = {"method": list(methods)}
    for name, values in columns.items():
        marked = any(isinstance(value, Cited) for value in values.values())
        heading = f"{name} ({CITED_MARK} cited)" if marked else name
        cells[heading] = [_published(values.get(method)) for method in methods]
    found = [measured.get(method) for method in methods]
    cells["ours, % [95 % interval]"] = [
        "-" if result is None else format_interval(result, "mean_ap")
        for result in found
    ]
    if paper:
        cells["ours - paper"] = [
            "-"
            if r is None
            else format_difference(r["mean_ap"], _percent(paper.get(m)))
            for m, r in zip(methods, found, strict=True)
        ]
    times = [format_query_time(result or {}) for result in found]
    if any(times):
        cells["time a query"] = times
    return Table(tuple(cells), tuple(zip(*cells.values(), strict=True)))


def _published(value: Published) -> str:
    """Writes the paper's value."""
    return format_paper(_percent(value), cited=isinstance(value, Cited))


def _percent(value: Published) -> float | None:
    """The number, whoever published it."""
    return value.percent if isinstance(value, Cited) else value
