"""Page of all tables and figures of the paper: `python -m experiments report`."""

import argparse
import base64
import html
import importlib
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from diffjax._io import write_atomically
from diffjax.report import (
    Table,
    caption,
    full_page,
    paragraphs,
    read_records,
    table_html,
)
from experiments._runner import RECORDS, quick_records, record_tables

# In the order of the paper.
_CARDS = (
    *("figure1", "figure2", "figure3", "figure4", "figure5", "figure6", "figure7"),
    *("table1", "table2", "text", "departures"),
)


class ReportSection(NamedTuple):
    """Section of a report.

    Attributes:
        title: Heading, also in the table of contents.
        text: Paragraphs with empty lines between them, such as an experiment's card;
            a line that begins with a word and a colon starts a paragraph as well.
        tables: Tables below the text.
        charts: SVG files, as `write_chart` writes them; below the tables.
        caption: Settings and environment in small print, as from `report.caption`.
    """

    title: str
    text: str
    tables: Sequence[Table] = ()
    charts: Sequence[str | os.PathLike[str]] = ()
    caption: str = ""


def write_results_page(records: pathlib.Path, path: pathlib.Path) -> int:
    """Writes the page of the records of the paper's experiments.

    Args:
        records: Folder of the record files and charts.
        path: File to write.

    Returns:
        The number of sections.

    Raises:
        ValueError: If there are no records.
    """
    sections = [
        section
        for card in _CARDS
        for file in sorted(records.glob(f"{card}*.jsonl"))
        if re.fullmatch(rf"{card}(_.*)?", file.stem)
        for section in [_section(card, file)]
    ]
    if not sections:
        raise ValueError(
            f"records must hold results of the paper's experiments, got {records}."
        )
    write_report(path, "Efficient diffusion on region manifolds, anew", sections)
    return len(sections)


def _section(card: str, file: pathlib.Path) -> ReportSection:
    """Makes a section of a card with its newest record."""
    record = read_records(file)[-1]
    text = importlib.import_module(f"configs.{card}").__doc__ or ""
    heading, _, body = text.partition("\n\n")
    benchmark = file.stem.removeprefix(card).lstrip("_")
    chart = file.with_suffix(".svg")
    return ReportSection(
        title=f"{heading.rstrip('.')}{f' ({benchmark})' if benchmark else ''}",
        text=body.strip(),
        tables=record_tables(record),
        charts=(chart,) if chart.is_file() else (),
        caption=caption(record),
    )


def write_report(
    path: str | os.PathLike[str], title: str, sections: Sequence[ReportSection]
) -> None:
    """Writes a report as one HTML file that needs no network and no script.

    Charts are embedded, so that the file is complete.

    Args:
        path: File to write, atomically.
        title: Title; plain text, like every text here: markup in it is escaped.
        sections: Sections in the order of the page.

    Raises:
        ValueError: If there are no sections or a chart is no SVG file.
        FileNotFoundError: If a chart does not exist.
    """
    if not sections:
        raise ValueError("sections must hold at least one section, got none.")
    entries = "".join(
        f'<li><a href="#part-{number}">{html.escape(section.title)}</a></li>\n'
        for number, section in enumerate(sections, start=1)
    )
    body_sections = "".join(
        _section_html(section, number)
        for number, section in enumerate(sections, start=1)
    )
    body = f"""<main class="report">
<header>
<h1>{html.escape(title)}</h1>
<nav aria-label="Contents">
<ol>
{entries}</ol>
</nav>
</header>
{body_sections}</main>
"""
    write_atomically(path, full_page(title, body).encode("utf-8", "replace"))


def _section_html(section: ReportSection, number: int) -> str:
    """Writes a section under its heading."""
    # Each field of a card becomes a paragraph.
    text = re.sub(r"\n(?=[A-Z]\w*: )", "\n\n", section.text)
    caption = ""
    if section.caption:
        caption = f'<p class="caption">{html.escape(section.caption)}</p>\n'
    charts = "".join(_chart_html(pathlib.Path(chart)) for chart in section.charts)
    if charts:
        charts = f'<div class="charts">\n{charts}</div>\n'
    return f"""<section id="part-{number}">
<h2>{html.escape(section.title)}</h2>
{paragraphs(text)}{"".join(map(table_html, section.tables))}{charts}{caption}</section>
"""


def _chart_html(path: pathlib.Path) -> str:
    """Embeds a chart as a picture, so that names inside charts do not collide."""
    data = path.read_bytes()
    if b"<svg" not in data[:1000]:
        raise ValueError(f"charts must be SVG files, got {str(path)!r}.")
    title = re.search(
        r"<title>(.*?)</title>", data.decode("utf-8", "replace"), re.DOTALL
    )
    # The title in the file is escaped, but not for an attribute.
    words = html.unescape(title[1]) if title else path.stem
    uri = "data:image/svg+xml;base64," + base64.b64encode(data).decode()
    return f'<figure><img alt="{html.escape(words)}" src="{uri}"></figure>\n'


def main() -> None:
    """Writes the page of the repository's records, or of those of a folder."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments report",
        description="Puts tables, figures and cards of the paper on one page.",
    )
    parser.add_argument("--records", type=pathlib.Path, default=RECORDS)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("report.html"))
    parser.add_argument(
        "--quick", action="store_true", help="take the records of quick runs"
    )
    options = parser.parse_args()
    if options.quick:
        options.records = quick_records()
    try:
        count = write_results_page(options.records, options.out)
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{count} sections: {options.out.resolve().as_uri()}")
