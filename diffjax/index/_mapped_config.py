"""Settings of an index that stays on the disk."""

import dataclasses
from typing import Literal, get_args

from diffjax.graph import PROBES

from ._config import IndexConfig
from ._descriptor import at_least_one, one_of

Storage = Literal["float32", "float16", "pq"]


@dataclasses.dataclass(frozen=True)
class MappedConfig:
    """How vectors become an index on the disk, and how it is searched."""

    index: IndexConfig = dataclasses.field(
        default_factory=lambda: IndexConfig(neighbors="clusters", reach=4000)
    )
    """The graph and the search: without short lists and offline solutions."""
    clusters: int | None = None
    """Clusters that k-means looks for; None for about sqrt(probes x regions)."""
    probes: int = PROBES
    """Clusters, of the mean size, whose members a region is compared with."""
    query_probes: int = 64
    """Clusters that each region of a query is compared with."""
    storage: Storage = "float32"
    """Vectors that queries are compared with: whole, halved, or as codes."""
    code_bytes: int = 32
    """Bytes of a vector's code, with pq; a divisor of the dimensions."""
    seed: int = 0
    """Of the clusters and of the codes."""

    def __post_init__(self) -> None:
        """Refuses settings outside their range, and ways that need all of it."""
        for name in ("probes", "query_probes", "code_bytes"):
            at_least_one(name, getattr(self, name))
        if self.clusters is not None:
            at_least_one("clusters", self.clusters)
        one_of("storage", self.storage, get_args(Storage))
        for name, value in (
            ("neighbors", "clusters"),
            ("shortlist", None),
            ("offline", None),
            ("cut", "early"),
        ):
            if getattr(self.index, name) != value:
                raise ValueError(
                    f"{name} must be {value!r} in an index on the disk, got "
                    f"{getattr(self.index, name)!r}."
                )
