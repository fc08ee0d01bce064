"""Table 1: sum against generalised max pooling of regional scores.

Paper, 512-D, mAP by sum and by GMP: INSTRE 79.1 and 80.0, Oxford5k 92.2 and 93.2,
Oxford105k 90.6 and 91.6, Paris6k 96.1 and 96.5, Paris106k 94.4 and 94.6.
Data: any benchmark at hand.
Settings: the paper's, k 200 and lambda 1; k 50 as well, for collections with fewer
pictures of an object.
Recorded: mAP of both with intervals, the paired difference, the paper's values.
Expected: on scenes-small GMP above the sum by 3.4 at k 200 and 1.1 at k 50; on grocery
no more than the sum, 0.6 below it at k 50.
Cost: a minute on 2 cores after the pictures are described.
Command: python -m experiments table1 --benchmark grocery
"""

import dataclasses

from configs.schema import Setup, quick_setup


@dataclasses.dataclass(frozen=True)
class Table1Config(Setup):
    """Values of k."""

    k: tuple[int, ...] = (200, 50)
    """Neighbours in the graph, and of the query."""


def full() -> Table1Config:
    """Settings of the records: the paper's k, and the library's."""
    return Table1Config()


def quick() -> Table1Config:
    """Few scenes, in seconds."""
    return Table1Config(**quick_setup(), k=(20,))
