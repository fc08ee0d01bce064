"""From the shell prompt to the first answer, in processes that are new.

Data: an index of 20,000 regions, drawn in clusters as 1,280 numbers each and whitened
to 256, 20 an image, as a folder of 1,000 pictures gives; the query is a photograph, so
that the network runs as well.
Recorded: seconds of `import jax`, `import diffjax`, the import of `Index` and of
`diffjax search` with an empty cache and with a full one, each in a process of its own,
in turns, medians with the least and the largest; for the searches those until the
answer is printed, and the steps that `--timing` reports, where Python's own start, the
rest of a process's beginning and its end are not in any step. The first turn, in which
Python compiles its modules, is not counted.
Expected on 2 cores: `import diffjax` under 1.2 times `import jax`, an answer within 3
seconds with a full cache.
Cost: two minutes on 2 cores.
Command: python -m experiments cold_start
"""

import dataclasses

from diffjax.index import IndexConfig


@dataclasses.dataclass(frozen=True)
class ColdStartConfig:
    """The index that is searched, and how often."""

    regions: int = 20_000
    """Regions of the index."""
    regions_of_image: int = 20
    """Regions of each image."""
    index: IndexConfig = dataclasses.field(default_factory=lambda: IndexConfig(dim=256))
    """What becomes of them."""
    rounds: int = 7
    """Turns that are counted."""
    seed: int = 0
    """Of the regions."""


def full() -> ColdStartConfig:
    """The experiment as described above."""
    return ColdStartConfig()


def quick() -> ColdStartConfig:
    """An index of 400 regions and one turn."""
    return ColdStartConfig(
        regions=400, index=IndexConfig(dim=16, k=10, query_k=10), rounds=1
    )
