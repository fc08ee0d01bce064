"""Settings of an index, of its graph and of presets, validated at construction."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from diffjax._choices import NeighborMethod
from diffjax._ranges import check_at_least, check_choice, check_in_range
from diffjax.retrieve import LARGE_COLLECTION, SearchConfig

PoolingName = Literal["gmp", "sum"]
Preset = Literal["paper", "official", "offline-late"]
Storage = Literal["float32", "float16", "pq"]
WhiteningName = Literal["pca-whitening", "pca"]


# Names of settings of earlier versions, by what they are called now.
_RENAMED = MappingProxyType(
    {
        "neighbors": "method",
        "offline": "offline_neighbors",
        "reach": "local_nodes",
        "query_probes": "probes",
        "cut": "renormalize_shortlist (True was 'early', False was 'late')",
        "tail": "outside_shortlist ('similarity' was 'global')",
        "image_ids": "ids",
        "index": "graph and search",
    }
)


@dataclasses.dataclass(frozen=True)
class GraphConfig:
    """Settings that stored arrays depend on: a change of one needs a new build.

    Attributes:
        dim: Dimensions after whitening, which is fitted on the collection; None leaves
            vectors as they are, whatever `whitening` says.
        whitening: Kind of the whitening: PCA with variances made equal, or PCA alone.
            Only `dim` decides whether vectors are whitened.
        shrinkage: Shrinkage of the whitening's covariance towards a multiple of the
            identity, in [0, 1).
        k: Neighbours of each region in the graph, itself included (the paper: 200).
        method: Neighbour search: exact, approximate (clusters, nn-descent), or exact on
            all devices (sharded); None is exact up to 200,000 regions, clusters above.
        clusters: Clusters of k-means; None is 4 sqrt(regions), or fewer, so that the
            mean cluster has k members.
        neighbor_probes: Clusters, of mean size, that each region is compared with in
            the neighbour search.
        gamma: Exponent of the similarity kernel.
        bias: Offset that the kernel subtracts from each similarity, in (-1, 1).
        pooling: Pooling of region scores into image scores: generalised max pooling, or
            the sum.
        lam: Regularisation of generalised max pooling.
        offline_neighbors: Nodes of the solution that is stored for each region; None
            stores none, and every query is solved when it is asked.
        storage: Number type of the vectors that queries are compared with: float32,
            float16, or codes of product quantisation.
        code_bytes: Bytes of each code, with pq; a divisor of the dimensions.
        seed: Seed of the neighbour search (the k-means of clusters, the random start of
            nn-descent) and of the codes' training sample.
    """

    dim: int | None = None
    whitening: WhiteningName = "pca-whitening"
    shrinkage: float = 0.0
    k: int = 50
    method: NeighborMethod | None = None
    clusters: int | None = None
    neighbor_probes: int = 20
    gamma: float = 3.0
    bias: float = 0.0
    pooling: PoolingName = "gmp"
    lam: float = 1.0
    offline_neighbors: int | None = None
    storage: Storage = "float32"
    code_bytes: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks each setting against its range."""
        for name in ("k", "neighbor_probes", "code_bytes"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("dim", "clusters", "offline_neighbors"):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), 1)
        for name in ("gamma", "lam"):
            check_in_range(name, getattr(self, name), low=0, high=float("inf"))
        check_in_range("bias", self.bias, low=-1, high=1)
        check_in_range("shrinkage", self.shrinkage, low=0, high=1, closed_low=True)
        check_choice("whitening", self.whitening, get_args(WhiteningName))
        if self.shrinkage and self.whitening == "pca":
            raise ValueError(
                "shrinkage must be 0 with whitening 'pca', which it does not change, "
                f"got {self.shrinkage}."
            )
        if self.method is not None:
            check_choice("method", self.method, get_args(NeighborMethod))
        check_choice("pooling", self.pooling, get_args(PoolingName))
        check_choice("storage", self.storage, get_args(Storage))


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """Settings of an index: those of its graph, and those of its searches.

    Attributes:
        graph: Settings that stored arrays depend on.
        search: Settings of a search, where it is given no others.
    """

    graph: GraphConfig = dataclasses.field(default_factory=GraphConfig)
    search: SearchConfig = dataclasses.field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        """Checks the settings of graph and search against each other."""
        if self.graph.offline_neighbors is None:
            return
        for name in ("shortlist", "local_nodes"):
            if getattr(self.search, name):
                raise ValueError(
                    f"{name} must not be set with offline_neighbors, whose solutions "
                    f"are made before any query, got {getattr(self.search, name)}."
                )

    @classmethod
    def of(cls, **settings: Any) -> "IndexConfig":
        """Builds an `IndexConfig` from settings of graph and search, by name.

        Args:
            **settings: Fields of `GraphConfig` and `SearchConfig`.

        Raises:
            ValueError: If a setting is out of its range.
            TypeError: If a name is unknown; of a renamed one it says the new name.
        """
        return cls().replace(**settings)

    def replace(self, **settings: Any) -> "IndexConfig":
        """Copies the settings with some of graph or search changed, by name.

        Args:
            **settings: Fields of `GraphConfig` and `SearchConfig`.

        Raises:
            ValueError: If a setting is out of its range.
            TypeError: If a name is unknown; of a renamed one it says the new name.
        """
        graph = {n: v for n, v in settings.items() if n in _GRAPH_FIELDS}
        search = {n: v for n, v in settings.items() if n in _SEARCH_FIELDS}
        for name in settings:
            check_setting_name(name)
        return IndexConfig(
            dataclasses.replace(self.graph, **graph),
            dataclasses.replace(self.search, **search),
        )

    def by_name(self) -> dict[str, Any]:
        """Settings of graph and search, by name."""
        return {**vars(self.graph), **vars(self.search)}

    def resolve(self, n: int) -> "IndexConfig":
        """Resolves the settings that depend on the size of the collection.

        Args:
            n: Number of regions.
        """
        is_large = n > LARGE_COLLECTION
        method = self.graph.method or ("clusters" if is_large else "exact")
        clustered = method == "clusters"
        return IndexConfig(
            dataclasses.replace(self.graph, method=method),
            self.search.resolve(n, clustered=clustered, offline=self.is_offline),
        )

    @property
    def is_offline(self) -> bool:
        """Whether the index stores offline solutions."""
        return self.graph.offline_neighbors is not None


