"""Settings of published programs by name, to start from or to compare with."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from ._config import IndexConfig

Preset = Literal["paper", "official", "offline-late"]

PRESETS: Mapping[Preset, IndexConfig] = MappingProxyType(
    {
        # Iscen et al., CVPR 2017, section 5.1. For more than 100,000 images the paper
        # adds `shortlist=10_000`; for mixtures of regions it has k 50.
        "paper": IndexConfig(k=200, query_k=200),
        # The authors' MATLAB program: similarities are summed before the power, pcg
        # gives its best iterate, images outside a short list score 0.
        "official": IndexConfig(
            k=200, query_k=200, rule="official", keep_best=True, tail="zero"
        ),
        # Yang et al., AAAI 2019: one truncated solution per database vector, made
        # beforehand on a graph that was normalised before the cut.
        "offline-late": IndexConfig(k=50, query_k=10, cut="late", offline=1000),
    }
)
