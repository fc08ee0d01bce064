"""Region descriptors side by side: map of the network, aggregation, whitening.

Paper: regional max-pooling of the last convolutional map of VGG16 and ResNet101,
fine-tuned for retrieval, with supervised whitening; nothing else is compared.
Data: composed scenes and grocery packages, as in their own cards. The network is
EfficientNet-Lite0 with its ImageNet weights, the only ones at hand without a download;
it was never shown a label of either collection.
Recorded: mAP of nearest neighbours on global descriptors and of regional diffusion, on
the same vectors; the paired difference of the latter from the first row, the default
before this table. One setting changes at a time: the map, the aggregation, the
whitening, the number of dimensions, the grid and the scales of the picture. The
supervised whitening is learned on the global descriptors of one half of the objects or
classes and tested on queries for the other half, both ways; it alone sees labels. "Then
pca-whitening": all directions are kept, and the projected regions are whitened and
reduced afterwards, without labels. NetVLAD describes whole pictures, by 16 clusters of
the cells of stage6, and its diffusion is global.
Expected: mAP of diffusion on scenes and grocery. The head, 86.0 and 56.0, is far above
earlier maps (stage6 67.0 and 29.6). On the scenes every aggregation does alike; on
grocery the maximum is best (gem 55.4, crow 54.4, spoc 51.1). Whitening gives 7 and 8
points over none and 5 over PCA alone, though nearest neighbours like it less; 10 %
shrinkage adds 0.1 to 0.3. 128 dimensions are level with 256 (85.0, 56.8), 64 and 512
are below. A grid of four scales loses 2.9 on the scenes, gains 0.4 on grocery and
doubles the regions; a second scale of the picture loses 2 to 4. 416 px gain 1.7 on the
scenes at 1.7 times the cost. So the default stays: head, maximum, 256 dimensions. A
supervised whitening cut to as many dimensions loses for both, since half of the objects
span few; kept whole and whitened again it lifts nearest neighbours (67.0 to 72.0 and
39.0 to 48.9 in 64 dimensions) and not diffusion (84.3, 52.6).
Cost: ten minutes for grocery and five for the scenes on 2 cores.
Command: python -m experiments descriptors scenes
         python -m experiments descriptors grocery
"""

import dataclasses
from typing import Literal

from configs.schema import GroceryData, ScenesData, few_scenes
from diffjax.images import DescriptorConfig
from diffjax.index import IndexConfig

WhiteningKind = Literal[
    "none",
    "pca",
    "pca-whitening",
    "shrunk",
    "supervised",
    "supervised, then pca-whitening",
]


@dataclasses.dataclass(frozen=True)
class Row:
    """Descriptor and whitening of one row of the table."""

    descriptor: DescriptorConfig = dataclasses.field(
        default_factory=lambda: DescriptorConfig(map="head", aggregate="mac")
    )
    whitening: WhiteningKind = "pca-whitening"
    dim: int = 256

    @property
    def name(self) -> str:
        """Name in tables: map, aggregation, settings that are not the default."""
        config, default = self.descriptor, DescriptorConfig()
        words = [f"{config.map} {config.aggregate}"]
        if config.gem_power is not None:
            words[0] += f" {config.gem_power:g}"
        if config.grid != default.grid:
            words.append(f"grid of {config.grid} scales")
        if config.scales != default.scales:
            words.append(f"picture at {', '.join(f'{s:.2g}' for s in config.scales)}")
        if config.side != default.side:
            words.append(f"{config.side} px")
        words.append(
            "not whitened"
            if self.whitening == "none"
            else f"{self.whitening} {self.dim}"
        )
        return ", ".join(words)


def _rows() -> tuple[Row, ...]:
    head = DescriptorConfig(map="head", aggregate="mac")
    change = dataclasses.replace
    return (
        Row(),
        *(Row(change(head, map=name)) for name in ("stage7", "stage6", "stage5")),
        *(Row(change(head, aggregate=name)) for name in ("gem", "spoc", "crow")),
        Row(whitening="none"),
        *(Row(whitening=kind) for kind in ("pca", "shrunk", "supervised")),
        *(Row(dim=dim) for dim in (64, 128, 512)),
        *(Row(whitening="supervised", dim=dim) for dim in (64, 128)),
        *(
            Row(whitening="supervised, then pca-whitening", dim=dim)
            for dim in (64, 128, 256)
        ),
        Row(change(head, grid=4)),
        Row(change(head, scales=(1.0, 0.7))),
        Row(change(head, side=416)),
    )


@dataclasses.dataclass(frozen=True)
class DescriptorsConfig:
    """Rows of the table; all are compared with the first."""

    benchmark: GroceryData | ScenesData
    rows: tuple[Row, ...] = dataclasses.field(default_factory=_rows)
    index: IndexConfig = dataclasses.field(default_factory=IndexConfig)
    """Settings of graph and diffusion, the same for all rows."""
    shrinkage: float = 0.1
    """Shrinkage of the shrunk and of the supervised whitening."""
    netvlad_clusters: int = 16
    """Clusters of NetVLAD; 0 leaves it out."""
    netvlad_map: str = "stage6"
    """Map whose cells NetVLAD aggregates."""
    netvlad_cells: int = 50_000
    """Cells that its clusters are fitted to."""
    seed: int = 0
    """Seed of the clusters, the pairs and the halves."""


def full() -> dict[str, DescriptorsConfig]:
    """Both collections."""
    return {
        "scenes": DescriptorsConfig(ScenesData()),
        "grocery": DescriptorsConfig(GroceryData()),
    }


def quick() -> DescriptorsConfig:
    """A dozen scenes, in seconds."""
    small = DescriptorConfig(map="head", aggregate="mac", side=96)
    return DescriptorsConfig(
        ScenesData(few_scenes()),
        rows=(Row(small, dim=16), Row(small, whitening="supervised", dim=8)),
        index=IndexConfig.of(k=20, query_k=20),
        netvlad_clusters=2,
    )
