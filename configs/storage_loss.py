"""Smaller vectors: what half precision and codes lose in the search, in mAP.

Paper: whole vectors only.
Data: any benchmark at hand.
Protocol: an index on the disk, its graph always from whole vectors, with all clusters
probed and solved on the whole graph, so that nothing differs but what queries are
compared with; then the same with near clusters only, and around each query.
Recorded: mAP with intervals, paired differences from whole vectors, bytes of a region.
Expected: half precision loses nothing; codes of 64 bytes for 256 dimensions lose less
than a point.
Cost: a minute on 2 cores after the pictures are described.
Command: python -m experiments storage_loss --benchmark grocery
"""

import dataclasses

from configs.scenes import quick_setup
from configs.schema import Setup


@dataclasses.dataclass(frozen=True)
class StorageLossConfig(Setup):
    """Which codes."""

    code_bytes: tuple[int, ...] = (128, 64, 32, 16)
    """Bytes of a region's code; divisors of the dimensions."""
    k: int = 50
    """Neighbours in the graph, and of the query."""
    reach: int = 4000
    """Regions that a local query goes to."""


def full() -> StorageLossConfig:
    """The experiment of the records."""
    return StorageLossConfig()


def quick() -> StorageLossConfig:
    """Few scenes, in seconds."""
    return StorageLossConfig(**quick_setup(), code_bytes=(8,), k=10, reach=50)
