"""Figure 7: queries with the answers that regional diffusion gains most.

Paper: positives in decreasing order of the difference between their ranks by global and
by regional diffusion, with the precision at both ranks and the average precision of
both by query. The gains are small objects in clutter.
Data: any benchmark of pictures.
Made: a page, figure7_NAME.html in the folder of results, and its first query as PNG.
Recorded: both average precisions and the largest differences of the queries shown; mAP
of both methods.
Expected: on grocery twelve queries that gain 37 to 68 points.
Cost: a minute on 2 cores after the pictures are described.
Command: python -m experiments figure7 --benchmark scenes-small
"""

import dataclasses

from configs.schema import Setup, quick_setup


@dataclasses.dataclass(frozen=True)
class Figure7Config(Setup):
    """Queries to show, and graphs."""

    queries: int = 12
    """Queries on the page: those that gain most, one per object."""
    answers: int = 8
    """Positives to show per query."""
    k: int = 50
    """Neighbours in the graph of regions, and of the query."""
    global_k: int = 10
    """Neighbours in the graph of images."""
    global_query_k: int = 3
    """Neighbours of the query's global descriptor."""


def full() -> Figure7Config:
    """Settings of the records."""
    return Figure7Config()


def quick() -> Figure7Config:
    """Few scenes, in seconds."""
    return Figure7Config(
        **quick_setup(),
        queries=2,
        k=20,
        global_k=5,
    )
