"""Descriptor settings, and what an index records about its pictures."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from diffjax._arguments import check_in_range

AggregateName = Literal["mac", "gem", "spoc", "crow"]


@dataclasses.dataclass(frozen=True)
class DescriptorConfig:
    """How pictures become region vectors."""

    network: str = "efficientnet-lite0"
    """Architecture, or name of known weights, which are downloaded when first used."""
    weights: str | None = None
    """File of weights (torch, safetensors, MatConvNet); None is what NETWORK names."""
    map: str | None = None
    """Map of the network that is pooled; None is the last that is no pooling."""
    aggregate: AggregateName | None = None
    """How cells become a vector; None is gem where the weights have it, else mac."""
    gem_power: float | None = None
    """Power of gem; None is that of the weights' file, or 3."""
    network_whitening: str | None = None
    """Whitening out of the weights' file, such as end-to-end; None is none."""
    grid: int = 3
    """Scales of the R-MAC grid of regions; the paper's are 3, more are finer."""
    side: int = 320
    """Longer side in pixels at which pictures enter the network, a multiple of 32."""
    scales: tuple[float, ...] = (1.0,)
    """Scales, in parts of the side, that are combined; the grid is of the first."""

    def __post_init__(self) -> None:
        """Refuses settings outside their range."""
        check_at_least_one("grid", self.grid)
        if self.aggregate is not None:
            check_choice("aggregate", self.aggregate, get_args(AggregateName))
        if self.side < 64 or self.side % 32:
            raise ValueError(f"side must be a multiple of 32 from 64, got {self.side}.")
        if self.gem_power is not None:
            check_in_range("gem_power", self.gem_power, low=0, high=float("inf"))
            if self.aggregate not in {"gem", None}:
                raise ValueError(
                    f"gem_power must go with aggregate 'gem', got {self.aggregate!r}."
                )
        if not self.scales or not all(0 < scale <= 2 for scale in self.scales):
            raise ValueError(
                f"scales must be one or more in (0, 2], got {self.scales}."
            )
        if len(set(self.sides)) < len(self.scales):
            raise ValueError(
                f"scales must give different multiples of 32 px at side {self.side}, "
                f"got {self.scales}, that is {self.sides} px."
            )

    @property
    def sides(self) -> tuple[int, ...]:
        """Longer sides in pixels, one per scale: the nearest multiples of 32."""
        return tuple(
            max(round(self.side * scale / 32) * 32, 64) for scale in self.scales
        )

    def descriptor(self) -> "DescriptorConfig":
        """Leaves out what a subclass adds, and says where the weights are for good."""
        fields = dataclasses.fields(DescriptorConfig)
        settings = {field.name: getattr(self, field.name) for field in fields}
        if self.weights is not None:
            settings["weights"] = str(pathlib.Path(self.weights).resolve())
        return DescriptorConfig(**settings)

    def fingerprint(self, weights: str) -> str:
        """Identifies vectors by what they depend on beside the picture.

        Args:
            weights: SHA-256 of the weights. Where their file lies does not matter.
        """
        settings = dataclasses.asdict(self.descriptor()) | {"weights": weights}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def descriptor_config_from_json(stored: Mapping[str, Any]) -> DescriptorConfig:
    """Makes settings of their JSON form.

    Raises:
        TypeError: If they have other names.
        ValueError: If one is out of its range.
    """
    return DescriptorConfig(**{**stored, "scales": tuple(stored["scales"])})


def check_at_least_one(name: str, value: int) -> None:
    """Refuses a number below 1."""
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuses what is not among the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}.")


class IndexedPictures(NamedTuple):
    """Where the vectors of an index came from.

    Attributes:
        folder: Folder of the pictures when the index was built.
        names: Their paths in it, one per image of the index.
        skipped: Paths that could not be read, with the reason.
        descriptor: How they were described.
        weights: SHA-256 of the network's weights.
        content: Hash of what all pictures held, those skipped included.
    """

    folder: str
    names: tuple[str, ...]
    skipped: dict[str, str]
    descriptor: DescriptorConfig
    weights: str
    content: str = ""

    @property
    def network(self) -> str:
        """Names the network, its map and the very weights."""
        named = self.descriptor.network, self.descriptor.map, self.weights[:16]
        return "/".join(filter(None, named))
