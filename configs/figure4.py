"""Figure 4: mAP against the regions that a mixture leaves of an image's.

Paper, k 50 for mixtures: 5 means are competitive with all 21 regions and cheaper; times
stand beside the points, global diffusion and all regions are marked.
Data: any benchmark at hand.
Settings: mixtures as in `configs/reduction.py`; the same k for graph and query.
Recorded: mAP with intervals, nodes, edges and milliseconds of a query's diffusion by
means of an image; chart.
Expected: mAP rises with the means; twelve are above all regions at k 200, by 3 on
scenes-small and 6 on grocery, whose graph has k 50.
Cost: two minutes on 2 cores after the pictures are described.
Command: python -m experiments figure4 --benchmark scenes-small
"""

import dataclasses

from configs.scenes import quick_setup
from configs.schema import Setup


@dataclasses.dataclass(frozen=True)
class Figure4Config(Setup):
    """Which mixtures."""

    components: tuple[int, ...] = (1, 2, 3, 5, 8, 12)
    """Means of an image."""
    k: int = 50
    """Neighbours in the graph of means, and of the query, as in the paper."""
    all_k: int = 200
    """The same for all regions, as in the paper."""
    batch: int = 32
    """Queries whose time is taken together."""


def full() -> Figure4Config:
    """The figure of the records."""
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
