"""Figure 3: mAP against iterations of conjugate gradient and the classic iteration.

Paper: conjugate gradient takes 20 iterations, f <- alpha S f + y reaches the same mAP
after about 110; points are labelled with times.
Data: any benchmark at hand.
Settings: the paper's, except for k below; times are of the diffusion alone, for a batch
of queries, per query.
Recorded: mAP, largest residual and milliseconds a query by iterations, paired
differences from the last step of conjugate gradient; chart.
Expected: conjugate gradient level at 15 to 20 iterations, the other at 80 to 120.
Cost: five minutes on 2 cores after the pictures are described.
Command: python -m experiments figure3 --benchmark grocery
"""

import dataclasses

from configs.schema import Setup, quick_setup


@dataclasses.dataclass(frozen=True)
class Figure3Config(Setup):
    """Numbers of iterations."""

    k: int = 50
    """Neighbours in the graph, and of the query."""
    steps: tuple[int, ...] = (1, 2, 5, 10, 15, 20, 30, 50, 80, 110, 150)
    """Numbers of iterations."""
    labelled: tuple[int, ...] = (5, 20, 50, 110)
    """Iterations whose points are labelled with times."""
    batch: int = 32
    """Queries that are timed together."""


def full() -> Figure3Config:
    """Settings of the records."""
    return Figure3Config()


def quick() -> Figure3Config:
    """Few scenes and iterations, in seconds."""
    return Figure3Config(
        **quick_setup(),
        k=20,
        steps=(2, 20),
        batch=2,
    )
