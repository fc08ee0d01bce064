"""What a graph must be before anything is computed on it."""

import jax
import numpy as np

from diffjax._arguments import is_concrete
from diffjax._once import Memory
from diffjax.types import Graph

_GOOD: Memory[bool] = Memory()


def check_graph(name: str, graph: Graph, *, signed: bool = False) -> None:
    """Refuses a concrete graph that is no affinity, or no normalised one.

    Args:
        name: What the caller calls it.
        graph: The graph, in either form; a traced one passes.
        signed: Whether weights may be negative, as raw similarities may.

    Raises:
        ValueError: If a weight is NaN, infinite or negative, an index is not that of a
            node, or the two directions of an edge differ.
    """
    leaves = jax.tree.leaves(graph)
    if not all(is_concrete(leaf) for leaf in leaves):
        return
    if _GOOD.get(leaves):
        return
    weights, indices = np.asarray(graph.weights), np.asarray(graph.indices)
    if weights.shape != indices.shape:
        raise ValueError(
            f"{name} must have one weight per index, {list(indices.shape)}, got "
            f"{list(weights.shape)}."
        )
    bad = ~np.isfinite(weights)
    if bad.any():
        raise ValueError(
            f"{name} must have finite weights, got {weights[bad][0]} in {bad.sum()} of "
            f"{weights.size} places."
        )
    negative = bool(weights.size) and weights.min() < 0
    if negative and not signed:
        raise ValueError(
            f"{name} must have weights of at least 0, got {weights.min()}."
        )
    lowest = 0 if graph.starts is not None else -1
    if indices.size and not lowest <= indices.min() <= indices.max() < graph.num_nodes:
        raise ValueError(
            f"{name} must have indices in {lowest}..{graph.num_nodes - 1}, got "
            f"{indices.min()}..{indices.max()}."
        )
    matrix = graph.to_scipy()
    if (matrix != matrix.T).nnz:
        raise ValueError(
            f"{name} must be symmetric, got weights that differ by up to "
            f"{abs(matrix - matrix.T).max():.3g} between the two directions."
        )
    if not negative:
        remember_good(graph)


def remember_good(graph: Graph) -> Graph:
    """Spares a graph that is good by construction its check; gives it back."""
    leaves = jax.tree.leaves(graph)
    if all(is_concrete(leaf) for leaf in leaves):
        _GOOD.put(leaves, value=True)
    return graph
