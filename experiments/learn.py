"""Parameters by gradient and otherwise: `python -m experiments learn`."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from configs import learn as card
from configs.learn import LearnConfig
from diffjax.evaluation import bootstrap_interval, paired_bootstrap
from diffjax.learning import object_splits, pool_splits
from diffjax.progress import progress_bars
from experiments._benchmarks import load
from experiments._learning import Task, told
from experiments._main import Findings, recorded, run_card
from experiments._ways import WAYS

_PARTS = "alpha", "gamma", "lam", "query_gamma", "bias"
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
    if unknown := sorted(set(config.ways) - set(WAYS)):
        raise ValueError(
            f"ways must be of {', '.join(WAYS)}, got {', '.join(unknown)}."
        )
    collection = load(config, workdir)
    objects = [str(name) for name in collection.truth.objects]
    splits = object_splits(objects, splits=config.splits, seed=config.seed)
    found: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in config.ways}
    with progress_bars() as progress:
        for number, split in enumerate(splits):
            progress("learning on splits", number, len(splits))
            task = Task(collection, split, config, number)
            for name in config.ways:
                found[name].append(_learn(name, number, task))
        progress("learning on splits", len(splits), len(splits))
    pooled = {
        name: pool_splits([one["precision"] for one in each], splits)
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
            "chosen": _words(each),
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
        "fit": told(config.fit),
        "whitening": told(config.whitening),
        "ways": len(config.ways),
    }
    return Findings(collection, results, more=more, seed=config.seed)


def _learn(name: str, number: int, task: Task) -> dict[str, np.ndarray]:
    """Learns in one way on one split, or finds what was learned before."""

    def compute():
        learned = WAYS[name](task)
        own = learned.parameters
        scalars = [getattr(own, part) for part in _PARTS]
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
    return dict(task.collection.remembered(f"learn, {name}", settings, compute))


def _words(each: list[dict[str, np.ndarray]]) -> str:
    """The medians over splits of the parameters that differ between splits."""
    scalars = np.stack([one["scalars"] for one in each])
    return ", ".join(
        f"{part} {np.median(column):.3g}"
        for part, column in zip(_PARTS, scalars.T, strict=True)
        if np.isfinite(column).all() and np.ptp(column) > 0
    )


run = recorded("learn", measure)


def main() -> None:
    """Reads the command line, learns, tests and records."""
    run_card("learn", card, run)
