"""One page of all tables and figures: `python -m experiments report`."""

import argparse
import importlib
import pathlib
import re
from typing import Any

from diffjax.report import (
    caption,
    difference_table,
    mean_ap_table,
    measurement_tables,
    read_records,
)
from experiments.paper.evaluate import RECORDS

from ._report_page import ReportSection, write_report

# In the order of the paper.
_CARDS = (
    *("figure1", "figure2", "figure3", "figure4", "figure5", "figure6", "figure7"),
    *("table1", "table2", "text", "departures"),
)


def write_results_page(records: pathlib.Path, path: pathlib.Path) -> int:
    """Writes the page of what was recorded of the paper's experiments.

    Args:
        records: Folder of the record files and charts.
        path: The page.

    Returns:
        The number of its sections.

    Raises:
        ValueError: If nothing was recorded.
    """
    sections = [
        section
        for card in _CARDS
        for file in sorted(records.glob(f"{card}*.jsonl"))
        if re.fullmatch(rf"{card}(_.*)?", file.stem)
        for section in [_section(card, file)]
    ]
    if not sections:
        raise ValueError(f"records must hold results of the paper's, got {records}.")
    write_report(path, "Efficient diffusion on region manifolds, anew", sections)
    return len(sections)


def _section(card: str, file: pathlib.Path) -> ReportSection:
    """A card with its newest record."""
    record = read_records(file)[-1]
    text = importlib.import_module(f"configs.{card}").__doc__ or ""
    heading, _, body = text.partition("\n\n")
    where = file.stem.removeprefix(card).lstrip("_")
    chart = file.with_suffix(".svg")
    return ReportSection(
        title=f"{heading.rstrip('.')}{f' ({where})' if where else ''}",
        text=body.strip(),
        tables=_tables(record),
        charts=(chart,) if chart.is_file() else (),
        caption=caption(record),
    )


def _tables(record: dict[str, Any]) -> tuple[Any, ...]:
    results = record["results"]
    methods = [r for r in results if {"method", "mean_ap"} <= r.keys()]
    tables = (
        mean_ap_table(methods),
        difference_table(methods),
        *measurement_tables(results),
    )
    return tuple(table for table in tables if table.rows)


def main() -> None:
    """Writes the page beside the records, or where the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments report",
        description="Ties tables, figures and cards of the paper together.",
    )
    parser.add_argument("--records", type=pathlib.Path, default=RECORDS)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("report.html"))
    wanted = parser.parse_args()
    count = write_results_page(wanted.records, wanted.out)
    print(f"{count} sections: {wanted.out.resolve().as_uri()}")
