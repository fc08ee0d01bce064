"""Cold start: seconds from the shell prompt to the first answer, in new processes.

Paper: nothing.
Data: an index of 20,000 regions, random clusters of 1,280 dimensions whitened to 256,
20 an image, as a folder of 1,000 pictures gives; the query is a photograph, so that the
network runs as well.
Recorded: seconds of `import jax`, `import diffjax`, the import of `Index` and of
`diffjax search` with an empty cache and with a full one, each in a new process,
interleaved, medians with the least and the largest; for searches also the seconds until
the answer is printed, and the steps that `--timing` reports, which leave out Python's
startup and the exit of the process. The first round, in which Python compiles its
modules, is not counted.
Expected on 2 cores: `import diffjax` under 1.2 times `import jax`, an answer within 3
seconds with a full cache.
Cost: two minutes on 2 cores.
Command: python -m experiments cold_start
"""

import dataclasses

from diffjax.index import IndexConfig, pictures_config


@dataclasses.dataclass(frozen=True)
class ColdStartConfig:
    """Size of the index, and number of rounds."""

    regions: int = 20_000
    """Regions of the index."""
    regions_of_image: int = 20
    """Regions of each image."""
    index: IndexConfig = dataclasses.field(default_factory=pictures_config)
    """Settings of the index."""
    rounds: int = 7
    """Rounds that are counted."""
    seed: int = 0
    """Seed of the regions."""


def full() -> ColdStartConfig:
    """Settings of the records."""
    return ColdStartConfig()


def quick() -> ColdStartConfig:
    """An index of 400 regions and one round."""
    return ColdStartConfig(
        regions=400, index=IndexConfig.of(dim=16, k=10, query_k=10), rounds=1
    )
