"""Figure 4: mAP against the number of means that replace an image's regions.

Paper, k 50 for mixtures: 5 means are competitive with all 21 regions and cheaper;
points are labelled with times, global diffusion and all regions are marked.
Data: any benchmark at hand.
Settings: mixtures as in `configs/reduction.py`; the same k for graph and query.
Recorded: mAP with intervals, paired differences from all regions and global diffusion,
nodes, edges and milliseconds of a query's diffusion by means of an image; chart.
Expected: mAP rises with the means; twelve are above all regions at k 200, by 3 on
scenes-small and 6 on grocery, whose graph has k 50.
Cost: two minutes on 2 cores after the pictures are described.
Command: python -m experiments figure4 --benchmark scenes-small
"""

import dataclasses

from configs.schema import Setup, quick_setup


@dataclasses.dataclass(frozen=True)
class Figure4Config(Setup):
    """Mixtures and graphs."""

    components: tuple[int, ...] = (1, 2, 3, 5, 8, 12)
    """Means of an image."""
    k: int = 50
    """Neighbours in the graph of means, and of the query, as in the paper."""
    all_k: int = 200
    """Neighbours in the graph of all regions, and of the query, as in the paper."""
    batch: int = 32
    """Queries that are timed together."""


def full() -> Figure4Config:
    """Settings of the records."""
    return Figure4Config()


def quick() -> Figure4Config:
    """Few scenes and means, in seconds."""
    return Figure4Config(
        **quick_setup(),
        components=(2,),
        k=10,
        all_k=20,
        batch=2,
    )
