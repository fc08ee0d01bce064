"""HTML page of search results: one file without scripts and external resources."""

import html
import importlib.resources
import os
from collections.abc import Iterator, Sequence

from diffjax._io import write_atomically

from ._comparison import (
    Answer,
    Comparison,
    Ranking,
    Thumbnail,
    format_ap,
    frame_aspect,
    make_thumbnail,
    to_rgb,
)
from ._tables import Table


def full_page(title: str, body: str) -> str:
    """HTML document with its style around `body`; it loads and runs nothing."""
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
    """HTML of a text with empty lines between its paragraphs."""
    stripped = (paragraph.strip() for paragraph in text.split("\n\n"))
    return "".join(f"<p>{html.escape(text)}</p>\n" for text in stripped if text)


def table_html(table: Table) -> str:
    """HTML of a table whose first column names the rows."""
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


def _comparison_html(
    comparison: Comparison, sprites: dict[str, Thumbnail], *, heading: str
) -> str:
    """HTML of a query beside its rankings; adds its pictures to `sprites`."""
    thumbnail = make_thumbnail(
        to_rgb(comparison.picture), max_width=520, max_height=400
    )
    sprites.setdefault(thumbnail.key, thumbnail)
    name = html.escape(comparison.name)
    label = "Query" if comparison.box is None else "Query, the object in the box:"
    picture = _picture_html(thumbnail, f"{label} {comparison.name}", comparison.box)
    is_single = len(comparison.rankings) == 1
    longest = max((len(r.answers) for r in comparison.rankings), default=0)
    columns = max(1, min(longest, 5 if is_single else 10))
    best = max((r.ap for r in comparison.rankings if r.ap is not None), default=None)
    rankings = "".join(
        _ranking_html(ranking, sprites, is_best=not is_single and ranking.ap == best)
        for ranking in comparison.rankings
    )
    css_class = "rankings single" if is_single else "rankings"
    return f"""<section aria-label="{heading}">
<figure class="query">
{picture}
<figcaption><h2>{heading}</h2><bdi>{name}</bdi></figcaption>
</figure>
<div class="{css_class}" style="--columns:{columns}">
{rankings}</div>
</section>
"""


def _ranking_html(
    ranking: Ranking, sprites: dict[str, Thumbnail], *, is_best: bool
) -> str:
    """HTML of one method: its name, average precision and answers."""
    badge = ""
    if ranking.ap is not None:
        best = " best" if is_best else ""
        badge = f' <span class="ap{best}">{format_ap(ranking.ap)}</span>'
    judgements = [answer.correct for answer in ranking.answers]
    if judgements and None not in judgements:
        count = f"{sum(map(bool, judgements))} of {len(judgements)} shown are right"
        badge += f' <span class="right-count">{count}</span>'
    answers = "".join(
        _answer_html(answer, sprites, rank=rank)
        for rank, answer in enumerate(ranking.answers, start=1)
    )
    return f"""<article>
<h3><bdi>{html.escape(ranking.name)}</bdi>{badge}</h3>
<ol>
{answers}</ol>
</article>
"""


def _answer_html(answer: Answer, sprites: dict[str, Thumbnail], *, rank: int) -> str:
    """HTML of one picture with its frame, mark, rank, score and note."""
    thumbnail = make_thumbnail(to_rgb(answer.picture), max_width=240, max_height=160)
    sprites.setdefault(thumbnail.key, thumbnail)
    css_class, mark, prefix = {
        True: ("right", "✓", "right: "),
        False: ("wrong", "✗", "wrong: "),
        None: ("unknown", "", ""),
    }[None if answer.correct is None else bool(answer.correct)]
    picture = _picture_html(thumbnail, prefix + answer.name, answer.box)
    badge = f'<b class="mark" aria-hidden="true">{mark}</b>' if mark else ""
    note = f'<bdi class="note">{html.escape(answer.note)}</bdi>' if answer.note else ""
    return (
        f'<li class="{css_class}"><div class="frame">{picture}{badge}</div>'
        f'<span class="place">{rank}</span> '
        f'<span class="score">{answer.score:.3g}</span>{note}'
        f'<bdi class="name">{html.escape(answer.name)}</bdi></li>\n'
    )


