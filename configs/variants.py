"""Variants of diffusion: inserted queries, short lists, offline solutions.

Paper: a query inserted into the graph gets 77.7 mAP on INSTRE, the paper's own query
vector 80.0; it explains that by keeping the k nearest both per region and for all of
y. Figure 5: a short list of less than a tenth of the database nearly gives the mAP of
the whole database. The time of a query does not grow with its regions beyond the search
for their neighbours.
Data: composed scenes and grocery packages, as in their own cards.
Recorded: mAP of each variant with intervals, paired differences from the paper's way on
the whole graph, seconds a query on a batch of 8; seconds of the right-hand side and of
the diffusion by regions per query.
Expected: inserted queries below the paper's; a curve that rises with the list's length;
the diffusion's seconds the same for 1 region and for 60.
Cost: five minutes on 2 cores after the indexes are built.
Command: python -m experiments variants scenes
         python -m experiments variants grocery
"""

import dataclasses

from configs.schema import GroceryData, PicturesConfig, ScenesData, few_scenes
from diffjax.index import IndexConfig


@dataclasses.dataclass(frozen=True)
class VariantsConfig:
    """Variants and their sizes."""

    benchmark: GroceryData | ScenesData
    folder: PicturesConfig = dataclasses.field(default_factory=PicturesConfig)
    shortlists: tuple[int, ...] = (10, 25, 50, 100, 200, 400)
    """Lengths of short lists, in images."""
    offline: tuple[int, ...] = (100, 500, 1000)
    """Most nodes of each solution that is computed offline."""
    regions: tuple[int, ...] = (1, 5, 20, 60)
    """Numbers of regions per query to time."""
    inserted: int = 200
    """Most queries to insert into the graph, the first ones."""


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
        PicturesConfig(index=IndexConfig.of(dim=16, k=20, query_k=20)),
        shortlists=(3,),
        offline=(30,),
        regions=(1, 3),
    )
