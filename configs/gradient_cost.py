"""Cost of a gradient: value and gradient against the value alone, at 50,000 nodes.

Paper: nothing; implicit differentiation promises one more solve, so a ratio near 2.
Data: a synthetic graph of clusters with heavy-tailed sizes (Pareto, shape 1.2), 64-D.
Recorded: per number of queries the ratio of the least times of one run, for the
gradient with respect to alpha, S and y, and through the kernel and the normalisation to
the similarities of the edges, gamma, alpha and y. The solve has 20 steps in every case.
Expected: at most 2.5.
Cost: two minutes on 2 cores.
Command: python -m experiments gradient_cost
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class GradientCostConfig:
    """Sizes of the graph and of the queries."""

    nodes: int = 50_000
    dim: int = 64
    clusters: int = 2_000
    k: int = 200
    queries: tuple[int, ...] = (1, 8, 32)
    entries: int = 100
    """Nonzero entries of each right-hand side."""
    rounds: int = 10
    seed: int = 0


def full() -> GradientCostConfig:
    """Settings of the records."""
    return GradientCostConfig()


def quick() -> GradientCostConfig:
    """A small graph, in seconds."""
    return GradientCostConfig(
        nodes=300, dim=8, clusters=10, k=10, queries=(2,), entries=5, rounds=1
    )
