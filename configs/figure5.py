"""Figure 5: mAP against the length of the short list that diffusion is restricted to.

Paper: the best tenth of the database by global descriptor nearly gives the mAP of the
whole database, a horizontal line.
Data: any benchmark at hand.
Settings: the paper's, except for k below; the graph is truncated before it is
normalised; images outside the list follow it in the order of the first search.
Recorded: mAP by length with intervals, paired differences from the whole database,
milliseconds a query; chart.
Expected: a tenth gives 33 of 43 on scenes-small and 39 of 56 on grocery.
Cost: five minutes on 2 cores after the pictures are described.
Command: python -m experiments figure5 --benchmark scenes-small
"""

import dataclasses

from configs.schema import Setup, quick_setup


@dataclasses.dataclass(frozen=True)
class Figure5Config(Setup):
    """Lengths of short lists."""

    shares: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
    """Lengths as shares of the database."""
    k: int = 50
    """Neighbours in the graph, and of the query."""


def full() -> Figure5Config:
    """Settings of the records."""
    return Figure5Config()


def quick() -> Figure5Config:
    """Few scenes and lengths, in seconds."""
    return Figure5Config(
        **quick_setup(),
        shares=(0.3, 0.6),
        k=20,
    )
