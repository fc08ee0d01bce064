"""Figure 2: mAP against the neighbours k of the graph, global and regional.

Paper, Oxford5k: stable over a wide range of k; few neighbours hurt regional diffusion
more, many hurt global diffusion more. R-MAC and R-match are horizontal lines.
Data: any benchmark at hand.
Settings: the paper's except for k; the query's k is the graph's for regions where that
is less than 200, and 10 for global descriptors.
Recorded: mAP by k with intervals over objects, paired differences from the best k and
from the other methods; chart.
Expected: regional diffusion best at k 50 on both, 43 on scenes-small and 56 on grocery;
global diffusion best at k 5 and k 10.
Cost: two minutes on 2 cores after the pictures are described.
Command: python -m experiments figure2 --benchmark scenes-small
"""

import dataclasses

from configs.schema import Setup, quick_setup


@dataclasses.dataclass(frozen=True)
class Figure2Config(Setup):
    """Values of k."""

    k: tuple[int, ...] = (3, 5, 10, 20, 50, 100, 200, 300)
    """Neighbours in the graph."""


def full() -> Figure2Config:
    """Settings of the records."""
    return Figure2Config()


def quick() -> Figure2Config:
    """Few scenes and values of k, in seconds."""
    return Figure2Config(**quick_setup(), k=(5, 10))
