"""Solvers side by side: agreement of their scores, and mAP by iterations.

Paper: section 4.3 and the text: conjugate gradient needs 20 iterations for the mAP that
the classic iteration levels off at after 110. Eq. 18, the unnormalised system, takes
more iterations without Jacobi's preconditioner and the same number with it.
Data: composed scenes and grocery packages, as in their own cards.
Recorded: per solver, run to convergence in float32, the largest difference from the
dense solution in float64, relative to the largest score, and the overlap of the best
100 regions; mAP after each number of iterations of both methods, with paired
differences from the last step of conjugate gradient.
Expected: differences of 1e-5 and an overlap of 100 %; conjugate gradient within half a
point of the mAP at convergence by step 20, the classic iteration by step 80 to 110.
Cost: two minutes on 2 cores after the indexes are built.
Command: python -m experiments solvers scenes
         python -m experiments solvers grocery
"""

import dataclasses

from configs.schema import GroceryData, PicturesConfig, ScenesData, few_scenes
from diffjax.diffusion import SolverName
from diffjax.index import IndexConfig


@dataclasses.dataclass(frozen=True)
class SolversConfig:
    """Systems to solve, and numbers of iterations."""

    benchmark: GroceryData | ScenesData
    folder: PicturesConfig = dataclasses.field(default_factory=PicturesConfig)
    steps: tuple[int, ...] = (1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 80, 110, 150, 200)
    """Iterations after which mAP is measured."""
    solvers: tuple[SolverName, ...] = (
        *("cg", "cg-bcoo", "iterate", "unnormalized", "unnormalized-jacobi"),
    )
    """Solvers that are compared with the dense solution."""
    compared: int = 8
    """Queries that all solvers solve; slow solvers take seconds a query."""
    nodes: int = 5_000
    """Nodes of the subgraph of the comparison, for the dense solution."""


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
        PicturesConfig(index=IndexConfig.of(dim=16, k=20, query_k=20)),
        steps=(1, 5, 20),
        compared=2,
    )
