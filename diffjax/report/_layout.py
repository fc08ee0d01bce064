"""Plain tables: cells in, aligned text out."""

from collections.abc import Sequence
from typing import NamedTuple


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
    lines = _padded(
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
    lines = _padded(header, *rows)
    rule = ["-" * len(cell) for cell in lines[0]]
    lines = [lines[0], rule, *lines[1:]]
    return "".join("  ".join(line).rstrip() + "\n" for line in lines)


def escape_markdown(cell: str) -> str:
    """Keeps text from being read as markdown or HTML structure."""
    cell = cell.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(cell.split())


def _padded(*lines: Sequence[str]) -> list[list[str]]:
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
