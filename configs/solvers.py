"""Solvers side by side: the same scores, and how soon each has the right ranking.

Paper: section 4.3 and the text: conjugate gradient needs 20 iterations for the mAP that
the classic iteration levels off at after 110. Eq. 18, the unnormalised system, takes
more without Jacobi's preconditioner and the same with it.
Data: composed scenes and grocery packages, as in their own cards.
Recorded: per solver, run to convergence in float32, the largest difference from the
dense solution in float64, relative to the largest score, and the overlap of the best
100 regions; mAP after each number of iterations of both methods.
Expected: differences of 1e-5 and an overlap of 100 %; conjugate gradient within half a
point of the mAP at convergence by step 20, the classic iteration by step 80 to 110.
Cost: two minutes on 2 cores after the indices are made.
Command: python -m experiments solvers scenes
"""

import dataclasses

from configs.scenes import few_scenes
from configs.schema import GroceryData, ScenesData
from diffjax.diffusion import SolverName
from diffjax.index import FolderConfig, IndexConfig


@dataclasses.dataclass(frozen=True)
class SolversConfig:
    """What is solved, and how far."""

    benchmark: GroceryData | ScenesData
    folder: FolderConfig = dataclasses.field(default_factory=FolderConfig)
    steps: tuple[int, ...] = (1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 80, 110, 150, 200)
    """Iterations after which mAP is measured."""
    solvers: tuple[SolverName, ...] = (
        *("cg", "cg-bcoo", "iterate", "unnormalized", "unnormalized-jacobi"),
    )
    """Solvers that are compared with the dense solution."""
    compared: int = 8
    """Queries that are solved by all of them; the slow ones take seconds a query."""
    nodes: int = 5_000
    """Nodes of the part of the graph on which they are, for the dense solution."""


def full() -> dict[str, SolversConfig]:
    """Both collections."""
    return {
        "scenes": SolversConfig(ScenesData()),
        "grocery": SolversConfig(GroceryData()),
    }


def quick() -> SolversConfig:
    """A dozen scenes, in seconds."""
    return SolversConfig(
        ScenesData(few_scenes()),
        FolderConfig(index=IndexConfig(dim=16, k=20, query_k=20)),
        steps=(1, 5, 20),
        compared=2,
    )
