"""Paths of gradient descent on the mAP surface: `python -m experiments learn_path`."""

import dataclasses
import itertools
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
from experiments._entries import method_entry
from experiments._runner import Findings, make_recorded_run, run_from_command_line

from ._task import LearningTask, describe_settings

_LEARNED = "alpha", "gamma"
_INK, _COLORS = "#1d2430", ("#d7191c", "#2a5ca8", "#12894a", "#8a4fbf")
_DPI, _LEVELS = 160, 12


class Path(NamedTuple):
    """Path of learning from one start.

    Attributes:
        alpha: Alpha before every step.
        gamma: Gamma before every step.
        loss: Loss of every step's batch.
        evaluated: Steps at which the held-out queries were evaluated.
        held_out: Mean average precision of the held-out queries there.
    """

    alpha: Float[np.ndarray, " t"]
    gamma: Float[np.ndarray, " t"]
    loss: Float[np.ndarray, " t"]
    evaluated: Float[np.ndarray, " e"]
    held_out: Float[np.ndarray, " e"]


def measure(
    config: LearnPathConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> Findings:
    """Learns from every start, evaluates the grid, draws `learn_path_BENCHMARK.png`.

    Args:
        config: Starts and grid.
        workdir: Caches pictures, index and learned paths.
        records: Folder of the picture.

    Returns:
        The findings.

    Raises:
        ValueError: If the benchmark has fewer than four objects.
    """
    collection = load_benchmark(config, workdir)
    objects = [str(name) for name in collection.truth.objects]
    (split,) = split_by_object(objects, splits=1, seed=config.seed)
    task_config = dataclasses.replace(learning(), k=config.k, fit=config.fit)
    task = LearningTask(collection, split, task_config)

    def evaluate(alpha: float, gamma: float) -> Float[np.ndarray, " q"]:
        point = parameters(alpha=alpha, gamma=gamma)
        return task.precision(point, split.train)[split.train]

    settings = {
        "seed": config.seed,
        "k": config.k,
        "fit": describe_settings(config.fit),
    }
    grid = {"alphas": config.alphas, "gammas": config.gammas}

    def evaluate_grid():
        rows = [
            [np.nanmean(evaluate(a, g)) for a in config.alphas] for g in config.gammas
        ]
        return {"mean_ap": np.array(rows)}

    surface = collection.load_or_compute(
        "learn_path, surface", settings | grid, evaluate_grid
    )["mean_ap"]
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
    points = {"best of the grid": (config.alphas[column], config.gammas[row])}
    for number, path in enumerate(paths, start=1):
        for point, step in (("begins", 0), ("before its last step", -1)):
            values = float(path.alpha[step]), float(path.gamma[step])
            points[f"path {number} {point}"] = values
    precision = {name: evaluate(*values) for name, values in points.items()}
    best, *_ = points
    results = [
        method_entry(
            name,
            precision[name],
            groups=list(itertools.compress(objects, split.train)),
            seed=config.seed,
            against=[] if name == best else [(best, precision[best])],
            chosen=f"alpha {alpha:.4g}, gamma {gamma:.4g}",
            alpha=alpha,
            gamma=gamma,
        )
        for name, (alpha, gamma) in points.items()
    ]
    records.mkdir(parents=True, exist_ok=True)
    figure = draw(config, surface, paths)
    # Without Matplotlib's name and version, equal figures are equal files.
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
    """Learns alpha and gamma from one start, without early stopping."""
    split, settings = task.split, task.config.fit
    result = fit(
        task.training_graphs,
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
    history: Mapping[str, np.ndarray] = result.history
    return Path(
        history["alpha"],
        history["gamma"],
        history["loss"],
        history["evaluated_step"],
        history["held_out"],
    )


def draw(
    config: LearnPathConfig, surface: Float[np.ndarray, "g a"], paths: Sequence[Path]
) -> Figure:
    """Draws the surface with the paths, then loss, mAP and parameters by step."""
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
    for number, (title, series) in enumerate(shown.items()):
        axes = figure.add_subplot(grid[number // 2, 1 + number % 2])
        for path, color in zip(paths, _COLORS, strict=False):
            x, y = series(path)
            axes.plot(np.arange(len(y)) if x is None else x, y, color=color, lw=1.3)
        axes.set_title(title, loc="left", fontsize=9, color=_INK)
        if number > 1:
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
    """Draws contours of mAP over 1 - alpha and gamma, both on logarithmic axes."""
    spread = 1 - np.asarray(config.alphas)
    light = ListedColormap(mpl.colormaps["YlGnBu"](np.linspace(0.05, 0.7, 256)))
    grid = spread, np.asarray(config.gammas), 100 * surface
    axes.contourf(*grid, _LEVELS, cmap=light)
    lines = axes.contour(*grid, _LEVELS, colors="#1d243055", linewidths=0.5)
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
    """Reads the command line, learns, evaluates, draws and records."""
    run_from_command_line("learn_path", card, run)
