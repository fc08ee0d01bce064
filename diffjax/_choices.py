"""Names of the choices that settings take, importable without JAX."""

from typing import Literal

QueryRule = Literal["paper", "official"]
SolverName = Literal[
    "cg",
    "cg-bcoo",
    "iterate",
    "unnormalized",
    "unnormalized-jacobi",
    "chebyshev",
    "direct",
]
NeighborMethod = Literal["exact", "nn-descent", "clusters", "sharded"]
AggregateName = Literal["mac", "gem", "spoc", "crow"]
