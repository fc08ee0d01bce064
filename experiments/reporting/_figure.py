"""Figure of one comparison, for papers, slides and the README.

Drawn with Matplotlib without its global state.
"""

import io
import os
from typing import NamedTuple

import PIL.Image
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from diffjax._io import write_atomically
from diffjax.report import (
    Answer,
    Box,
    Comparison,
    Ranking,
    format_ap,
    frame_aspect,
    to_rgb,
)

DPI = 160
INK, _BOX, _MAT = "#1d2430", "#ffd21f", "#eceef2"
_FRAMES = {True: ("#12894a", "✓"), False: ("#c8404a", "✗"), None: ("#b8bfca", "")}


def write_figure(
    path: str | os.PathLike[str],
    comparison: Comparison,
    *,
    top: int = 5,
    width: int = 1600,
) -> None:
    """Writes a query and the best answers of each method, one method a row, as PNG.

    Args:
        path: File to write, atomically.
        comparison: The query and its rankings.
        top: Number of answers of each method.
        width: Width of the figure, in pixels; the height follows.

    Raises:
        ValueError: If `top` is below 1 or `width` below 400, there is no answer to
            show, an average precision is outside [0, 1], or a picture has no pixels
            or a wrong shape.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}.")
    if width < 400:
        raise ValueError(f"width must be at least 400, got {width}.")
    rankings = tuple(r._replace(answers=r.answers[:top]) for r in comparison.rankings)
    if not any(ranking.answers for ranking in rankings):
        raise ValueError("comparison must hold answers, got none.")
    figure = draw_comparison(comparison._replace(rankings=rankings), width=width)
    file = io.BytesIO()
    # Without Matplotlib's name and version, equal figures are equal files.
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    write_atomically(path, file.getvalue())


class _Cell(NamedTuple):
    """Rectangle of the figure, in pixels from its upper left corner.

    Attributes:
        x: Left edge.
        y: Upper edge.
        width: Width, to the right.
        height: Height, downwards.
    """

    x: float
    y: float
    width: float
    height: float


def draw_comparison(comparison: Comparison, *, width: int) -> Figure:
    """Draws the query on the left and a row of answers for each method.

    Args:
        comparison: The query, with one answer at least.
        width: Width of the figure, in pixels.
    """
    rankings = comparison.rankings
    columns = max(len(ranking.answers) for ranking in rankings)
    pictures = [to_rgb(answer.picture) for r in rankings for answer in r.answers]
    aspect = frame_aspect(picture.size for picture in pictures)
    line, gap = width / 65, width / 110
    query_columns = 1.6 if len(rankings) > 1 else 1
    side = (width - (columns + 3) * gap) / (columns + query_columns)
    noted = any(answer.note for r in rankings for answer in r.answers)
    note = 1.3 * line if noted else 0.0
    row_height = 2 * line + side / aspect + note + 2 * gap
    height = round(len(rankings) * row_height)

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    query = _Cell(gap, gap, query_columns * side, height - 2 * gap)
    _draw_query(axes, comparison, query, line=line)
    for row, ranking in enumerate(rankings):
        x, y = query.width + 3 * gap, gap + row * row_height
        first = _Cell(x, y, side, row_height - 2 * gap)
        _draw_ranking(axes, ranking, first, line=line, gap=gap, note=note)
    # Last, because imshow changes them. y points down, as in pictures.
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    return figure


def _draw_query(
    axes: Axes, comparison: Comparison, cell: _Cell, *, line: float
) -> None:
    """Draws the query under its heading, at the upper end of its cell."""
    _write(axes, "query", cell.x, cell.y + 0.8 * line, size=line)
    picture = to_rgb(comparison.picture)
    height = min(cell.height - 2 * line, cell.width * picture.height / picture.width)
    cell = cell._replace(y=cell.y + 2 * line, height=height)
    _draw_picture(axes, picture, cell, comparison.box)


def _draw_ranking(
    axes: Axes, ranking: Ranking, first: _Cell, *, line: float, gap: float, note: float
) -> None:
    """Draws a method's heading and answers, the first in `first`, `note` below each."""
    ap = "" if ranking.ap is None else f"    {format_ap(ranking.ap)}"
    _write(axes, ranking.name + ap, first.x, first.y + 0.8 * line, size=line)
    height = first.height - 2 * line - note
    first = first._replace(y=first.y + 2 * line, height=height)
    for column, answer in enumerate(ranking.answers):
        cell = first._replace(x=first.x + column * (first.width + gap))
        _draw_answer(axes, answer, cell, line=line)


def _draw_answer(axes: Axes, answer: Answer, cell: _Cell, *, line: float) -> None:
    """Draws an answer in its frame, with its mark, and its note below."""
    color, mark = _FRAMES[None if answer.correct is None else bool(answer.correct)]
    _draw_rectangle(axes, cell, fill=_MAT, zorder=-1)
    _draw_picture(axes, to_rgb(answer.picture), cell, answer.box)
    _draw_rectangle(axes, cell, edge=color, linewidth=0.25 * line)
    if mark:
        side = 1.3 * line
        x, y = cell.x + cell.width - side, cell.y + cell.height - side
        _draw_rectangle(axes, _Cell(x, y, side, side), fill=color)
        middle = x + side / 2, y + side / 2
        _write(axes, mark, *middle, size=0.8 * line, color="white", align="center")
    if answer.note:
        below = cell.y + cell.height + 0.7 * line
        _write(axes, answer.note, cell.x, below, size=0.75 * line, weight="normal")


def _draw_picture(
    axes: Axes, picture: PIL.Image.Image, cell: _Cell, box: Box | None
) -> None:
    """Draws a picture, as large as fits in the middle of its cell, and a box in it."""
    scale = min(cell.width / picture.width, cell.height / picture.height)
    width, height = scale * picture.width, scale * picture.height
    x, y = cell.x + (cell.width - width) / 2, cell.y + (cell.height - height) / 2
    pixels = max(1, round(width)), max(1, round(height))
    small = picture.resize(pixels, PIL.Image.Resampling.LANCZOS)
    axes.imshow(small, extent=(x, x + width, y + height, y))
    if box is not None:
        x0, y0, x1, y1 = (scale * edge for edge in box)
        outline = _Cell(x + x0, y + y0, x1 - x0, y1 - y0)
        _draw_rectangle(axes, outline, edge="#000000a0", linewidth=6)
        _draw_rectangle(axes, outline, edge=_BOX, linewidth=3)


def _draw_rectangle(
    axes: Axes,
    cell: _Cell,
    *,
    fill: str = "none",
    edge: str = "none",
    linewidth: float = 0.0,
    zorder: int = 1,
) -> None:
    """Draws a rectangle, its edge `linewidth` pixels wide; pictures have zorder 0."""
    axes.add_patch(
        Rectangle(
            (cell.x, cell.y),
            cell.width,
            cell.height,
            facecolor=fill,
            edgecolor=edge,
            linewidth=linewidth * 72 / DPI,
            zorder=zorder,
        )
    )


def _write(
    axes: Axes,
    text: str,
    x: float,
    y: float,
    *,
    size: float,
    color: str = INK,
    align: str = "left",
    weight: str = "bold",
) -> None:
    """Writes text, `size` pixels high; a $ in it starts no formula."""
    axes.text(
        x,
        y,
        text,
        fontsize=size * 72 / DPI,
        fontfamily="DejaVu Sans",  # Has the marks, and is part of Matplotlib.
        fontweight=weight,
        color=color,
        horizontalalignment=align,
        verticalalignment="center_baseline" if align == "center" else "center",
        parse_math=False,
    )
