"""One comparison as a picture file, for papers, slides and the README."""

import io
import os

from diffjax._io import write_atomically
from diffjax.report import Comparison


def write_figure(
    path: str | os.PathLike[str],
    comparison: Comparison,
    *,
    top: int = 5,
    width: int = 1600,
) -> None:
    """Draws a query and the best answers of each method, one method a row, as PNG.

    Args:
        path: Where to; written aside and renamed.
        comparison: The query and its rankings.
        top: How many answers of each method.
        width: Of the figure, in pixels; the height follows.

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
    # Matplotlib takes longer to import than all the rest of this stage.
    from experiments.reporting import _draw  # noqa: PLC0415

    figure = _draw.draw_comparison(comparison._replace(rankings=rankings), width=width)
    file = io.BytesIO()
    # Without its maker's name and version, equal figures are equal files.
    figure.savefig(file, format="png", dpi=_draw.DPI, metadata={"Software": None})
    write_atomically(path, file.getvalue())
