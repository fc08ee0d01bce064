"""Learning by gradient and by search: `python -m experiments learn`."""

import dataclasses
import pathlib

import numpy as np

from configs import learn as card
from configs.learn import LearnConfig
from diffjax.learning import average_over_splits, split_by_object
from diffjax.progress import progress_bars
from experiments._benchmarks import load_benchmark
from experiments._entries import method_entry
from experiments._runner import Findings, make_recorded_run, run_from_command_line

from ._methods import LEARNING_METHODS
from ._task import LearningTask, describe_settings

_PARAMETERS = "alpha", "gamma", "lam", "query_gamma", "bias"
# Baselines of each method; of all others the defaults alone.
_BASELINES = {
    "gradient": ("defaults", "grid", "random"),
    "mixed whitening, gradient": (
        *("defaults", "PCA-whitening", "supervised whitening"),
        *("supervised whitening, shrinkage chosen", "mixed whitening"),
        *("mixed whitening, random", "mixed whitening, softmax"),
        "mixed whitening, hinge",
    ),
    "free projection, gradient": ("defaults", "supervised whitening"),
}


def measure(
    config: LearnConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> Findings:
    """Learns on every split by every method and tests on unseen objects.

    Args:
        config: Methods of learning, and the benchmark.
        workdir: Caches pictures, index and learned results.
        records: Not used: nothing is drawn.

    Returns:
        The findings.

    Raises:
        ValueError: If the benchmark has fewer than four objects.
    """
    del records
    if unknown := sorted(set(config.ways) - set(LEARNING_METHODS)):
        raise ValueError(
            f"ways must be of {', '.join(LEARNING_METHODS)}, got {', '.join(unknown)}."
        )
    collection = load_benchmark(config, workdir)
    objects = [str(name) for name in collection.truth.objects]
    splits = split_by_object(objects, splits=config.splits, seed=config.seed)
    learned: dict[str, list[dict[str, np.ndarray]]] = {n: [] for n in config.ways}
    with progress_bars() as progress:
        for number, split in enumerate(splits):
            progress("learning on splits", number, len(splits))
            task = LearningTask(collection, split, config, number)
            for name in config.ways:
                learned[name].append(_learn(name, number, task))
        progress("learning on splits", len(splits), len(splits))
    pooled = {
        name: average_over_splits([result["precision"] for result in results], splits)
        for name, results in learned.items()
    }
    entries = [
        method_entry(
            name,
            pooled[name],
            groups=tuple(objects),
            seed=config.seed,
            against=[
                (other, pooled[other])
                for other in _BASELINES.get(name, ("defaults",))
                if other != name and other in pooled
            ],
            solves=float(np.mean([result["solves"] for result in results])),
            chosen=_median_parameters(results),
        )
        for name, results in learned.items()
    ]
    # In words, since captions list nested settings one by one.
    more = {
        "fit": describe_settings(config.fit),
        "whitening": describe_settings(config.whitening),
        "ways": len(config.ways),
    }
    return Findings(collection, entries, more=more, seed=config.seed)


def _learn(name: str, number: int, task: LearningTask) -> dict[str, np.ndarray]:
    """Learns by one method on one split, or loads the cached result."""

    def compute():
        learned = LEARNING_METHODS[name](task)
        scalars = [getattr(learned.parameters, key) for key in _PARAMETERS]
        return {
            "precision": task.precision(learned.parameters, task.split.test),
            "solves": np.array(learned.solves),
            "scalars": np.array([np.nan if s is None else float(s) for s in scalars]),
        }

    config = task.config
    settings = {
        "split": number,
        "seed": config.seed,
        "rank": config.rank,
        "shrinkage": config.shrinkage,
        "k": config.k,
        "shrinkages": config.shrinkages,
        "fit": dataclasses.asdict(config.fit),
        "whitening": dataclasses.asdict(config.whitening),
    }
    return dict(task.collection.load_or_compute(f"learn, {name}", settings, compute))


def _median_parameters(results: list[dict[str, np.ndarray]]) -> str:
    """Describes the medians over splits of the parameters that vary."""
    scalars = np.stack([result["scalars"] for result in results])
    return ", ".join(
        f"{name} {np.median(column):.3g}"
        for name, column in zip(_PARAMETERS, scalars.T, strict=True)
        if np.isfinite(column).all() and np.ptp(column) > 0
    )


run = make_recorded_run("learn", measure)


def main() -> None:
    """Reads the command line, learns, tests and records."""
    run_from_command_line("learn", card, run)
