"""Descriptor settings, and the record of pictures that an index stores."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

from diffjax._choices import AggregateName
from diffjax._ranges import check_at_least, check_choice, check_in_range


@dataclasses.dataclass(frozen=True)
class DescriptorConfig:
    """Settings that describe pictures by region vectors.

    Attributes:
        network: Architecture, or name of known weights, which are downloaded when they
            are first used.
        weights: File of weights (torch, safetensors, MatConvNet); None is what
            `network` names.
        map: Map of the network that is pooled; None is the last before the pooling.
        aggregate: Aggregation of the cells of a region; None is gem where the weights
            have it, else mac.
        gem_power: Power of gem; None is that of the weights' file, or 3.
        network_whitening: Whitening out of the weights' file, such as end-to-end; None
            is none.
        grid: Scales of the R-MAC grid of regions; the paper's are 3, more are finer.
        side: Longer side in pixels at which pictures enter the network, a multiple of
            32.
        scales: Scales, in parts of the side, that are combined; the grid is of the
            first.
    """

    network: str = "efficientnet-lite0"
    weights: str | None = None
    map: str | None = None
    aggregate: AggregateName | None = None
    gem_power: float | None = None
    network_whitening: str | None = None
    grid: int = 3
    side: int = 320
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Checks that every setting is in its range."""
        check_at_least("grid", self.grid, 1)
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
        """Drops the fields of subclasses, and makes the weights' path absolute."""
        fields = dataclasses.fields(DescriptorConfig)
        settings = {field.name: getattr(self, field.name) for field in fields}
        if self.weights is not None:
            settings["weights"] = str(pathlib.Path(self.weights).resolve())
        return DescriptorConfig(**settings)

    def fingerprint(self, weights: str) -> str:
        """Hashes everything that vectors depend on beside the picture.

        Args:
            weights: SHA-256 of the weights; the path of their file has no influence.
        """
        settings = dataclasses.asdict(self.descriptor()) | {"weights": weights}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def descriptor_config_from_json(stored: Mapping[str, Any]) -> DescriptorConfig:
    """Restores settings from their JSON form.

    Raises:
        TypeError: If a field has an unknown name.
        ValueError: If a setting is out of its range.
    """
    return DescriptorConfig(**{**stored, "scales": tuple(stored["scales"])})


class IndexedPictures(NamedTuple):
    """Record of the pictures of an index: folder, names, descriptor, weights.

    Attributes:
        folder: Folder of the pictures when the index was built.
        names: Paths of the pictures relative to the folder, one per image of the index.
        skipped: Paths of unreadable pictures, with the reason.
        descriptor: Settings of the descriptor.
        weights: SHA-256 of the network's weights.
        content: Hash of the contents of all pictures, including the skipped ones.
    """

    folder: str
    names: tuple[str, ...]
    skipped: dict[str, str]
    descriptor: DescriptorConfig
    weights: str
    content: str = ""

    @property
    def network(self) -> str:
        """Identifies the network, its map and its weights."""
        identifiers = self.descriptor.network, self.descriptor.map, self.weights[:16]
        return "/".join(filter(None, identifiers))
