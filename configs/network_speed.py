"""Network speed: our networks against the same networks in PyTorch, on CPU, in one run.

Paper: nothing.
Data: random pixels. EfficientNet-Lite0 has its trained weights, the others random ones.
Protocol: all have their batch norms folded and compute the deepest map of 320 x 320
pictures with the same number of threads. Timings are interleaved, so that a busy
machine slows all of them down; the maps must agree.
Recorded: per network, batch size and implementation the median and the least time in
milliseconds a picture, and their ratios to the better of PyTorch's layouts. On a busy
machine the least times tell more than the medians.
Expected: EfficientNet-Lite0 takes no longer than the better of PyTorch's two memory
layouts; VGG16 and the ResNets, whose convolutions are those of XLA, 0.9 to 1.3 times as
long.
Cost: five minutes on 2 cores; needs PyTorch (pip install torch==2.13.0).
Command: python -m experiments network_speed
"""

import dataclasses
from typing import Literal

NetworkName = Literal["EfficientNet-Lite0", "VGG16", "ResNet50", "ResNet101"]


@dataclasses.dataclass(frozen=True)
class NetworkSpeedConfig:
    """Networks and rounds."""

    networks: tuple[NetworkName, ...] = (
        *("EfficientNet-Lite0", "VGG16", "ResNet50", "ResNet101"),
    )
    """Networks to time."""
    side: int = 320
    """Sides of the pictures, in pixels."""
    shorter: int = 1
    """Divisor of the number of rounds."""


def full() -> NetworkSpeedConfig:
    """Settings of the records."""
    return NetworkSpeedConfig()


def quick() -> NetworkSpeedConfig:
    """One network on small pictures, in seconds."""
    return NetworkSpeedConfig(networks=("EfficientNet-Lite0",), side=64, shorter=30)