_GRAPH_FIELDS = {field.name for field in dataclasses.fields(GraphConfig)}
_SEARCH_FIELDS = {field.name for field in dataclasses.fields(SearchConfig)}


def check_setting_name(name: str) -> None:
    """Checks that a setting of that name exists.

    Raises:
        TypeError: If there is none; of a renamed one it says the new name.
    """
    if name in _GRAPH_FIELDS | _SEARCH_FIELDS:
        return
    if name in _RENAMED:
        raise TypeError(f"{name} is called {_RENAMED[name]} now.")
    known = ", ".join(sorted(_GRAPH_FIELDS | _SEARCH_FIELDS))
    raise TypeError(f"{name} must be a setting of an index, one of {known}.")


def config_to_json(config: IndexConfig) -> dict[str, Any]:
    """JSON form of the settings."""
    return dataclasses.asdict(config)


def config_from_json(stored: Mapping[str, Any]) -> IndexConfig:
    """Settings from their JSON form.

    Raises:
        TypeError: If they have other names.
        ValueError: If one is out of its range.
    """
    return IndexConfig(GraphConfig(**stored["graph"]), SearchConfig(**stored["search"]))


PRESETS: Mapping[Preset, IndexConfig] = MappingProxyType(
    {
        # Iscen et al., CVPR 2017, section 5.1. For more than 100,000 images the paper
        # adds `shortlist=10_000`; for mixtures of regions it has k 50.
        "paper": IndexConfig.of(k=200, query_k=200),
        # The authors' MATLAB program: similarities are summed before the power, pcg
        # gives its best iterate, images outside a short list score 0.
        "official": IndexConfig.of(
            k=200,
            query_k=200,
            rule="official",
            keep_best=True,
            outside_shortlist="zero",
        ),
        # Yang et al., AAAI 2019: one truncated solution per database vector, made
        # beforehand on a graph that was normalised before the cut.
        "offline-late": IndexConfig.of(
            k=50, query_k=10, renormalize_shortlist=False, offline_neighbors=1000
        ),
    }
)
