"""Surface of mAP over alpha and gamma, with the paths of gradient descent on it.

Paper: nothing is learned; alpha is 0.99 and gamma 3.
Data: any benchmark at hand with four objects or more.
Protocol: the training queries of the first split of `learning.split_by_object`. Alpha
and gamma are learned from the paper's values and from distant starts, without early
stopping. The surface is the mean average precision of the same queries on a grid.
Recorded: the start of each path and its point before the last step, with mAP there and
at the best point of the grid; a picture of surface, paths, losses and parameters.
Cost: ten minutes on 2 cores after the pictures are described.
Command: python -m experiments learn_path --benchmark grocery
"""

import dataclasses

from configs.learn import quick as quick_learning
from configs.schema import Setup
from diffjax.learning import FitConfig


@dataclasses.dataclass(frozen=True)
class LearnPathConfig(Setup):
    """Grid and starts of the paths."""

    alphas: tuple[float, ...] = (
        *(0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98),
        *(0.99, 0.995, 0.998, 0.999),
    )
    """Columns of the grid."""
    gammas: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
    """Rows of the grid."""
    starts: tuple[tuple[float, float], ...] = ((0.99, 3.0), (0.6, 1.0), (0.7, 8.0))
    """Alpha and gamma at the start of every path."""
    k: int = 50
    """Neighbours in the graph."""
    fit: FitConfig = dataclasses.field(
        default_factory=lambda: FitConfig(
            steps=60, evaluate_every=10, patience=6, batch=16, learning_rate=0.2
        )
    )
    """Settings of the fit."""
    seed: int = 0
    """Seed of the split."""


def full() -> LearnPathConfig:
    """Settings of the records."""
    return LearnPathConfig()


def quick() -> LearnPathConfig:
    """Few scenes, points and steps, in seconds."""
    few = quick_learning()
    return LearnPathConfig(
        composed=few.composed,
        dim=few.dim,
        alphas=(0.7, 0.99),
        gammas=(1.0, 3.0),
        starts=((0.9, 2.0),),
        k=few.k,
        fit=few.fit,
    )
