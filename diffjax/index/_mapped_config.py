"""Settings of an index that stays on the disk."""

import dataclasses
from typing import Literal, get_args

from diffjax.graph import DEFAULT_PROBES
from diffjax.images import check_at_least_one, check_choice

from ._config import IndexConfig

Storage = Literal["float32", "float16", "pq"]

# What a search takes; all other settings are of the build.
_OF_SEARCH = (
    *("query_probes", "query_k", "query_gamma", "alpha", "rule", "solver", "rtol"),
    *("max_steps", "keep_best", "reach", "warn_residual"),
)


@dataclasses.dataclass(frozen=True)
class MappedConfig:
    """How vectors become an index on the disk, and how it is searched."""

    index: IndexConfig = dataclasses.field(
        default_factory=lambda: IndexConfig(neighbors="clusters", reach=4000)
    )
    """The graph and the search: without short lists and offline solutions."""
    clusters: int | None = None
    """Clusters of k-means; None for 4 sqrt(regions), or fewer, of k members each."""
    probes: int = DEFAULT_PROBES
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
            check_at_least_one(name, getattr(self, name))
        if self.clusters is not None:
            check_at_least_one("clusters", self.clusters)
        check_choice("storage", self.storage, get_args(Storage))
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


def check_as_built(config: MappedConfig, built: MappedConfig) -> None:
    """Refuses settings of the build that are not those an index was built with.

    Raises:
        ValueError: Naming the first of them, what it was and what may be changed.
    """
    for own, first in (config, built), (config.index, built.index):
        for name in (field.name for field in dataclasses.fields(own)):
            value, was = getattr(own, name), getattr(first, name)
            if name not in {"index", *_OF_SEARCH} and value != was:
                raise ValueError(
                    f"{name} must be {was!r}, as the index was built, got {value!r}: "
                    "build another index, or change only what a search takes "
                    f"({', '.join(_OF_SEARCH)})."
                )
