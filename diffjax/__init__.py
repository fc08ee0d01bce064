"""Image retrieval by diffusion on the graph of picture regions.

Names are resolved on first use: importing the package costs next to nothing, and
`import diffjax` in a program that needs one function imports what that needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffjax import evaluation as evaluation
    from diffjax.diffusion import DiffusionRows as DiffusionRows
    from diffjax.diffusion import LocalSolution as LocalSolution
    from diffjax.diffusion import combine_rows as combine_rows
    from diffjax.diffusion import diffuse as diffuse
    from diffjax.diffusion import diffuse_conventional as diffuse_conventional
    from diffjax.diffusion import diffuse_local as diffuse_local
    from diffjax.diffusion import offline_rows as offline_rows
    from diffjax.diffusion import query_vectors as query_vectors
    from diffjax.diffusion import spread_local as spread_local
    from diffjax.graph import Shortlist as Shortlist
    from diffjax.graph import affinity as affinity
    from diffjax.graph import compress as compress
    from diffjax.graph import edge_similarities as edge_similarities
    from diffjax.graph import insert as insert
    from diffjax.graph import kernel as kernel
    from diffjax.graph import knn as knn
    from diffjax.graph import knn_dense as knn_dense
    from diffjax.graph import normalize as normalize
    from diffjax.graph import recall as recall
    from diffjax.graph import shortlist as shortlist
    from diffjax.graph import truncate as truncate
    from diffjax.index import DescriptorConfig as DescriptorConfig
    from diffjax.index import FolderConfig as FolderConfig
    from diffjax.index import Index as Index
    from diffjax.index import IndexConfig as IndexConfig
    from diffjax.index import MappedConfig as MappedConfig
    from diffjax.index import MappedIndex as MappedIndex
    from diffjax.index import extract_folder as extract_folder
    from diffjax.index import index_folder as index_folder
    from diffjax.index import read_folder_regions as read_folder_regions
    from diffjax.pooling import gmp_weights as gmp_weights
    from diffjax.pooling import pool as pool
    from diffjax.ranking import pad_shortlist as pad_shortlist
    from diffjax.ranking import rank as rank
    from diffjax.ranking import scatter_shortlist as scatter_shortlist
    from diffjax.regions import reduce_regions as reduce_regions
    from diffjax.types import Graph as Graph
    from diffjax.types import Neighbors as Neighbors
    from diffjax.types import SearchResult as SearchResult
    from diffjax.types import Solution as Solution

_HOMES = {
    "DescriptorConfig": "index",
    "DiffusionRows": "diffusion",
    "FolderConfig": "index",
    "Graph": "types",
    "Index": "index",
    "IndexConfig": "index",
    "LocalSolution": "diffusion",
    "MappedConfig": "index",
    "MappedIndex": "index",
    "Neighbors": "types",
    "SearchResult": "types",
    "Shortlist": "graph",
    "Solution": "types",
    "affinity": "graph",
    "combine_rows": "diffusion",
    "compress": "graph",
    "diffuse": "diffusion",
    "diffuse_conventional": "diffusion",
    "diffuse_local": "diffusion",
    "edge_similarities": "graph",
    "evaluation": "",
    "extract_folder": "index",
    "gmp_weights": "pooling",
    "index_folder": "index",
    "insert": "graph",
    "kernel": "graph",
    "knn": "graph",
    "knn_dense": "graph",
    "normalize": "graph",
    "offline_rows": "diffusion",
    "pad_shortlist": "ranking",
    "pool": "pooling",
    "query_vectors": "diffusion",
    "rank": "ranking",
    "read_folder_regions": "index",
    "recall": "graph",
    "reduce_regions": "regions",
    "scatter_shortlist": "ranking",
    "shortlist": "graph",
    "spread_local": "diffusion",
    "truncate": "graph",
}
__all__ = [
    "DescriptorConfig",
    "DiffusionRows",
    "FolderConfig",
    "Graph",
    "Index",
    "IndexConfig",
    "LocalSolution",
    "MappedConfig",
    "MappedIndex",
    "Neighbors",
    "SearchResult",
    "Shortlist",
    "Solution",
    "affinity",
    "combine_rows",
    "compress",
    "diffuse",
    "diffuse_conventional",
    "diffuse_local",
    "edge_similarities",
    "evaluation",
    "extract_folder",
    "gmp_weights",
    "index_folder",
    "insert",
    "kernel",
    "knn",
    "knn_dense",
    "normalize",
    "offline_rows",
    "pad_shortlist",
    "pool",
    "query_vectors",
    "rank",
    "read_folder_regions",
    "recall",
    "reduce_regions",
    "scatter_shortlist",
    "shortlist",
    "spread_local",
    "truncate",
]


def __getattr__(name: str) -> Any:
    """Imports a public name, or a stage, when it is first asked for."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'diffjax' has no attribute {name!r}")
    value = (
        getattr(importlib.import_module(f"diffjax.{home}"), name)
        if home
        else importlib.import_module(f"diffjax.{name}")
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the public names."""
    return sorted(__all__)
