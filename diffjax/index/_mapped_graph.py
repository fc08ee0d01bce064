"""From neighbour lists on the disk to the normalised graph there, block by block."""

import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from diffjax.graph import mutual_rows
from diffjax.types import check_countable

from ._mapped_files import RowsFile, map_array, write_array
from ._mapped_rows import Progress

# Rows whose lists, and the lists of all they name, are compared at a time.
EDGE_ROWS = 4096
# Edges that are looked at at a time.
_EDGES = 2**22


class GraphFiles(NamedTuple):
    """Where the parts of a graph lie.

    Attributes:
        columns: Column of each stored entry.
        edges: Its weight in S.
        bounds: Where each row starts, and the end.
        degrees: Row sums of A.
        labels: Component of each node.
        totals: Sum of the degrees of each component.
        members: The nodes of one component after the other.
        firsts: Where each component starts there, and the end.
    """

    columns: pathlib.Path
    edges: pathlib.Path
    bounds: pathlib.Path
    degrees: pathlib.Path
    labels: pathlib.Path
    totals: pathlib.Path
    members: pathlib.Path
    firsts: pathlib.Path


def build_graph(
    indices: Int[np.ndarray, "n k"],
    similarities: Float[np.ndarray, "n k"],
    files: GraphFiles,
    *,
    gamma: float,
    bias: float,
    progress: Progress,
) -> None:
    """Writes S, its degrees and its components; see `affinity` and `normalize`.

    Args:
        indices: Lists of all vectors, mapped.
        similarities: Their inner products, mapped.
        files: Where to.
        gamma: Exponent of the kernel.
        bias: What it takes off first.
        progress: Progress.

    Raises:
        ValueError: If there are more edges than JAX is set to count, as soon as there
            are.
    """
    n = len(indices)
    bounds, degrees = np.zeros(n + 1, np.int64), np.zeros(n, np.float32)
    affinity = files.edges.with_name(files.edges.name + ".affinity")
    with (
        RowsFile(files.columns, np.int32) as columns,
        RowsFile(affinity, np.float32) as weights,
    ):
        for start in range(0, n, EDGE_ROWS):
            stop = min(start + EDGE_ROWS, n)
            found = mutual_rows(indices, similarities, start, stop)
            kept = found.similarities > np.float32(bias)
            raised = (found.similarities[kept] - np.float32(bias)) ** np.float32(gamma)
            rows = np.repeat(np.arange(stop - start), found.counts)[kept]
            counts = np.bincount(rows, minlength=stop - start)
            sums = np.bincount(rows, raised, minlength=stop - start)
            columns.append(found.columns[kept])
            weights.append(raised)
            bounds[start + 1 : stop + 1] = bounds[start] + np.cumsum(counts)
            check_countable(int(bounds[stop]))
            degrees[start:stop] = sums
            progress("mutual edges", stop, n)
    _normalise(files, map_array(affinity), bounds, degrees)
    affinity.unlink()
    labels, totals = components(map_array(files.columns), bounds, degrees)
    write_array(files.labels, labels)
    write_array(files.totals, totals)
    members = np.argsort(labels, kind="stable").astype(np.int32)
    firsts = np.append(0, np.cumsum(np.bincount(labels, minlength=len(totals))))
    write_array(files.members, members)
    write_array(files.firsts, firsts)
    write_array(files.degrees, degrees)
    narrow = bounds[-1] <= np.iinfo(np.int32).max
    # The last one: where it is, all are.
    write_array(files.bounds, bounds.astype(np.int32) if narrow else bounds)


def _normalise(files: GraphFiles, affinity, bounds, degrees) -> None:
    scale = np.zeros_like(degrees)
    np.divide(1, np.sqrt(degrees), out=scale, where=degrees > 0)
    columns = map_array(files.columns)
    with RowsFile(files.edges, np.float32) as edges:
        for part, first, last in _row_blocks(bounds):
            rows = np.repeat(scale[first:last], np.diff(bounds[first : last + 1]))
            # The two scales first, so that both directions of an edge round alike.
            edges.append(affinity[part] * (rows * scale[columns[part]]))


def components(
    columns: Int[np.ndarray, " e"],
    bounds: Int[np.ndarray, " bounds"],
    degrees: Float[np.ndarray, " n"],
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " c"]]:
    """Finds the connected components of a symmetric graph.

    Every node takes the lowest name among its neighbours', the node of that name tells
    its own, and names are shortened to the ends of their chains, until nothing changes.

    Args:
        columns: Column of each entry.
        bounds: Where each row starts, and the end.
        degrees: Row sums.

    Returns:
        The component of every node, numbered from 0, and the sum of the degrees in
        each.
    """
    n = len(degrees)
    parent = np.arange(n, dtype=np.int32)
    changed = True
    while changed:
        before = parent.copy()
        for part, first, last in _row_blocks(bounds):
            counts = np.diff(bounds[first : last + 1])
            filled = np.flatnonzero(counts)
            if not filled.size:
                continue
            starts = bounds[first:last][filled] - bounds[first]
            lowest = np.minimum.reduceat(parent[columns[part]], starts)
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
    return labels.astype(np.int32), np.bincount(labels, degrees)


def _row_blocks(bounds):
    """Slices of edges that are whole rows, with their first row and the one after."""
    n, first = len(bounds) - 1, 0
    while first < n:
        last = int(np.searchsorted(bounds, bounds[first] + _EDGES, "right")) - 1
        last = min(max(last, first + 1), n)
        yield slice(int(bounds[first]), int(bounds[last])), first, last
        first = last
