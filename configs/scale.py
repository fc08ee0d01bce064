"""Scale of an index on disk: time and memory from 20,000 to 2.2 million regions.

Paper: 2.2 million regions (105k pictures of 21 regions) are the largest graph; search
truncated to a short list.
Data: unit vectors of 128 dimensions in clusters whose sizes follow a power law (Pareto,
exponent 1.2), about 100 in each, of 6 directions and a noise of a third.
Protocol: each phase of a build, and the queries, run in new processes; memory is the
peak of the process, mapped files included, less its peak after imports. A query is one
of the vectors with noise; the first is timed apart, as it compiles.
Recorded: for each number of regions and phase: seconds, memory, memory as a share of
the vectors and lists, bytes written; recall of lists and of edges on samples, stored
edges, seconds of a local query and of 20 iterations on the whole graph, overlap of both
answers; slopes of cost against n on log axes; two charts.
Expected: memory below 1.5 of vectors and lists in each phase from 200,000 on; slopes of
bytes and memory at most 1.1; a local query in well under a second at any size.

Settings of the search in clusters (`diffjax.graph`), tried on 200,000 of these vectors,
k 50, recall of clusters that were drawn by size, of which large ones are the hardest:

    clusters  probed  compared  recall
         200      24    23,645   0.835
         450      16     6,911   0.827
         900      32     7,018   0.900
       1,300      32     4,848   0.908
       1,800      40     4,374   0.931
       1,800      64     6,998   0.944

Many small clusters find more than a few large ones for the same comparisons; 1,800 is
4 sqrt(n). A second pass over the lists, with the neighbours of neighbours as candidates
(2,200 to 2,900 a vector), finds more than probing more clusters, at lower cost: recall
rose from 0.79 to 0.94 with 10 probes, and from 0.92 to 0.98 with 20, which is the
default. At 2.2 million recall is 0.78, and no more with 40 probes. Many of the missing
true neighbours were inspected: they are near by chance (0.4 to 0.6), anywhere in the
collection, of vectors whose cluster is smaller than k. Hence the recall of edges, which
are mutual, is higher: 0.88 and 0.93 on two small samples.

Cost: seven minutes on 2 quiet cores; 5 GB of disk while 2.2 million are built.
Command: python -m experiments scale
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ScaleConfig:
    """Numbers of regions, and settings of the queries."""

    sizes: tuple[int, ...] = (20_000, 50_000, 200_000, 600_000, 2_200_000)
    """Numbers of regions."""
    dim: int = 128
    k: int = 50
    """Neighbours of each region, itself included."""
    reach: int = 4000
    """Regions that a local query expands to."""
    queries: int = 20
    """Queries that are timed, after one that is not counted."""
    steps: int = 20
    """Iterations on the whole graph."""
    fit_from: int = 200_000
    """Least number of regions in the fit of slopes."""
    seed: int = 0
    """Seed of vectors and queries."""


def full() -> ScaleConfig:
    """Settings of the records."""
    return ScaleConfig()


def quick() -> ScaleConfig:
    """Two small numbers of regions, in seconds."""
    return ScaleConfig(
        sizes=(1_200, 2_400), dim=16, k=10, reach=200, queries=2, fit_from=0
    )
