"""Validation of graphs and neighbour lists, cached for arrays that have passed."""

import jax
import numpy as np

from diffjax._arguments import is_concrete
from diffjax._array_cache import ArrayCache
from diffjax.types import Graph, Neighbors

_VALID_GRAPHS: ArrayCache[bool] = ArrayCache()
_VALID_NEIGHBORS: ArrayCache[bool] = ArrayCache()


def check_graph(name: str, graph: Graph, *, signed: bool = False) -> None:
    """Checks that a concrete graph is symmetric with finite weights of at least 0.

    Args:
        name: Name of the argument, for messages.
        graph: The graph, in either form; a traced one passes unchecked.
        signed: Whether weights may be negative, as raw similarities may.

    Raises:
        ValueError: If a weight is NaN, infinite or negative, an index is not that of a
            node, rows do not start where the ones before them end, or the two
            directions of an edge differ.
    """
    leaves = jax.tree.leaves(graph)
    if not all(is_concrete(leaf) for leaf in leaves):
        return
    if _VALID_GRAPHS.get(leaves):
        return
    weights, indices = np.asarray(graph.weights), np.asarray(graph.indices)
    if weights.shape != indices.shape:
        raise ValueError(
            f"{name} must have one weight per index, {list(indices.shape)}, got "
            f"{list(weights.shape)}."
        )
    is_invalid = ~np.isfinite(weights)
    if is_invalid.any():
        raise ValueError(
            f"{name} must have finite weights, got {weights[is_invalid][0]} in "
            f"{is_invalid.sum()} of {weights.size} entries."
        )
    has_negative = bool(weights.size) and weights.min() < 0
    if has_negative and not signed:
        raise ValueError(
            f"{name} must have weights of at least 0, got {weights.min()}."
        )
    lowest_allowed_index = 0 if graph.starts is not None else -1
    if (
        indices.size
        and not lowest_allowed_index <= indices.min() <= indices.max() < graph.num_nodes
    ):
        raise ValueError(
            f"{name} must have indices in {lowest_allowed_index}.."
            f"{graph.num_nodes - 1}, got {indices.min()}..{indices.max()}."
        )
    starts = None if graph.starts is None else np.asarray(graph.starts)
    if starts is not None and (
        starts[0] != 0 or starts[-1] != indices.size or (np.diff(starts) < 0).any()
    ):
        raise ValueError(
            f"{name} must have starts that rise from 0 to {indices.size}, the number "
            f"of indices, got {starts[0]} to {starts[-1]}, with steps of "
            f"{np.diff(starts).min(initial=0)} and more."
        )
    matrix = graph.to_scipy()
    if (matrix != matrix.T).nnz:
        raise ValueError(
            f"{name} must be symmetric, got weights that differ by up to "
            f"{abs(matrix - matrix.T).max():.3g} between the two directions."
        )
    if not has_negative:
        mark_graph_valid(graph)


def mark_graph_valid(graph: Graph) -> Graph:
    """Marks a graph as valid by construction, so that it is not checked; returns it."""
    leaves = jax.tree.leaves(graph)
    if all(is_concrete(leaf) for leaf in leaves):
        _VALID_GRAPHS.put(leaves, value=True)
    return graph


def check_neighbors(name: str, neighbors: Neighbors, *, n: int) -> None:
    """Checks that neighbour lists are of n vectors and have distinct valid indices.

    Args:
        name: Name of the argument, for messages.
        neighbors: The lists, concrete.
        n: Number of vectors.

    Raises:
        ValueError: With the first bad row, if shapes differ, an index is not in
            -1..n-1 or twice in a row, or a similarity is not finite.
    """
    if _VALID_NEIGHBORS.get(neighbors) and len(neighbors.indices) == n:
        return
    indices = np.asarray(neighbors.indices)
    similarities = np.asarray(neighbors.similarities)
    if indices.ndim != 2 or len(indices) != n or indices.shape != similarities.shape:
        raise ValueError(
            f"{name} must have indices and similarities of shape [{n}, k], got "
            f"{list(indices.shape)} and {list(similarities.shape)}."
        )
    _raise_for_first_row(
        name, "indices in -1..n-1", (indices < -1) | (indices >= n), indices
    )
    _raise_for_first_row(
        name, "finite similarities", ~np.isfinite(similarities), similarities
    )
    sorted_indices = np.sort(indices, axis=1)
    is_repeated = (sorted_indices[:, 1:] == sorted_indices[:, :-1]) & (
        sorted_indices[:, 1:] >= 0
    )
    _raise_for_first_row(
        name, "each index once in a row", is_repeated, sorted_indices[:, 1:]
    )
    mark_neighbors_valid(neighbors)


def mark_neighbors_valid(neighbors: Neighbors) -> Neighbors:
    """Marks lists as valid by construction, so they are not checked; returns them."""
    if all(map(is_concrete, neighbors)):
        _VALID_NEIGHBORS.put(neighbors, value=True)
    return neighbors


def _raise_for_first_row(name, rule, is_invalid, values):
    rows = np.flatnonzero(is_invalid.any(1))
    if rows.size:
        value = values[rows[0]][is_invalid[rows[0]]][0]
        raise ValueError(f"{name} must have {rule}, got {value} in row {rows[0]}.")
