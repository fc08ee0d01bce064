"""Checks of neighbour lists that are handed over."""

import numpy as np

from diffjax._arguments import is_concrete
from diffjax._once import Memory
from diffjax.types import Neighbors

_GOOD: Memory[bool] = Memory()


def check_neighbors(name: str, neighbors: Neighbors, *, n: int) -> None:
    """Refuses lists that are not of n vectors, or no lists of neighbours.

    Args:
        name: What the caller calls them.
        neighbors: The lists, concrete.
        n: Number of vectors.

    Raises:
        ValueError: With the first bad row, if shapes differ, an index is not in
            -1..n-1 or twice in a row, or a similarity is not finite.
    """
    if _GOOD.get(neighbors) and len(neighbors.indices) == n:
        return
    indices = np.asarray(neighbors.indices)
    similarities = np.asarray(neighbors.similarities)
    if indices.ndim != 2 or len(indices) != n or indices.shape != similarities.shape:
        raise ValueError(
            f"{name} must have indices and similarities of shape [{n}, k], got "
            f"{list(indices.shape)} and {list(similarities.shape)}."
        )
    _refuse(name, "indices in -1..n-1", (indices < -1) | (indices >= n), indices)
    _refuse(name, "finite similarities", ~np.isfinite(similarities), similarities)
    ordered = np.sort(indices, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    _refuse(name, "each index once in a row", twice, ordered[:, 1:])
    remember_lists(neighbors)


def remember_lists(neighbors: Neighbors) -> Neighbors:
    """Spares lists that are good by construction their check; gives them back."""
    if all(map(is_concrete, neighbors)):
        _GOOD.put(neighbors, value=True)
    return neighbors


def _refuse(name, rule, bad, values):
    rows = np.flatnonzero(bad.any(1))
    if rows.size:
        value = values[rows[0]][bad[rows[0]]][0]
        raise ValueError(f"{name} must have {rule}, got {value} in row {rows[0]}.")
