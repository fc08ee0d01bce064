"""Extraction speed: describing files of pictures against the network alone.

Paper: nothing.
Data: all 864 photographs of grocery packages (train), 348 px, of which the network
sees 320 px.
Protocol: "network alone" computes the map of every picture, one batch after the other,
from pixels that are in memory already, scaled and stacked; side by side in a row of its
own. "From files" is `describe_pictures`: files are read, decoded and scaled by
processes, stacked, computed, pooled over the grid of regions and copied back, two
batches side by side, so that cores that wait for the last part of a layer have work;
starting the processes is timed, too. Timings are interleaved, so that a busy machine
slows all of them down.
Recorded: pictures a second of each, by number of reading processes, and the ratio to
the network alone.
Expected: 85 % of the network's throughput and more, also on 2 cores, which readers and
network share.
Cost: four minutes on 2 cores.
Command: python -m experiments extraction_speed
"""

import dataclasses
import pathlib

from configs.schema import GroceryData


@dataclasses.dataclass(frozen=True)
class ExtractionSpeedConfig:
    """Pictures and rounds."""

    folder: pathlib.Path | None = dataclasses.field(
        default_factory=lambda: GroceryData().data / "train"
    )
    """Folder of the pictures; None composes a few scenes."""
    pictures: int = 864
    """Most pictures to describe."""
    side: int = 320
    """Longer side of pictures in the network, in pixels."""
    workers: tuple[int, ...] = (1, 2)
    """Numbers of reading processes."""
    rounds: int = 3
    """Rounds that are counted."""


def full() -> ExtractionSpeedConfig:
    """Settings of the records."""
    return ExtractionSpeedConfig()


def quick() -> ExtractionSpeedConfig:
    """Four small composed scenes, in seconds."""
    return ExtractionSpeedConfig(
        folder=None, pictures=4, side=96, workers=(1,), rounds=1
    )
