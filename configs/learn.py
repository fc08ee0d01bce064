"""Learning of parameters and projections by gradient, against searches of equal cost.

Paper: nothing is learned; its parameters are alpha 0.99, gamma 3 and lambda 1.
Data: any benchmark at hand with four objects or more.
Protocol: objects are split by `learning.split_by_object`, seeds 0, 1, 2, ...; all
pictures stay in the database. A quarter of the training objects is held out for early
stopping; nothing is chosen on the test objects. Searches try as many settings as the
gradient's solves pay for; searches of a whitening as many as the gradient searches for
neighbours. Whitening in closed form sees the database pictures of the training objects.
"No labels" learns from pictures on whose neighbours large and small regions agree, or
from the differences between regions of one picture; its test uses labels, too.
The kinds of differences that a mixed whitening shrinks, and the settings of its fit,
were chosen while looking at splits 0 to 3 of grocery, their tests included; no other
benchmark was looked at.
Recorded: mAP on unseen objects, pooled over splits, with intervals over objects;
solves; paired differences.
Cost: an hour and a half on 2 cores for grocery; cached results are used again.
Command: python -m experiments learn --benchmark grocery
"""

import dataclasses

from configs.schema import Setup, quick_setup
from diffjax.datasets import ScenesConfig
from diffjax.learning import FitConfig


@dataclasses.dataclass(frozen=True)
class LearnConfig(Setup):
    """Methods of learning and their settings."""

    ways: tuple[str, ...] = (
        *("defaults", "grid", "random", "gradient", "gradient, no labels"),
        *("gradient, five parameters", "PCA-whitening"),
        "whitening of regions, no labels",
        *("supervised whitening", "supervised whitening, shrinkage chosen"),
        *("mixed whitening", "mixed whitening, random", "mixed whitening, gradient"),
        "free projection, gradient",
    )
    """Methods to compare."""
    splits: int = 10
    """Splits of the objects."""
    rank: int = 64
    """Dimensions of the projections."""
    shrinkage: float = 0.1
    """Shrinkage of the closed form's covariance of differences."""
    shrinkages: tuple[float, ...] = (0.03, 0.1, 0.3, 0.5, 0.7, 0.9)
    """Candidates where the shrinkage is chosen."""
    k: int = 50
    """Neighbours in the graph."""
    fit: FitConfig = dataclasses.field(
        default_factory=lambda: FitConfig(
            steps=60,
            evaluate_every=20,
            patience=2,
            refresh_every=20,
            search_steps=20,
        )
    )
    """Settings of the fit; neighbours are refreshed for projections only."""
    whitening: FitConfig = dataclasses.field(
        default_factory=lambda: FitConfig(
            steps=48,
            evaluate_every=8,
            refresh_every=8,
            patience=4,
            batch=16,
            learning_rate=0.1,
            search_steps=20,
        )
    )
    """Settings of the fit of a mixed whitening."""
    seed: int = 0
    """Seed of the first split and of the bootstrap."""


def full() -> LearnConfig:
    """Settings of the records."""
    return LearnConfig()


def quick() -> LearnConfig:
    """Few scenes, steps and splits, in seconds."""
    few = ScenesConfig(
        objects=6, scenes_per_object=3, empty_scenes=3, queries_per_object=1
    )
    return LearnConfig(
        composed=few,
        dim=quick_setup()["dim"],
        ways=(
            *("defaults", "random", "gradient", "supervised whitening"),
            *("mixed whitening", "mixed whitening, gradient"),
        ),
        splits=2,
        rank=6,
        k=20,
        fit=FitConfig(
            steps=4,
            evaluate_every=2,
            batch=2,
            query_k=10,
            refresh_every=2,
            search_steps=20,
        ),
        whitening=FitConfig(steps=2, evaluate_every=2, batch=2, query_k=10),
    )
