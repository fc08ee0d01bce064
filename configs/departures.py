"""Departures from the paper's findings: one possible cause changed at a time.

Paper: regional diffusion 20 points above R-match with expansion, best at k 200, 75 of
200 neighbours mutual, a short list of a tenth as good as the whole database (INSTRE:
about two hundred pictures of an object, vectors whitened on other pictures).
Data: composed scenes. Changed, one at a time: the resolution of the network's input,
the scenes of an object, the pictures that whitening is fitted on, and PCA in place of
whitening; dimensions stay.
Recorded: mAP of nearest neighbours, R-match with expansion and regional diffusion, each
tuned as in table 2, with paired differences; regional diffusion at fixed k; mutual
neighbours; share of the positives in the best tenth by global descriptors.
Expected: k 100 best with 36 scenes an object, where it is 50 with 12; 62 of 200
neighbours mutual if whitened on grocery, 183 on itself; 43 % of the positives listed.
Cost: half an hour on 2 cores; a changed setting computes only its own.
Command: python -m experiments departures
"""

import dataclasses

from configs.schema import BenchmarkName, Setup, quick_setup


@dataclasses.dataclass(frozen=True)
class DeparturesConfig(Setup):
    """Changed settings."""

    side: int = 640
    """Longer side of pictures at the changed resolution, in pixels."""
    scenes_per_object: int = 36
    """Scenes of an object, where their number is changed."""
    elsewhere: BenchmarkName = "grocery"
    """Benchmark that whitening is fitted on, where that is changed."""
    k: tuple[int, ...] = (20, 50, 100, 200)
    """Neighbours of regional diffusion, in the graph and of the query."""
    share: float = 0.1
    """Length of the short list as a share of the database."""
    trials: int = 12
    """Most settings to try per method."""
    seed: int = 0
    """Seed of the halves and of the bootstrap."""


def full() -> DeparturesConfig:
    """Settings of the records."""
    return DeparturesConfig()


def quick() -> DeparturesConfig:
    """Few scenes and settings, in seconds."""
    return DeparturesConfig(
        **quick_setup(),
        side=320,  # Another size would compile the network again.
        scenes_per_object=4,
        elsewhere="scenes-large",
        k=(5, 10),
        trials=1,
    )
