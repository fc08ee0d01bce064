"""From padded neighbour lists to compressed rows."""

import jax.numpy as jnp
import numpy as np

from diffjax.types import Graph, row_starts

from ._check import check_graph, remember_good


def compress(graph: Graph) -> Graph:
    """Drops the empty slots of a graph and sorts each row by column.

    Done once per index, on the host: with k 200 about 75 of 200 slots hold an edge.
    Node numbers stay as they are.

    Args:
        graph: A graph in either form, concrete.

    Returns:
        The same graph in the compressed form. Edges of weight 0 are dropped.

    Raises:
        ValueError: If weights are negative, not finite or not symmetric, or there are
            2^31 edges or more and jax_enable_x64 is off.
    """
    check_graph("graph", graph)
    matrix = graph.to_scipy()
    matrix.sort_indices()
    return remember_good(
        Graph(
            indices=jnp.asarray(matrix.indices.astype(np.int32)),
            weights=jnp.asarray(matrix.data),
            starts=row_starts(matrix.indptr),
            degrees=graph.degrees,
        )
    )
