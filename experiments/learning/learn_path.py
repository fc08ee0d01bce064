"""Surface of mAP and paths of the gradient: `python -m experiments learn_path`."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from configs import learn_path as card
from configs.learn import full as learning
from configs.learn_path import LearnPathConfig
from diffjax.learning import fit, parameters, split_by_object
from experiments._benchmarks import load_benchmark
from experiments._runner import Findings, make_recorded_run, run_from_command_line

from ._task import LearningTask, describe_settings

_LEARNED = "alpha", "gamma"
_INK, _COLORS = "#1d2430", ("#d7191c", "#2a5ca8", "#12894a", "#8a4fbf")
_DPI, _LEVELS = 160, 12


class Path(NamedTuple):
    """The way that learning took from one start.

    Attributes:
        alpha: Before every step.
        gamma: Before every step.
        loss: Of every step's batch.
        evaluated: Steps at which the held-out queries were judged.
        held_out: Their mean average precision there.
    """

    alpha: Float[np.ndarray, " t"]
    gamma: Float[np.ndarray, " t"]
    loss: Float[np.ndarray, " t"]
    evaluated: Float[np.ndarray, " e"]
    held_out: Float[np.ndarray, " e"]


def measure(
    config: LearnPathConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> Findings:
    """Learns from every start, judges the grid, draws `learn_path_BENCHMARK.png`.

    Args:
        config: Starts and grid.
        workdir: Keeps pictures and index.
        records: Folder of the picture.

    Returns:
        What was found.

    Raises:
        ValueError: If the benchmark has fewer than four objects.
    """
    collection = load_benchmark(config, workdir)
    objects = [str(name) for name in collection.truth.objects]
    (split,) = split_by_object(objects, splits=1, seed=config.seed)
    own = dataclasses.replace(learning(), k=config.k, fit=config.fit)
    task = LearningTask(collection, split, own)

    def judge(alpha: float, gamma: float) -> float:
        at = parameters(alpha=alpha, gamma=gamma)
        return float(np.nanmean(task.precision(at, split.train)))

    settings = {
        "seed": config.seed,
        "k": config.k,
        "fit": describe_settings(config.fit),
    }
    grid = {"alphas": config.alphas, "gammas": config.gammas}

    def judge_all():
        rows = [[judge(a, g) for a in config.alphas] for g in config.gammas]
        return {"mean_ap": np.array(rows)}

    kept = collection.load_or_compute("learn_path, surface", settings | grid, judge_all)
    surface = kept["mean_ap"]
    paths = [
        Path(
            **collection.load_or_compute(
                "learn_path, path",
                {**settings, "alpha": alpha, "gamma": gamma},
                lambda start=(alpha, gamma): _follow(task, *start)._asdict(),
            )
        )
        for alpha, gamma in config.starts
    ]
    row, column = np.unravel_index(surface.argmax(), surface.shape)
    results = [
        {
            "point": "best of the grid",
            "alpha": config.alphas[column],
            "gamma": config.gammas[row],
            "mean_ap_training": float(surface.max()),
        }
    ]
    for number, path in enumerate(paths, start=1):
        for point, step in (("begins", 0), ("before its last step", -1)):
            alpha, gamma = float(path.alpha[step]), float(path.gamma[step])
            results.append(
                {
                    "point": f"path {number} {point}",
                    "alpha": alpha,
                    "gamma": gamma,
                    "mean_ap_training": judge(alpha, gamma),
                }
            )
    records.mkdir(parents=True, exist_ok=True)
    figure = draw(config, surface, paths)
    # Without its maker's name and version, equal figures are equal files.
    figure.savefig(
        records / f"learn_path_{config.label}.png",
        dpi=_DPI,
        metadata={"Software": None},
    )
    more = {
        "training_queries": int(split.train.sum()),
        "fit": describe_settings(config.fit),
        "starts": ", ".join(f"{a:g} and {g:g}" for a, g in config.starts),
    }
    return Findings(collection, results, more=more, seed=config.seed)


def _follow(task: LearningTask, alpha: float, gamma: float) -> Path:
    """Learns alpha and gamma from one start, to the last step."""
    split, settings = task.split, task.config.fit
    found = fit(
        task.problem,
        task.labelled(split.train),
        task.labelled(split.held_out),
        parameters(alpha=alpha, gamma=gamma),
        learned=_LEARNED,
        config=dataclasses.replace(
            settings,
            k=task.config.k,
            refresh_every=None,
            patience=settings.steps,
        ),
    )
    noted: Mapping[str, np.ndarray] = found.history
    return Path(
        noted["alpha"],
        noted["gamma"],
        noted["loss"],
        noted["evaluated_step"],
        noted["held_out"],
    )


def draw(
    config: LearnPathConfig, surface: Float[np.ndarray, "g a"], paths: Sequence[Path]
) -> Figure:
    """Draws the surface with the paths, and beside it loss, mAP and parameters."""
    figure = Figure(figsize=(11.5, 5.2), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        2, 3, width_ratios=(2.1, 1, 1), hspace=0.35, wspace=0.32, left=0.06, right=0.98
    )
    plane = figure.add_subplot(grid[:, 0])
    _draw_surface(plane, config, surface, paths)
    shown = {
        "loss of each batch": lambda path: (None, path.loss),
        "mAP of held-out queries, %": lambda p: (p.evaluated, 100 * p.held_out),
        "alpha": lambda path: (None, path.alpha),
        "gamma": lambda path: (None, path.gamma),
    }
    for place, (title, take) in enumerate(shown.items()):
        axes = figure.add_subplot(grid[place // 2, 1 + place % 2])
        for path, color in zip(paths, _COLORS, strict=False):
            x, y = take(path)
            axes.plot(np.arange(len(y)) if x is None else x, y, color=color, lw=1.3)
        axes.set_title(title, loc="left", fontsize=9, color=_INK)
        if place > 1:
            axes.set_xlabel("step", fontsize=8.5, color=_INK)
        axes.tick_params(labelsize=8, colors=_INK, length=2)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_surface(
    axes: Axes,
    config: LearnPathConfig,
    surface: Float[np.ndarray, "g a"],
    paths: Sequence[Path],
) -> None:
    """Contours of mAP over 1 - alpha and gamma, both by their logarithm."""
    spread = 1 - np.asarray(config.alphas)
    light = ListedColormap(mpl.colormaps["YlGnBu"](np.linspace(0.05, 0.7, 256)))
    place = spread, np.asarray(config.gammas), 100 * surface
    axes.contourf(*place, _LEVELS, cmap=light)
    lines = axes.contour(*place, _LEVELS, colors="#1d243055", linewidths=0.5)
    axes.clabel(lines, fontsize=7, fmt="%g", colors=_INK)
    for number, (path, color) in enumerate(zip(paths, _COLORS, strict=False), start=1):
        axes.plot(1 - path.alpha, path.gamma, color=color, lw=1.6, label=f"{number}")
        axes.plot(1 - path.alpha[:1], path.gamma[:1], "o", color=color, ms=6)
        axes.plot(1 - path.alpha[-1:], path.gamma[-1:], "*", color=color, ms=13)
    axes.set(xscale="log", yscale="log")
    axes.invert_xaxis()
    shown = config.alphas[:: max(1, len(config.alphas) // 6)]
    axes.set_xticks([1 - a for a in shown], labels=[f"{a:g}" for a in shown])
    axes.set_yticks(config.gammas, labels=[f"{g:g}" for g in config.gammas])
    axes.minorticks_off()
    axes.set_xlabel("alpha", fontsize=9, color=_INK)
    axes.set_ylabel("gamma", fontsize=9, color=_INK)
    axes.tick_params(labelsize=8, colors=_INK)
    title = f"mAP of the training queries, %, {config.label}"
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=_INK)
    axes.legend(title="path", fontsize=8, title_fontsize=8, loc="lower left")


run = make_recorded_run("learn_path", measure)


def main() -> None:
    """Reads the command line, learns, judges, draws and records."""
    run_from_command_line("learn_path", card, run)
