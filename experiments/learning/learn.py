"""Parameters by gradient and otherwise: `python -m experiments learn`."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from configs import learn as card
from configs.learn import LearnConfig
from diffjax.evaluation import bootstrap_interval, paired_bootstrap
from diffjax.learning import average_over_splits, split_by_object
from diffjax.progress import progress_bars
from experiments._benchmarks import load_benchmark
from experiments._runner import Findings, make_recorded_run, run_from_command_line

from ._methods import LEARNING_METHODS
from ._task import LearningTask, describe_settings

_PARAMETERS = "alpha", "gamma", "lam", "query_gamma", "bias"
# What each is compared with; all others with the defaults alone.
_AGAINST = {
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
    """Learns on every split in every way and tests on objects that were not seen.

    Args:
        config: What is learned on which benchmark.
        workdir: Keeps pictures, index and what was learned.
        records: Nothing is drawn there.

    Returns:
        What was found.

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
    found: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in config.ways}
    with progress_bars() as progress:
        for number, split in enumerate(splits):
            progress("learning on splits", number, len(splits))
            task = LearningTask(collection, split, config, number)
            for name in config.ways:
                found[name].append(_learn(name, number, task))
        progress("learning on splits", len(splits), len(splits))
    pooled = {
        name: average_over_splits([one["precision"] for one in each], splits)
        for name, each in found.items()
    }
    drawing: dict[str, Any] = {"groups": tuple(objects), "seed": config.seed}
    results = []
    for name, each in found.items():
        own = bootstrap_interval(pooled[name], **drawing)
        entry: dict[str, Any] = {
            "method": name,
            "mean_ap": own.mean,
            "low": own.low,
            "high": own.high,
            "solves": float(np.mean([one["solves"] for one in each])),
            "chosen": _median_parameters(each),
            "differences": [
                {
                    "against": other,
                    **paired_bootstrap(
                        pooled[name], pooled[other], **drawing
                    )._asdict(),
                }
                for other in _AGAINST.get(name, ("defaults",))
                if other != name and other in pooled
            ],
        }
        results.append(entry)
    # One value a line of the record: what is nested is told in words.
    more = {
        "fit": describe_settings(config.fit),
        "whitening": describe_settings(config.whitening),
        "ways": len(config.ways),
    }
    return Findings(collection, results, more=more, seed=config.seed)


def _learn(name: str, number: int, task: LearningTask) -> dict[str, np.ndarray]:
    """Learns in one way on one split, or finds what was learned before."""

    def compute():
        learned = LEARNING_METHODS[name](task)
        own = learned.parameters
        scalars = [getattr(own, part) for part in _PARAMETERS]
        return {
            "precision": task.precision(own, task.split.test),
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


def _median_parameters(each: list[dict[str, np.ndarray]]) -> str:
    """The medians over splits of the parameters that differ between splits."""
    scalars = np.stack([one["scalars"] for one in each])
    return ", ".join(
        f"{part} {np.median(column):.3g}"
        for part, column in zip(_PARAMETERS, scalars.T, strict=True)
        if np.isfinite(column).all() and np.ptp(column) > 0
    )


run = make_recorded_run("learn", measure)


def main() -> None:
    """Reads the command line, learns, tests and records."""
    run_from_command_line("learn", card, run)
