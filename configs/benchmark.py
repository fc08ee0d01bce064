"""Solver speed against SciPy, scikit-learn and the machine's memory bandwidth.

Paper: 0.66 s a query at 5,000 pictures and 14 s at 105,000, in MATLAB.
Data: synthetic graphs, mutual neighbours of unit vectors in clusters whose sizes follow
a power law (Pareto, exponent 1.2). "Manifolds" have clusters of 6 directions and a
noise of a third; "clouds" are overlapping clusters, of 24 directions and a noise as
large as the distance between clusters.
Protocol: float32. Timings are interleaved, one round of each solver after the other,
after one round that is not counted; a round solves for one new query, or for 32 at
once. "Overlap" is the share of the first 100 nodes that are those of the solution to a
residual of 1e-6. Building right-hand sides is not timed. Our nodes are numbered by
`reorder`, SciPy's as the vectors are, or as ours where stated. A refined query starts
from the scores of half of its neighbours. Offline rows are solved for the seeds of the
queries alone; the cost of all rows is estimated from those.
Recorded: per claim the least, median and largest ratio of the rounds, and medians of
the seconds; the baseline; a chart of overlap against time, and seconds and bytes that
each solver needs beforehand.
Expected, on 2 cores: a product 1.5 to 2 times as fast as SciPy's, so a query; one of a
batch 17 to 27 times; the local solver 16 to 23 times.
Cost: five minutes on 2 idle cores.
Command: python -m experiments benchmark
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Sizes of the graphs, queries and settings of the solvers."""

    nodes: int = 50_000
    dim: int = 128
    k: int = 120
    """Neighbours of each vector, itself included; edges are mutual."""
    alpha: float = 0.99
    steps: int = 20
    """Iterations of every global solver."""
    query_k: int = 50
    """Entries of each right-hand side."""
    batch: int = 32
    """Queries per batch."""
    size: int = 2000
    """Nodes of the local solver."""
    curve_steps: tuple[int, ...] = (2, 3, 4, 5, 7, 10, 14, 20, 28)
    """Iterations in the chart."""
    curve_sizes: tuple[int, ...] = (200, 500, 1000, 2000, 4000, 8000)
    """Nodes of the local solver in the chart."""
    curve_ranks: tuple[int, ...] = (128, 512)
    """Leading eigenvectors in the chart."""
    curve_steps_beside: tuple[int, ...] = (0, 1, 2, 3, 5, 8)
    """Iterations with eigenvectors, and from earlier scores, in the chart."""
    curve_rows: tuple[int, ...] = (200, 500, 1000, 2000)
    """Nodes of each offline solution in the chart."""
    rounds: int = 15
    seed: int = 0
    """Seed of vectors and queries."""


def full() -> BenchmarkConfig:
    """Settings of the records."""
    return BenchmarkConfig()


def quick() -> BenchmarkConfig:
    """A small graph, in seconds."""
    return BenchmarkConfig(
        nodes=600,
        dim=16,
        k=20,
        query_k=10,
        batch=4,
        size=100,
        curve_steps=(2, 20),
        curve_sizes=(40, 100),
        curve_ranks=(8, 40),
        curve_steps_beside=(0, 3),
        curve_rows=(40, 100),
        rounds=2,
    )
