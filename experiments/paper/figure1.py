"""Figure 1 of the paper, diffusion in the plane: `python -m experiments figure1`."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure

from configs import figure1 as card
from configs.figure1 import Figure1Config
from diffjax.datasets import ToyManifolds, toy_manifolds
from diffjax.graph import affinity, normalize
from diffjax.report import append_record, make_record
from experiments._runner import run_from_command_line

from ._plane_diffusion import PlaneSearch, nearest_points, score_plane, search_plane

_DPI, _WIDTH, _HEIGHT = 160, 10.0, 5.05  # Width and height in inches.
_HALF_SIDE = 1.22  # Of the visible part of the plane.
_LEVELS = np.logspace(-3, 0, 10)  # Relative to the highest score of a data point.
_INK, _DATA, _NEAREST, _QUERY = "#1d2430", "#2a5ca8", "#12894a", "#d7191c"


def run(
    config: Figure1Config, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Searches from one query point and from all, draws both, and adds a record.

    Args:
        config: Points of the plane, graph and solver.
        workdir: Not used: nothing is cached.
        records: Folder of `figure1.png` and `figure1.jsonl`.

    Returns:
        The record.

    Raises:
        ValueError: If a setting is out of range; nothing is written then.
    """
    del workdir
    if config.grid < 2:
        raise ValueError(f"grid must be at least 2, got {config.grid}.")
    toy = toy_manifolds(
        points_per_manifold=config.points_per_manifold,
        clutter=config.clutter,
        noise=config.noise,
        seed=config.seed,
    )
    neighbors = nearest_points(
        toy.points, toy.points, config.k, bandwidth=config.bandwidth
    )
    graph = normalize(affinity(neighbors, gamma=1.0))
    searches = [search_plane(toy, graph, count, config=config) for count in (1, 3)]
    record = make_record(
        "figure1",
        settings=dataclasses.asdict(config),
        results=[result for search in searches for result in search.results],
        seed=config.seed,
    )
    figure = draw(toy, searches, config=config)
    records.mkdir(parents=True, exist_ok=True)
    # Without its maker's name and version, equal figures are equal files.
    figure.savefig(records / "figure1.png", dpi=_DPI, metadata={"Software": None})
    append_record(records / "figure1.jsonl", record)
    return record


def draw(
    toy: ToyManifolds, searches: Sequence[PlaneSearch], *, config: Figure1Config
) -> Figure:
    """Draws two searches side by side, without Matplotlib's global state."""
    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    side, gap, bottom = 4.42, 0.2, 0.32
    lefts = 0.1, 0.1 + side + gap
    panels = [_add_axes(figure, left, bottom, side, side) for left in lefts]
    titles = "(a) single query", "(b) multiple queries"
    contours = [
        _draw_panel(axes, title, toy, search, config=config)
        for axes, title, search in zip(panels, titles, searches, strict=True)
    ]
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="lower center",
        bbox_to_anchor=((0.1 + side + gap / 2) / _WIDTH, 0),
        ncols=3,
        handletextpad=0.3,
        frameon=False,
        fontsize=9,
        labelcolor=_INK,
    )
    bar_axes = _add_axes(figure, 0.2 + 2 * side + gap, bottom, 0.16, side)
    bar = figure.colorbar(contours[0], cax=bar_axes)
    bar.set_ticks([0.001, 0.01, 0.1, 1], labels=["0.001", "0.01", "0.1", "1"])
    bar_axes.tick_params(labelsize=8, colors=_INK, length=2)
    bar_axes.set_title("score", loc="left", fontsize=8.5, color=_INK)
    return figure


def _draw_panel(
    axes: Axes,
    title: str,
    toy: ToyManifolds,
    search: PlaneSearch,
    *,
    config: Figure1Config,
) -> ContourSet:
    """Draws the points over contours of the score, relative to their highest."""
    side = np.linspace(-_HALF_SIDE, _HALF_SIDE, config.grid)
    plane = score_plane(
        toy.points, search.scores, side, side, bandwidth=config.bandwidth
    )
    # The scale is logarithmic: 0, and values that round below it, become small.
    plane = np.maximum(plane / search.scores.max(), _LEVELS[0] / 1e3)
    light = mpl.colormaps["YlOrBr"](np.linspace(0.03, 0.6, len(_LEVELS) - 1))
    scale = LogNorm(_LEVELS[0], _LEVELS[-1])
    filled = axes.contourf(
        side, side, plane, _LEVELS, cmap=ListedColormap(light), norm=scale
    )
    axes.contour(side, side, plane, _LEVELS, colors="#7a4a1280", linewidths=0.6)
    near = f"its {config.query_k} nearest data points"
    for layer, (points, size, marker, color, label) in {
        2: (toy.points, 5, "o", _DATA, "data point"),
        4: (search.queries, 110, "*", _QUERY, "query"),
        3: (toy.points[search.nearest_points], 16, "o", _NEAREST, near),
    }.items():
        axes.scatter(
            *points.T,
            s=size,
            marker=marker,
            color=color,
            label=label,
            edgecolors="white" if layer > 2 else "none",
            linewidths=0.5,
            zorder=layer,
        )
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=_INK)
    diffused, measured = (result["average_precision"] for result in search.results)
    note = f"average precision {diffused:.2f}, by distance {measured:.2f}"
    axes.set_title(note, loc="right", fontsize=8.5, color=_INK)
    shown = -_HALF_SIDE, _HALF_SIDE
    axes.set(xlim=shown, ylim=shown, aspect="equal", xticks=[], yticks=[])
    return filled


def _add_axes(figure: Figure, *inches: float) -> Axes:
    """Adds axes at left, bottom, width, height in inches."""
    return figure.add_axes(tuple(np.divide(inches, [_WIDTH, _HEIGHT] * 2)))


def main() -> None:
    """Reads the command line, draws and records."""
    run_from_command_line("figure1", card, run)
