"""What all pages have in common: the frame around them, paragraphs, tables."""

import html
import importlib.resources

from ._layout import Table


def full_page(title: str, body: str) -> str:
    """Puts a page with its style around `body`; it loads and runs nothing."""
    style = importlib.resources.files("diffjax.report").joinpath("page.css")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
img-src data:; style-src 'unsafe-inline'">
<title>{html.escape(title)}</title>
<style>
{style.read_text(encoding="utf-8")}</style>
</head>
<body>
{body}</body>
</html>
"""


def paragraphs(text: str) -> str:
    """Text with empty lines between its paragraphs."""
    parts = (part.strip() for part in text.split("\n\n"))
    return "".join(f"<p>{html.escape(part)}</p>\n" for part in parts if part)


def table_html(table: Table) -> str:
    """A table whose first column names the rows."""
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in table.header)
    rows = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in table.rows
    )
    return (
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody>\n</table></div>\n"
    )
