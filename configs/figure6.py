"""Figure 6: precision of positives against the area of their object.

Paper, INSTRE: precision at the rank of each positive, averaged by the object's share of
its picture, for global and regional diffusion; the gain is largest for small objects.
Data: composed scenes, where the object's box in a database picture is known. INSTRE's
released boxes are those of queries.
Settings: the paper's, except for the k below; bins hold equal numbers of positives.
Recorded: mean precision by bin and method with intervals over objects, paired gains;
mAP of both methods; chart.
Expected: on scenes-small a gain of 8 points below 2 % of the picture, 25 at 3.7 %, and
8 to 13 above 8 %.
Cost: a minute on 2 cores after the pictures are described.
Command: python -m experiments figure6 --benchmark scenes-small
"""

import dataclasses

from configs.schema import Setup, quick_setup


@dataclasses.dataclass(frozen=True)
class Figure6Config(Setup):
    """Bins and graphs."""

    bins: int = 8
    """Bins of equal numbers of positives."""
    k: int = 50
    """Neighbours in the graph of regions, and of the query."""
    global_k: int = 10
    """Neighbours in the graph of images."""
    global_query_k: int = 3
    """Neighbours of the query's global descriptor."""


def full() -> Figure6Config:
    """Settings of the records."""
    return Figure6Config()


def quick() -> Figure6Config:
    """Few scenes and bins, in seconds."""
    return Figure6Config(
        **quick_setup(),
        bins=2,
        k=20,
        global_k=5,
    )
