"""Learning: parameters and projections by gradient, against searches of equal cost.

Paper: nothing is learned; its parameters are alpha 0.99, gamma 3 and lambda 1.
Data: any benchmark at hand with four objects or more.
Protocol: objects are split by `learning.object_splits`, seeds 0, 1, 2, ...; all
pictures stay in the database. Of the objects to learn on a quarter tells when to stop;
nothing is chosen on the test part. Searches try as many settings as the gradient's
solves pay for. Closed-form whitening sees the database pictures of the objects to learn
on.
Recorded: mAP on objects that were not seen, pooled over splits, with intervals over
objects; solves; paired differences from the defaults and from the closed form.
Cost: an hour and a half on 2 cores for grocery; a changed setting computes its own.
Command: python -m experiments learn --benchmark grocery
"""

import dataclasses

from configs.scenes import quick_setup
from configs.schema import Setup
from diffjax.data import ScenesConfig
from diffjax.learning import FitConfig


@dataclasses.dataclass(frozen=True)
class LearnConfig(Setup):
    """What is learned, and how."""

    ways: tuple[str, ...] = (
        *("defaults", "grid", "random", "gradient", "gradient, five parameters"),
        *("PCA-whitening", "supervised whitening", "supervised whitening, gradient"),
        "projection from PCA-whitening",
        "projection from supervised whitening",
    )
    """What is compared."""
    splits: int = 10
    """Splits of the objects."""
    rank: int = 64
    """Dimensions of the projections."""
    shrinkage: float = 0.1
    """Of the closed form's covariance of differences."""
    k: int = 50
    """Neighbours in the graph."""
    fit: FitConfig = dataclasses.field(
        default_factory=lambda: FitConfig(
            steps=80, evaluate_every=20, patience=2, refresh_every=20
        )
    )
    """How parameters are learned; neighbours are refreshed for projections only."""
    seed: int = 0
    """Of the first split and the resampling."""


def full() -> LearnConfig:
    """The experiment of the records."""
    return LearnConfig()


def quick() -> LearnConfig:
    """Few scenes, steps and splits, in seconds."""
    few = ScenesConfig(
        objects=5, scenes_per_object=3, empty_scenes=3, queries_per_object=1
    )
    return LearnConfig(
        composed=few,
        dim=quick_setup()["dim"],
        ways=("defaults", "random", "supervised whitening", "gradient"),
        splits=2,
        rank=6,
        k=20,
        fit=FitConfig(steps=4, evaluate_every=2, batch=2, query_k=10, refresh_every=2),
    )
