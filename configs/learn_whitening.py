"""Whitening of all dimensions, learned through the diffusion by three objectives.

Paper: nothing is learned.
Data: any benchmark at hand with four objects or more.
Protocol: as for `learn`, but all dimensions are kept, as by
`diffjax learn --parts alpha gamma lam shrinkage emphasis`. "Gradient" maximises smooth
average precision, the other two a listwise softmax and a pairwise hinge, with the same
batches, rates and steps.
Recorded: as for `learn`.
Cost: an hour on 2 cores for grocery; cached results are used again.
Command: python -m experiments learn_whitening --benchmark grocery
"""

import dataclasses

from configs import learn
from configs.learn import LearnConfig

_WAYS = (
    *("defaults", "whitening of regions, no labels"),
    *("supervised whitening, shrinkage chosen", "mixed whitening"),
    *("mixed whitening, gradient", "mixed whitening, softmax"),
    "mixed whitening, hinge",
)


def full() -> LearnConfig:
    """Settings of the records: benchmarks have 256 dimensions."""
    return LearnConfig(ways=_WAYS, rank=256)


def quick() -> LearnConfig:
    """Few scenes, steps and splits, in seconds."""
    few = learn.quick()
    return dataclasses.replace(few, ways=_WAYS, rank=few.dim)
