"""The part of a result page that shows one query and its rankings."""

import html
from collections.abc import Sequence

from ._picture import (
    Answer,
    Comparison,
    Ranking,
    Thumbnail,
    format_ap,
    make_thumbnail,
    to_rgb,
)


def comparison_section(
    comparison: Comparison, sprites: dict[str, Thumbnail], *, heading: str
) -> str:
    """Writes one query beside its rankings; adds its pictures to `sprites`."""
    shown = to_rgb(comparison.picture)
    thumbnail = make_thumbnail(shown, max_width=520, max_height=400)
    sprites.setdefault(thumbnail.key, thumbnail)
    name = html.escape(comparison.name)
    what = "Query" if comparison.box is None else "Query, the object in the box:"
    picture = _picture(thumbnail, f"{what} {comparison.name}", comparison.box)
    single = len(comparison.rankings) == 1
    longest = max((len(r.answers) for r in comparison.rankings), default=0)
    columns = max(1, min(longest, 5 if single else 10))
    best = max((r.ap for r in comparison.rankings if r.ap is not None), default=None)
    rankings = "".join(
        _ranking(ranking, sprites, is_best=not single and ranking.ap == best)
        for ranking in comparison.rankings
    )
    kind = "rankings single" if single else "rankings"
    return f"""<section aria-label="{heading}">
<figure class="query">
{picture}
<figcaption><h2>{heading}</h2><bdi>{name}</bdi></figcaption>
</figure>
<div class="{kind}" style="--columns:{columns}">
{rankings}</div>
</section>
"""


def _ranking(ranking: Ranking, sprites: dict[str, Thumbnail], *, is_best: bool) -> str:
    """One method: its name, its average precision, its answers."""
    badge = ""
    if ranking.ap is not None:
        best = " best" if is_best else ""
        badge = f' <span class="ap{best}">{format_ap(ranking.ap)}</span>'
    known = [answer.correct for answer in ranking.answers]
    if known and None not in known:
        right = f"{sum(map(bool, known))} of {len(known)} shown are right"
        badge += f' <span class="right-count">{right}</span>'
    answers = "".join(
        _answer(answer, sprites, place=place)
        for place, answer in enumerate(ranking.answers, start=1)
    )
    return f"""<article>
<h3><bdi>{html.escape(ranking.name)}</bdi>{badge}</h3>
<ol>
{answers}</ol>
</article>
"""


def _answer(answer: Answer, sprites: dict[str, Thumbnail], *, place: int) -> str:
    """One picture with its frame, mark, rank, score and note."""
    shown = to_rgb(answer.picture)
    thumbnail = make_thumbnail(shown, max_width=240, max_height=160)
    sprites.setdefault(thumbnail.key, thumbnail)
    kind, mark, word = {
        True: ("right", "✓", "right: "),
        False: ("wrong", "✗", "wrong: "),
        None: ("unknown", "", ""),
    }[None if answer.correct is None else bool(answer.correct)]
    picture = _picture(thumbnail, word + answer.name, answer.box)
    sign = f'<b class="mark" aria-hidden="true">{mark}</b>' if mark else ""
    note = f'<bdi class="note">{html.escape(answer.note)}</bdi>' if answer.note else ""
    return (
        f'<li class="{kind}"><div class="frame">{picture}{sign}</div>'
        f'<span class="place">{place}</span> '
        f'<span class="score">{answer.score:.3g}</span>{note}'
        f'<bdi class="name">{html.escape(answer.name)}</bdi></li>\n'
    )


def _picture(thumbnail: Thumbnail, text: str, box: Sequence[float] | None) -> str:
    """Shows an embedded picture, in its original's coordinates, and a box in it."""
    text = html.escape(text)
    mark = ""
    if box is not None:
        x0, y0, x1, y1 = box
        place = f'x="{x0:g}" y="{y0:g}" width="{x1 - x0:g}" height="{y1 - y0:g}"'
        mark = f'<rect class="halo" {place}/><rect class="box" {place}/>'
    return (
        f'<svg role="img" aria-label="{text}" '
        f'viewBox="0 0 {thumbnail.width} {thumbnail.height}">'
        f'<title>{text}</title><use href="#{thumbnail.key}"/>{mark}</svg>'
    )
