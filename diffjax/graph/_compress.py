"""From padded neighbour lists to compressed rows."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from diffjax.native import has_list_kernel, list_rows
from diffjax.types import Graph, row_starts

from ._check import check_graph, remember_good
from ._mutual_edges import starts_of


def compress(graph: Graph) -> Graph:
    """Drops the empty slots of a graph and sorts each row by column.

    Done once per index, on the host: with k 200 about 75 of 200 slots hold an edge.
    Node numbers stay as they are; see `reorder` for an order that suits the memory.

    Args:
        graph: A graph in either form, concrete.

    Returns:
        The same graph in the compressed form. Edges of weight 0 are dropped.

    Raises:
        ValueError: If weights are negative, not finite or not symmetric, or there are
            2^31 edges or more and jax_enable_x64 is off.
    """
    check_graph("graph", graph)
    if (
        graph.starts is None
        and jax.default_backend() == "cpu"
        and has_list_kernel(graph.indices, graph.weights)
    ):
        return remember_good(_compress_lists(graph))
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


def _compress_lists(graph: Graph) -> Graph:
    ends = starts_of(_count(graph))
    starts = row_starts(ends)
    columns, weights = list_rows(
        graph.indices, graph.weights, starts, count=int(ends[-1])
    )
    return Graph(columns, weights, starts, graph.degrees)


@jax.jit
def _count(graph: Graph) -> Int[Array, " n"]:
    return jnp.sum((graph.indices >= 0) & (graph.weights != 0), axis=1, dtype=jnp.int32)
