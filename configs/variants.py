"""What else is called diffusion: other queries, short lists, offline solutions.

Paper: a query inserted into the graph gets 77.7 mAP on INSTRE where the paper's own way
gets 80.0; it sees the reason in keeping k nearest both per region and for the whole of
y. Figure 5: a short list of less than a tenth of the database nearly gives the mAP of
all of it. The time of a query does not grow with its regions beyond the search for
their neighbours.
Data: composed scenes and grocery packages, as in their own cards.
Recorded: mAP of each variant with intervals, paired differences from the paper's way on
the whole graph, seconds a query on a batch of 8; seconds of the right-hand side and of
the diffusion by regions per query.
Expected: inserted queries below the paper's; a curve that rises with the list's length;
the diffusion's seconds the same for 1 region and for 60.
Cost: five minutes on 2 cores after the indices are made.
Command: python -m experiments variants scenes
"""

import dataclasses

from configs.scenes import few_scenes
from configs.schema import GroceryData, ScenesData
from diffjax.index import FolderConfig, IndexConfig


@dataclasses.dataclass(frozen=True)
class VariantsConfig:
    """Which variants, and of which lengths."""

    benchmark: GroceryData | ScenesData
    folder: FolderConfig = dataclasses.field(default_factory=FolderConfig)
    shortlists: tuple[int, ...] = (10, 25, 50, 100, 200, 400)
    """Lengths of short lists, in images."""
    offline: tuple[int, ...] = (100, 500, 1000)
    """Nodes that each solution made beforehand may reach."""
    regions: tuple[int, ...] = (1, 5, 20, 60)
    """Regions per query whose time is measured."""
    inserted: int = 200
    """Most queries that are inserted into the graph, the first ones."""


def full() -> dict[str, VariantsConfig]:
    """Both collections."""
    return {
        "scenes": VariantsConfig(ScenesData()),
        "grocery": VariantsConfig(GroceryData()),
    }


def quick() -> VariantsConfig:
    """A dozen scenes, in seconds."""
    return VariantsConfig(
        ScenesData(few_scenes()),
        FolderConfig(index=IndexConfig(dim=16, k=20, query_k=20)),
        shortlists=(3,),
        offline=(30,),
        regions=(1, 3),
    )
