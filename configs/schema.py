"""Benchmarks and their settings, shared by the cards of the experiments."""

import dataclasses
import os
import pathlib
from typing import Any, Literal

from diffjax.datasets import (
    Benchmark,
    ScenesConfig,
    classes_benchmark,
    compose_scenes,
    scenes_benchmark,
)
from diffjax.images import DescriptorConfig
from diffjax.index import CompareConfig, IndexConfig, pictures_config

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
class PicturesConfig:
    """Settings that describe and index the pictures of a benchmark."""

    descriptor: DescriptorConfig = dataclasses.field(default_factory=DescriptorConfig)
    """Settings that describe pictures."""
    index: IndexConfig = dataclasses.field(default_factory=pictures_config)
    """Settings of the index."""
    workers: int = 2
    """Processes that read pictures."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """Benchmark on which an experiment of the paper runs."""

    benchmark: BenchmarkName = "scenes-small"
    """Name. `folder`: pictures in folders by class; `labels`: pictures of a CSV."""
    data: pathlib.Path = dataclasses.field(default_factory=_data)
    """Folder of ground truths and grocery packages; default: $DIFFJAX_DATA."""
    pictures: pathlib.Path | None = None
    """Folder of the pictures, or the CSV of labels; None for DATA/BENCHMARK."""
    distractors: pathlib.Path | None = None
    """Folder of the pictures that make 105k of 5k and 106k of 6k."""
    descriptors: pathlib.Path | None = None
    """File of the paper's released descriptors (.mat), instead of pictures."""
    graph: pathlib.Path | None = None
    """File of the released neighbours of their regions (.mat)."""
    truth: pathlib.Path | None = None
    """File of their released ground truth, where its order of pictures is special."""
    composed: ScenesConfig | None = None
    """Settings of composed scenes, in place of those that the name stands for."""
    descriptor: DescriptorConfig = dataclasses.field(default_factory=DescriptorConfig)
    """Settings of the descriptors."""
    dim: int | None = 256
    """Dimensions after whitening on the collection itself; None does not whiten."""

    @property
    def folder(self) -> PicturesConfig:
        """Settings of the index; those of the graph are the experiment's own."""
        return PicturesConfig(self.descriptor, IndexConfig.of(dim=self.dim))

    @property
    def label(self) -> str:
        """Name of the benchmark in records; of a user's pictures with their name."""
        if self.benchmark in ("folder", "labels") and self.pictures is not None:
            return f"{self.benchmark}-{self.pictures.resolve().stem}"
        return self.benchmark


@dataclasses.dataclass(frozen=True)
class GroceryData:
    """Grocery packages: photographs of database and queries in folders by class."""

    data: pathlib.Path = dataclasses.field(
        default_factory=lambda: pathlib.Path(
            os.environ.get("DIFFJAX_DATA", "../shared/data"), "grocery_packages"
        )
    )
    """Folder with `train` and `test`; default: in $DIFFJAX_DATA."""

    def load(self, workdir: pathlib.Path) -> Benchmark:
        """Finds the pictures; caches nothing in `workdir`."""
        del workdir
        return classes_benchmark("grocery", self.data / "train", self.data / "test")


@dataclasses.dataclass(frozen=True)
class ScenesData:
    """Composed scenes, made of photographs inside installed packages."""

    scenes: ScenesConfig = dataclasses.field(default_factory=ScenesConfig)

    def load(self, workdir: pathlib.Path) -> Benchmark:
        """Composes the scenes in `workdir`, or finds them there from before."""
        return scenes_benchmark(compose_scenes(workdir / "scenes", config=self.scenes))


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Benchmark, index and comparison of all methods."""

    benchmark: GroceryData | ScenesData
    folder: PicturesConfig = dataclasses.field(default_factory=PicturesConfig)
    compare: CompareConfig = dataclasses.field(default_factory=CompareConfig)


def few_scenes() -> ScenesConfig:
    """Makes the scenes of quick runs: three objects in three scenes each."""
    return ScenesConfig(
        objects=3, scenes_per_object=3, empty_scenes=3, queries_per_object=1
    )


def quick_setup() -> dict[str, Any]:
    """Makes the fields of `Setup` for quick runs: few scenes, few dimensions."""
    return {"composed": few_scenes(), "dim": 16}
