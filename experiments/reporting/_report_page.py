"""A report: tables, charts and what there is to say about them, on one page."""

import base64
import html
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from diffjax._io import write_atomically
from diffjax.report import Table, full_page, paragraphs, table_html


class ReportSection(NamedTuple):
    """One part of a report.

    Attributes:
        title: Its heading, also in the table of contents.
        text: Paragraphs with empty lines between them, such as an experiment's card;
            a line that begins with a word and a colon starts a paragraph as well.
        tables: Below the text.
        charts: SVG files, as `write_chart` writes them; below the tables.
        caption: What all of it rests on, in small print, such as `caption` gives.
    """

    title: str
    text: str
    tables: Sequence[Table] = ()
    charts: Sequence[str | os.PathLike[str]] = ()
    caption: str = ""


def write_report(
    path: str | os.PathLike[str], title: str, sections: Sequence[ReportSection]
) -> None:
    """Writes a report as one HTML file that needs no network and no script.

    Charts are embedded, so that the file can be moved about alone.

    Args:
        path: Where to; written aside and renamed.
        title: Plain text, like every text here: markup in it shows as it is.
        sections: In the page's order.

    Raises:
        ValueError: If there are no sections or a chart is no SVG file.
        FileNotFoundError: If a chart is not there.
    """
    if not sections:
        raise ValueError("sections must hold at least one section, got none.")
    entries = "".join(
        f'<li><a href="#part-{number}">{html.escape(section.title)}</a></li>\n'
        for number, section in enumerate(sections, start=1)
    )
    parts = "".join(
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
{parts}</main>
"""
    write_atomically(path, full_page(title, body).encode("utf-8", "replace"))


def _section_html(section: ReportSection, number: int) -> str:
    """One section under its heading."""
    # The fields of a card stand on lines of their own.
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
    """A chart as a picture: names inside it can't meet those of another chart."""
    data = path.read_bytes()
    if b"<svg" not in data[:1000]:
        raise ValueError(f"charts must be SVG files, got {str(path)!r}.")
    title = re.search(
        r"<title>(.*?)</title>", data.decode("utf-8", "replace"), re.DOTALL
    )
    # What stands in the file is escaped already, but not for an attribute.
    words = html.unescape(title[1]) if title else path.stem
    uri = "data:image/svg+xml;base64," + base64.b64encode(data).decode()
    return f'<figure><img alt="{html.escape(words)}" src="{uri}"></figure>\n'
