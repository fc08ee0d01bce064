"""Figures in the paper's text, each with ours beside it.

Paper: a query through its neighbours 80.0, inserted into the graph 77.7 (INSTRE); exact
and approximate (NN-descent) graphs 92.5 and 91.6 on Oxford105k, 95.2 and 94.6 on
Paris106k; 25 edges an image in the global graph, 75 a region in the regional one;
seconds a query on Oxford5k: k-NN 0.001, R-match 0.321, global diffusion 0.02, regional
diffusion 0.664; on Oxford105k regional diffusion 13.9, on a short list 1.0; 20
iterations of conjugate gradient until mAP levels off, 110 of the classic iteration.
Data: any benchmark at hand. NN-descent runs on the graph of regions and on that of
global descriptors.
Settings: the paper's k; times are of one query at a time on this machine, the paper's
on four cores of 2.0 GHz.
Recorded: the paper's value, ours, and the unit; mAP of every compared pair with
intervals and paired differences.
Expected: inserted queries 2 to 3 points below; NN-descent loses nothing; 183 edges a
region, where the paper has 75, see `departures`.
Cost: ten minutes on 2 cores after the pictures are described.
Command: python -m experiments text --benchmark grocery
"""

import dataclasses

from configs.schema import Setup, quick_setup


@dataclasses.dataclass(frozen=True)
class TextConfig(Setup):
    """Sizes of graphs and numbers of queries."""

    k: int = 200
    """Neighbours in the graph of regions, and of the query."""
    global_k: int = 50
    """Neighbours in the graph of images."""
    global_query_k: int = 10
    """Neighbours of the query's global descriptor."""
    inserted: int = 200
    """Most queries to insert into the graph, the first ones."""
    share: float = 0.1
    """Length of the short list as a share of the database."""
    timed: int = 20
    """Queries to time, one by one."""
    most_steps: int = 150
    """Most iterations to try until mAP levels off."""


def full() -> TextConfig:
    """Settings of the records."""
    return TextConfig()


def quick() -> TextConfig:
    """Few scenes, in seconds."""
    return TextConfig(
        **quick_setup(),
        k=20,
        global_k=5,
        global_query_k=3,
        share=0.5,
        inserted=2,
        timed=2,
        most_steps=30,
    )
