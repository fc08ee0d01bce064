"""Checks of neighbour lists that are handed over."""

import numpy as np

from diffjax.types import Neighbors


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


def _refuse(name, rule, bad, values):
    rows = np.flatnonzero(bad.any(1))
    if rows.size:
        value = values[rows[0]][bad[rows[0]]][0]
        raise ValueError(f"{name} must have {rule}, got {value} in row {rows[0]}.")
