"""Connected components of a symmetric graph, with the sums of their degrees."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

# Edges that are read at a time.
_EDGES_PER_BLOCK = 2**22


class Components(NamedTuple):
    """Connected components of a graph.

    Attributes:
        labels: Component of every node, numbered from 0.
        degree_sums: Sum of the degrees in each component.
        nodes: The nodes of one component after the other.
        starts: Start of each component in `nodes`, and the end: c + 1.
    """

    labels: Int[np.ndarray, " n"]
    degree_sums: Float[np.ndarray, " c"]
    nodes: Int[np.ndarray, " n"]
    starts: Int[np.ndarray, " starts"]

    def nodes_of(
        self, components: Int[np.ndarray, " p"], *, limit: int
    ) -> Int[np.ndarray, " l"] | None:
        """Nodes of some components; None if they are more than `limit`."""
        sizes = self.starts[components + 1] - self.starts[components]
        if sizes.sum() > limit:
            return None
        members = [self.nodes[self.starts[c] : self.starts[c + 1]] for c in components]
        return np.concatenate([np.zeros(0, np.int32), *members])


def find_components(
    columns: Int[np.ndarray, " e"],
    starts: Int[np.ndarray, " starts"],
    degrees: Float[np.ndarray, " n"],
) -> Components:
    """Finds the connected components of a symmetric graph in the compressed form.

    Labels are propagated block by block, so that edges may lie in a mapped file: every
    node takes the lowest label among its neighbours', and chains of labels are
    shortened, until nothing changes.

    Args:
        columns: Column of each stored edge.
        starts: Start of each row, and the end: n + 1.
        degrees: Row sums.

    Returns:
        Components, numbered by their lowest node.
    """
    n = len(degrees)
    parent = np.arange(n, dtype=np.int32)
    changed = True
    while changed:
        before = parent.copy()
        for edges, first, last in row_blocks(starts):
            counts = np.diff(starts[first : last + 1])
            filled = np.flatnonzero(counts)
            if not filled.size:
                continue
            offsets = starts[first:last][filled] - starts[first]
            lowest = np.minimum.reduceat(parent[columns[edges]], offsets)
            nodes = first + filled
            np.minimum.at(parent, parent[nodes], lowest)
            parent[nodes] = np.minimum(parent[nodes], lowest)
        while True:
            shorter = parent[parent]
            if (shorter == parent).all():
                break
            parent = shorter
        changed = bool((parent != before).any())
    _, labels = np.unique(parent, return_inverse=True)
    labels = labels.astype(np.int32)
    degree_sums = np.bincount(labels, degrees)
    sizes = np.bincount(labels, minlength=len(degree_sums))
    return Components(
        labels=labels,
        degree_sums=degree_sums,
        nodes=np.argsort(labels, kind="stable").astype(np.int32),
        starts=np.append(0, np.cumsum(sizes)),
    )


def row_blocks(
    starts: Int[np.ndarray, " starts"],
) -> Iterator[tuple[slice, int, int]]:
    """Iterates over blocks of whole rows of a compressed graph.

    Args:
        starts: Start of each row, and the end: n + 1.

    Returns:
        For each block the slice of its edges, its first row and the row after its last.
    """
    n, first = len(starts) - 1, 0
    while first < n:
        limit = starts[first] + _EDGES_PER_BLOCK
        last = int(np.searchsorted(starts, limit, "right")) - 1
        last = min(max(last, first + 1), n)
        yield slice(int(starts[first]), int(starts[last])), first, last
        first = last
