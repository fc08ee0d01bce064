"""What an experiment is made of; the parts' settings live with the parts."""

import dataclasses
import os
import pathlib
from typing import Literal

from diffjax.datasets import (
    Benchmark,
    ScenesConfig,
    classes_benchmark,
    compose_scenes,
    scenes_benchmark,
)
from diffjax.images import DescriptorConfig
from diffjax.index import CompareConfig, FolderConfig, IndexConfig

BenchmarkName = Literal[
    "scenes",
    "scenes-small",
    "scenes-large",
    "grocery",
    "oxford5k",
    "paris6k",
    "oxford105k",
    "paris106k",
    "roxford5k-easy",
    "roxford5k-medium",
    "roxford5k-hard",
    "rparis6k-easy",
    "rparis6k-medium",
    "rparis6k-hard",
    "instre",
    "folder",
    "labels",
]


def _data() -> pathlib.Path:
    return pathlib.Path(os.environ.get("DIFFJAX_DATA", "../shared/data"))


@dataclasses.dataclass(frozen=True)
class Setup:
    """The benchmark that an experiment of the paper is run on."""

    benchmark: BenchmarkName = "scenes-small"
    """Which one. `folder`: pictures in folders by class; `labels`: those of a CSV."""
    data: pathlib.Path = dataclasses.field(default_factory=_data)
    """Where ground truths and grocery packages lie; default: $DIFFJAX_DATA."""
    pictures: pathlib.Path | None = None
    """Folder of the pictures, or the CSV of labels; None for DATA/BENCHMARK."""
    distractors: pathlib.Path | None = None
    """Folder of the pictures that make 105k of 5k and 106k of 6k."""
    descriptors: pathlib.Path | None = None
    """The paper's released descriptors, a .mat file, instead of pictures."""
    graph: pathlib.Path | None = None
    """The neighbours of their regions that were released with them, a .mat file."""
    truth: pathlib.Path | None = None
    """The ground truth that was released with them, where the order is its own."""
    composed: ScenesConfig | None = None
    """Composed scenes of other settings than those of their name."""
    descriptor: DescriptorConfig = dataclasses.field(default_factory=DescriptorConfig)
    """How pictures are described."""
    dim: int | None = 256
    """Dimensions that vectors are whitened to, on the collection itself; None: not."""

    @property
    def folder(self) -> FolderConfig:
        """Settings of the index; those of the graph are the experiment's own."""
        own = {
            field.name: getattr(self.descriptor, field.name)
            for field in dataclasses.fields(DescriptorConfig)
        }
        return FolderConfig(**own, index=IndexConfig(dim=self.dim))

    @property
    def label(self) -> str:
        """What the benchmark is called in records; a user's own by its name, too."""
        if self.benchmark in ("folder", "labels") and self.pictures is not None:
            return f"{self.benchmark}-{self.pictures.resolve().stem}"
        return self.benchmark


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
