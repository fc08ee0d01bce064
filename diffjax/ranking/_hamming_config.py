"""Settings of the Hamming embedding, checked where they are made."""

import dataclasses

import numpy as np

from diffjax._arguments import check_in_range

from ._hamming_signatures import check_bits


@dataclasses.dataclass(frozen=True)
class HammingConfig:
    """How local descriptors become words and signatures, and what a match weighs."""

    num_words: int = 8192
    """Visual words; Tolias and Jegou take 65,536, for millions of descriptors."""
    bits: int = 128
    """Length of signatures, a multiple of 64, at most the descriptors' dimensions."""
    threshold: float = 3 / 8
    """Largest Hamming distance of a match, as a part of `bits`: 48 of 128."""
    sigma: float = 1 / 4
    """Width of a match's weight exp(-(h / sigma)^2), as a part of `bits`: 32 of 128."""
    assignments: int = 3
    """Words that each feature of a query is assigned to; one of an image, to one."""
    burst: bool = True
    """Whether features of a query that match an image many times are held down."""
    iterations: int = 10
    """Rounds of k-means."""
    sample: int = 32
    """Descriptors per word that k-means looks at, at most."""
    seed: int = 0
    """Of k-means and the projections."""

    def __post_init__(self) -> None:
        """Refuses settings outside their ranges."""
        check_bits(self.bits)
        for name in ("num_words", "assignments", "iterations", "sample"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, got {getattr(self, name)}."
                )
        if self.assignments > self.num_words:
            raise ValueError(
                f"assignments must be at most num_words, {self.num_words}, got "
                f"{self.assignments}."
            )
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {self.threshold}.")
        check_in_range("sigma", self.sigma, low=0, high=np.inf)
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be in 0..2^31 - 1, got {self.seed}.")