def _picture_html(thumbnail: Thumbnail, text: str, box: Sequence[float] | None) -> str:
    """HTML of an embedded picture, in the original's coordinates, and a box in it."""
    text = html.escape(text)
    mark = ""
    if box is not None:
        x0, y0, x1, y1 = box
        frame = f'x="{x0:g}" y="{y0:g}" width="{x1 - x0:g}" height="{y1 - y0:g}"'
        mark = f'<rect class="halo" {frame}/><rect class="box" {frame}/>'
    return (
        f'<svg role="img" aria-label="{text}" '
        f'viewBox="0 0 {thumbnail.width} {thumbnail.height}">'
        f'<title>{text}</title><use href="#{thumbnail.key}"/>{mark}</svg>'
    )


def write_page(
    path: str | os.PathLike[str],
    *,
    title: str,
    intro: str,
    summary: Sequence[Table] = (),
    comparisons: Sequence[Comparison],
) -> None:
    """Writes queries and their rankings, one method under the other, as an HTML page.

    Each different picture is embedded once, as a small JPEG. Right answers have green
    frames with a check mark, wrong ones red frames with a cross.

    Args:
        path: Destination, written atomically.
        title: Title. All texts are plain: markup in them is escaped.
        intro: Paragraphs, with empty lines between them.
        summary: Tables, such as `mean_ap_table` gives.
        comparisons: One per query, in the order of the page.

    Raises:
        ValueError: If there are no comparisons, a picture has no pixels or a wrong
            shape, or an average precision is outside [0, 1].
    """
    if not comparisons:
        raise ValueError("comparisons must hold at least one query, got none.")
    sprites: dict[str, Thumbnail] = {}
    queries = "".join(
        _comparison_html(
            comparison,
            sprites,
            heading=f"Query {number}" if len(comparisons) > 1 else "Query",
        )
        for number, comparison in enumerate(comparisons, start=1)
    )
    aspect = frame_aspect((sprite.width, sprite.height) for sprite in sprites.values())
    tables = "".join(map(table_html, summary))
    body = f"""<svg class="sprites" aria-hidden="true"><defs>
{"".join(map(_sprite_html, sprites.values()))}</defs></svg>
<main style="--aspect:{aspect:.3f}">
<header>
<h1>{html.escape(title)}</h1>
{paragraphs(intro)}{tables}{_legend_html(comparisons)}</header>
{queries}</main>
"""
    # Bytes of file names that are not UTF-8 become question marks.
    write_atomically(path, full_page(title, body).encode("utf-8", "replace"))


def _sprite_html(thumbnail: Thumbnail) -> str:
    """HTML of the one copy of a picture, which the page may show several times."""
    return (
        f'<image id="{thumbnail.key}" width="{thumbnail.width}" '
        f'height="{thumbnail.height}" href="{thumbnail.uri}"/>\n'
    )


def _legend_html(comparisons: Sequence[Comparison]) -> str:
    """HTML that explains the marks which the page uses, and no others."""
    entries = []
    answers = list(_iterate_answers(comparisons))
    if any(answer.correct for answer in answers):
        entries.append('<span class="right"><b class="mark">✓</b> right answer</span>')
    if any(answer.correct is not None and not answer.correct for answer in answers):
        entries.append('<span class="wrong"><b class="mark">✗</b> wrong answer</span>')
    boxes = [c.box for c in comparisons] + [answer.box for answer in answers]
    if any(box is not None for box in boxes):
        entries.append('<span><b class="swatch"></b> the object</span>')
    entries.append("<span>below a picture: rank and score</span>")
    return f'<p class="legend">{" ".join(entries)}</p>\n'


def _iterate_answers(comparisons: Sequence[Comparison]) -> Iterator[Answer]:
    """All answers of all queries and methods."""
    for comparison in comparisons:
        for ranking in comparison.rankings:
            yield from ranking.answers
