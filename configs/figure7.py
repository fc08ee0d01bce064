"""Figure 7: queries with the answers that regional diffusion gained most.

Paper: positives in decreasing order of the difference between their ranks by global and
by regional diffusion, the precision at either rank under each, average precision of
both by query. What is gained shows small objects in clutter.
Data: any benchmark of pictures.
Made: a page, figure7_NAME.html in the folder of results, and its first query as PNG.
Recorded: both average precisions and the largest differences of the queries shown.
Expected: on grocery twelve queries that gain 37 to 68 points.
Cost: a minute on 2 cores after the pictures are described.
Command: python -m experiments figure7 --benchmark scenes-small
"""

import dataclasses

from configs.scenes import quick_setup
from configs.schema import Setup


@dataclasses.dataclass(frozen=True)
class Figure7Config(Setup):
    """What is shown, and what is searched."""

    queries: int = 12
    """Queries on the page: those that gain most, one an object."""
    answers: int = 8
    """Positives of each."""
    k: int = 50
    """Neighbours in the graph of regions, and of the query."""
    global_k: int = 10
    """Neighbours in the graph of images."""
    global_query_k: int = 3
    """Neighbours of the query's global descriptor."""


def full() -> Figure7Config:
    """The page of the records."""
    return Figure7Config()


def quick() -> Figure7Config:
    """Few scenes, in seconds."""
    return Figure7Config(
        **quick_setup(),
        queries=2,
        k=20,
        global_k=5,
    )
