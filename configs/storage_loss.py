"""Storage of vectors: loss of mAP by half precision and by product quantisation.

Paper: whole vectors only.
Data: any benchmark at hand.
Protocol: an index on disk, its graph always from whole vectors, with all clusters
probed and solved on the whole graph, so that only the stored vectors of the comparison
with queries differ; then the same with near clusters only, and local solves.
Recorded: mAP with intervals, paired differences from whole vectors, bytes of a region.
Expected: half precision loses nothing; codes of 64 bytes for 256 dimensions lose less
than a point.
Cost: a minute on 2 cores after the pictures are described.
Command: python -m experiments storage_loss --benchmark grocery
"""

import dataclasses

from configs.schema import Setup, quick_setup


@dataclasses.dataclass(frozen=True)
class StorageLossConfig(Setup):
    """Lengths of codes, and graphs."""

    code_bytes: tuple[int, ...] = (128, 64, 32, 16)
    """Bytes of a region's code; divisors of the dimensions."""
    k: int = 50
    """Neighbours in the graph, and of the query."""
    reach: int = 4000
    """Regions that a local query expands to."""


def full() -> StorageLossConfig:
    """Settings of the records."""
    return StorageLossConfig()


def quick() -> StorageLossConfig:
    """Few scenes, in seconds."""
    return StorageLossConfig(**quick_setup(), code_bytes=(8,), k=10, reach=50)
