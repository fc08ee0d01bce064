"""Composed scenes: small objects in clutter, five methods side by side.

Paper: no such collection; its finding to meet is the order, regional diffusion above
R-match and global diffusion, these above global k-NN (table 2).
Data: composed by the program from photographs inside scikit-image, see `ScenesConfig`.
Expected: k-NN 61, R-match 70, global diffusion 71, regional diffusion 86.
Cost: a minute and a half on 2 cores, seconds the next time.
Command: python -m experiments evaluate scenes
"""

from typing import Any

from configs.schema import EvaluateConfig, ScenesData
from diffjax.cli import DemoConfig
from diffjax.datasets import ScenesConfig


def full() -> EvaluateConfig:
    """The experiment of the README: what `diffjax demo` runs."""
    demo = DemoConfig()
    return EvaluateConfig(
        benchmark=ScenesData(demo.scenes), folder=demo.folder, compare=demo.compare
    )


def quick() -> EvaluateConfig:
    """The same with few scenes, in seconds."""
    return EvaluateConfig(benchmark=ScenesData(few_scenes()), compare=full().compare)


def few_scenes() -> ScenesConfig:
    """Three objects in three scenes each."""
    return ScenesConfig(
        objects=3, scenes_per_object=3, empty_scenes=3, queries_per_object=1
    )


def quick_setup() -> dict[str, Any]:
    """Those scenes for the experiments of the paper, described in seconds."""
    return {"composed": few_scenes(), "dim": 16}
