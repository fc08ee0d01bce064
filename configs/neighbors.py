"""Neighbour searches: recall, time and memory of NN-descent, and mAP on its graph.

Paper: the graphs of 105k and more images are built by NN-descent (Dong et al., WWW
2011); its recall is not given.
Data: unit vectors of 128 dimensions in clusters whose sizes follow a power law; the
regions of the composed scenes, as in their own card.
Recorded: per search and number of vectors, each in a new process: recall, wall and
processor seconds of the search, those before it (imports, compilation, a first search
of 2,000 vectors), peak memory of the process; mAP of regional diffusion on the exact
lists and on those of NN-descent, with the paired difference.
Expected, k 50: recall of NN-descent 0.99 at 10,000 vectors and 0.98 at 50,000; no
difference in mAP whose interval excludes 0. On 2 cores the exact search, whose time
grows with the square, is faster up to 50,000 vectors.

The library: faiss. Both libraries were measured on these vectors with 2 busy cores,
k 50, processor seconds of the search, recall, memory of the process:

    vectors  faiss               pynndescent 0.7                exact
    20,000   14 s  0.991  0.2 G  7 s + 45 s start  0.988  0.7 G   4 s
    50,000   30 s  0.984  0.2 G  18 s + 45 s start  0.980  0.8 G  30 s
    k 200, 20,000
             99 s  0.999  0.3 G  40 s + 42 s start  0.998  1.5 G   3 s

pynndescent takes about half the time at the same recall, but compiles itself again in
every process and depends on LLVM: that pays for runs of many minutes, far above 100,000
vectors. faiss is a dependency already, starts at once and needs a third of the memory.
Its defaults (10 new neighbours joined a round, k + 50 remembered) find less, 0.965
at 20,000 vectors, in the same time as 30 joined and k + 10 remembered, which are the
settings of `knn`.

Cost: four minutes on 2 cores after the index is built; half of it is pynndescent's,
which is left out where it is not installed (pip install pynndescent).
Command: python -m experiments neighbors
"""

import dataclasses
from typing import Literal

from configs.schema import GroceryData, PicturesConfig, ScenesData

Search = Literal["exact", "nn-descent, faiss", "nn-descent, pynndescent"]


@dataclasses.dataclass(frozen=True)
class NeighborsConfig:
    """Searches and numbers of vectors."""

    benchmark: GroceryData | ScenesData | None = dataclasses.field(
        default_factory=ScenesData
    )
    """Benchmark on which both graphs are compared by mAP; None compares none."""
    folder: PicturesConfig = dataclasses.field(default_factory=PicturesConfig)
    searches: tuple[Search, ...] = (
        *("exact", "nn-descent, faiss", "nn-descent, pynndescent"),
    )
    """Searches to measure; one whose package is missing is left out."""
    sizes: tuple[int, ...] = (10_000, 20_000, 50_000)
    """Numbers of vectors."""
    dim: int = 128
    """Dimensions of the vectors."""
    k: int = 50
    """Neighbours of each vector, itself included."""
    sample: int = 1000
    """Vectors on which recall is measured."""
    seed: int = 0
    """Seed of the vectors, the searches and the sample."""


def full() -> NeighborsConfig:
    """Settings of the records."""
    return NeighborsConfig()


def quick() -> NeighborsConfig:
    """Two searches of 1,100 vectors, in seconds."""
    return NeighborsConfig(
        benchmark=None,
        searches=("exact", "nn-descent, faiss"),
        sizes=(1_100,),
        dim=16,
        k=10,
        sample=100,
    )
