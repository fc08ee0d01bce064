"""Speed: the library's solvers against SciPy, scikit-learn and the machine's memory.

Paper: 0.66 s a query at 5,000 pictures and 14 s at 105,000, in MATLAB.
Data: made graphs, mutual neighbours of unit vectors in clusters whose sizes follow a
power law (Pareto, exponent 1.2). "Manifolds" have clusters of 6 directions and a noise
of a third; "clouds" have 24 directions and a noise as large as the distance between
clusters, which is little structure.
Protocol: float32. Contenders take turns, a round each, after one that is not counted;
a round asks one query that was not asked before, except where 32 are asked at once.
"Overlap" is the share of the first 100 nodes that are those of the solution to a
residual of 1e-6. Building right-hand sides belongs to no contender. Our nodes are
numbered by `reorder`, SciPy's as the vectors are, and as ours where that is said. A
refined query starts from the scores of half of its neighbours. Offline rows are solved
for the nodes that queries start from, and what all would take is estimated from those.
Recorded: per claim the least, median and largest ratio of the rounds, and medians of
the seconds; the work that stands against it; a chart of overlap against time, and what
each way to solve needs beforehand, in seconds and bytes.
Expected, on 2 cores: a product 1.5 to 2 times as fast as SciPy's, so a query; one of a
batch 17 to 27 times; the local solver 16 to 23 times.
Cost: five minutes on 2 cores that have nothing else to do.
Command: python -m experiments benchmark
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """The graphs and how they are asked."""

    nodes: int = 50_000
    dim: int = 128
    k: int = 120
    """Neighbours of each vector, itself counted; edges are mutual."""
    alpha: float = 0.99
    steps: int = 20
    """Iterations of every solver that is not local."""
    query_k: int = 50
    """Entries of each right-hand side."""
    batch: int = 32
    """Queries that are asked at once."""
    size: int = 2000
    """Nodes of the local solver."""
    curve_steps: tuple[int, ...] = (2, 3, 4, 5, 7, 10, 14, 20, 28)
    """Iterations in the chart."""
    curve_sizes: tuple[int, ...] = (200, 500, 1000, 2000, 4000, 8000)
    """Nodes of the local solver in the chart."""
    curve_ranks: tuple[int, ...] = (128, 512)
    """Leading eigenvectors in the chart."""
    curve_steps_beside: tuple[int, ...] = (0, 1, 2, 3, 5, 8)
    """Iterations beside eigenvectors, and from other scores, in the chart."""
    curve_rows: tuple[int, ...] = (200, 500, 1000, 2000)
    """Nodes of each offline solution in the chart."""
    rounds: int = 15
    seed: int = 0
    """Of vectors and queries."""


def full() -> BenchmarkConfig:
    """The experiment of the records."""
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
