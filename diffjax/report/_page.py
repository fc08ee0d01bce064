"""A page of search results: one HTML file that needs no network and no script."""

import html
import os
from collections.abc import Iterator, Sequence

from diffjax._files import write_whole

from ._html import full_page, paragraphs, table_html
from ._layout import Table
from ._picture import Answer, Comparison, Thumbnail, frame_aspect
from ._section import comparison_section


def write_page(
    path: str | os.PathLike[str],
    *,
    title: str,
    intro: str,
    summary: Sequence[Table] = (),
    comparisons: Sequence[Comparison],
) -> None:
    """Writes queries and their answers, one method under the other, as one page.

    Each different picture is embedded once, as a small JPEG. Right answers stand in
    green frames with a check mark, wrong ones in red with a cross.

    Args:
        path: Where to; written aside and renamed.
        title: Plain text, like every text here: markup in it shows as it is.
        intro: Paragraphs, with empty lines between them.
        summary: Tables, such as `mean_ap_table` gives.
        comparisons: One per query, in the page's order.

    Raises:
        ValueError: If there are no comparisons, a picture has no pixels or a wrong
            shape, or an average precision is outside [0, 1].
    """
    if not comparisons:
        raise ValueError("comparisons must hold at least one query, got none.")
    sprites: dict[str, Thumbnail] = {}
    queries = "".join(
        comparison_section(
            comparison,
            sprites,
            heading=f"Query {number}" if len(comparisons) > 1 else "Query",
        )
        for number, comparison in enumerate(comparisons, start=1)
    )
    aspect = frame_aspect((shown.width, shown.height) for shown in sprites.values())
    body = f"""<svg class="sprites" aria-hidden="true"><defs>
{"".join(map(_sprite, sprites.values()))}</defs></svg>
<main style="--aspect:{aspect:.3f}">
<header>
<h1>{html.escape(title)}</h1>
{paragraphs(intro)}{"".join(map(table_html, summary))}{_legend(comparisons)}</header>
{queries}</main>
"""
    # File names may hold bytes that are no text; they show as question marks.
    write_whole(path, full_page(title, body).encode("utf-8", "replace"))


def _sprite(thumbnail: Thumbnail) -> str:
    """The one copy of a picture that the page shows in several places."""
    return (
        f'<image id="{thumbnail.key}" width="{thumbnail.width}" '
        f'height="{thumbnail.height}" href="{thumbnail.uri}"/>\n'
    )


def _legend(comparisons: Sequence[Comparison]) -> str:
    """Explains the marks that the page uses, and no others."""
    parts = []
    answers = list(_answers(comparisons))
    if any(answer.correct for answer in answers):
        parts.append('<span class="right"><b class="mark">✓</b> right answer</span>')
    if any(answer.correct is not None and not answer.correct for answer in answers):
        parts.append('<span class="wrong"><b class="mark">✗</b> wrong answer</span>')
    boxes = [c.box for c in comparisons] + [answer.box for answer in answers]
    if any(box is not None for box in boxes):
        parts.append('<span><b class="swatch"></b> the object</span>')
    parts.append("<span>below a picture: rank and score</span>")
    return f'<p class="legend">{" ".join(parts)}</p>\n'


def _answers(comparisons: Sequence[Comparison]) -> Iterator[Answer]:
    """All answers of all methods."""
    for comparison in comparisons:
        for ranking in comparison.rankings:
            yield from ranking.answers
