"""What an experiment is made of; the parts' settings live with the parts."""

import dataclasses
import os
import pathlib

from diffjax.data import (
    Benchmark,
    ScenesConfig,
    classes_benchmark,
    compose_scenes,
    scenes_benchmark,
)
from diffjax.index import CompareConfig, FolderConfig


@dataclasses.dataclass(frozen=True)
class GroceryData:
    """Photographs of grocery packages, database and queries in folders by class."""

    data: pathlib.Path = dataclasses.field(
        default_factory=lambda: pathlib.Path(
            os.environ.get("DIFFJAX_DATA", "../shared/data"), "grocery_packages"
        )
    )
    """Folder that holds `train` and `test`; default: in $DIFFJAX_DATA."""

    def load(self, workdir: pathlib.Path) -> Benchmark:
        """Finds the pictures; nothing is kept in `workdir`."""
        del workdir
        return classes_benchmark("grocery", self.data / "train", self.data / "test")


@dataclasses.dataclass(frozen=True)
class ScenesData:
    """Composed scenes, made of nothing but installed packages."""

    scenes: ScenesConfig = dataclasses.field(default_factory=ScenesConfig)

    def load(self, workdir: pathlib.Path) -> Benchmark:
        """Composes the scenes in `workdir`, or finds them there."""
        return scenes_benchmark(compose_scenes(workdir / "scenes", config=self.scenes))


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """All methods on one benchmark."""

    benchmark: GroceryData | ScenesData
    folder: FolderConfig = dataclasses.field(default_factory=FolderConfig)
    compare: CompareConfig = dataclasses.field(default_factory=CompareConfig)
