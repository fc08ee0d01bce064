"""Image retrieval by diffusion on the graph of picture regions.

Names are resolved on first use: importing the package costs next to nothing, and
`import diffjax` in a program that needs one function imports what that needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffjax import evaluation as evaluation
    from diffjax.diffusion import diffuse as diffuse
    from diffjax.diffusion import query_vectors as query_vectors
    from diffjax.graph import affinity as affinity
    from diffjax.graph import compress as compress
    from diffjax.graph import knn as knn
    from diffjax.graph import normalize as normalize
    from diffjax.index import Index as Index
    from diffjax.index import IndexConfig as IndexConfig
    from diffjax.index import index_folder as index_folder
    from diffjax.pooling import gmp_weights as gmp_weights
    from diffjax.pooling import pool as pool
    from diffjax.ranking import rank as rank
    from diffjax.types import Graph as Graph
    from diffjax.types import Neighbors as Neighbors
    from diffjax.types import SearchResult as SearchResult
    from diffjax.types import Solution as Solution

_HOMES = {
    "Graph": "types",
    "Index": "index",
    "IndexConfig": "index",
    "Neighbors": "types",
    "SearchResult": "types",
    "Solution": "types",
    "affinity": "graph",
    "compress": "graph",
    "diffuse": "diffusion",
    "evaluation": "",
    "gmp_weights": "pooling",
    "index_folder": "index",
    "knn": "graph",
    "normalize": "graph",
    "pool": "pooling",
    "query_vectors": "diffusion",
    "rank": "ranking",
}
__all__ = [
    "Graph",
    "Index",
    "IndexConfig",
    "Neighbors",
    "SearchResult",
    "Solution",
    "affinity",
    "compress",
    "diffuse",
    "evaluation",
    "gmp_weights",
    "index_folder",
    "knn",
    "normalize",
    "pool",
    "query_vectors",
    "rank",
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
