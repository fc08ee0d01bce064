"""A part of a graph: some of its nodes and the edges between them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_not_halved, is_concrete
from diffjax._once import once_per_array
from diffjax.types import Graph

from ._check import check_graph, remember_good


def truncate(
    graph: Graph, nodes: Int[Array | np.ndarray, " t"], *, max_degree: int | None = None
) -> Graph:
    """Keeps the rows and columns of some nodes.

    Of an affinity A this is the early cut: `normalize` it afterwards, as the paper
    does. Of a normalised S it is the late cut of offline diffusion, whose rows keep the
    weight that leads out of them as loss. `vmap` over lists of nodes gives a batch of
    small graphs of one shape.

    Args:
        graph: A graph in either form.
        nodes: Which nodes, each at most once, in the order that they shall have; -1 is
            padding and becomes a node without edges.
        max_degree: Most entries of any row of a compressed graph, a Python number;
            needed where the graph is traced. Entries past it are lost.

    Returns:
        The graph on t nodes in the padded form, as wide as `max_degree` or the lists.

    Raises:
        ValueError: If a node is not in the graph or is named twice, the graph is none,
            or `max_degree` is missing under jit or too small.

    References:
        Iscen et al., CVPR 2017, section 4.4, https://arxiv.org/abs/1611.05113 (early);
        Yang et al., AAAI 2019, https://arxiv.org/abs/1811.10907 (late).
    """
    check_not_halved("graph", graph.weights)
    check_graph("graph", graph)
    if is_concrete(nodes):
        _check_nodes(np.asarray(nodes), graph.num_nodes)
    width = row_width(graph, max_degree)
    found = _truncate(graph, jnp.asarray(nodes, graph.indices.dtype), width=width)
    return remember_good(found)


def _check_nodes(nodes: np.ndarray, n: int) -> None:
    if nodes.size and not -1 <= nodes.min() <= nodes.max() < n:
        raise ValueError(
            f"nodes must be in -1..{n - 1}, got {nodes.min()}..{nodes.max()}."
        )
    different, counts = np.unique(nodes[nodes >= 0], return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"nodes must name each node once, got {different[counts > 1][0]} "
            f"{counts.max()} times."
        )


def row_width(graph: Graph, max_degree: int | None) -> int:
    """The most entries of any row: the slots of a padded graph, else `max_degree`.

    Args:
        graph: A graph in either form.
        max_degree: What the caller knows of a compressed graph, if anything.

    Returns:
        A Python number.

    Raises:
        ValueError: If the graph is traced and `max_degree` is missing, or too small.
    """
    if graph.starts is None:
        return graph.indices.shape[1]
    if not is_concrete(graph.starts):
        if max_degree is None:
            raise ValueError(
                "max_degree must be given under jit, where the graph has no values."
            )
        return max_degree
    most = _most_entries(graph.starts)
    if max_degree is not None and max_degree < most:
        raise ValueError(f"max_degree must be at least {most}, got {max_degree}.")
    return most if max_degree is None else max_degree


@once_per_array
def _most_entries(starts: Int[Array, " starts"]) -> int:
    return int(np.diff(np.asarray(starts)).max(initial=0))


@functools.partial(jax.jit, static_argnames="width")
def _truncate(graph: Graph, nodes: Int[Array, " t"], *, width: int) -> Graph:
    here = nodes >= 0
    row = jnp.maximum(nodes, 0)
    columns, weights = padded_rows(graph, row, width=width)
    # Where each node went; padding goes nowhere.
    n, t = graph.num_nodes, nodes.shape[0]
    position = jnp.full(n, -1, nodes.dtype)
    position = position.at[jnp.where(here, nodes, n)].set(
        jnp.arange(t, dtype=nodes.dtype), mode="drop"
    )
    kept = (columns >= 0) & here[:, None]
    moved = jnp.where(kept, position[jnp.maximum(columns, 0)], -1)
    degrees = None
    if graph.degrees is not None:
        own = graph.degrees[row]
        degrees = jnp.where(here, own, jnp.zeros_like(own))
    return Graph(
        indices=moved,
        weights=jnp.where(moved >= 0, weights, jnp.zeros_like(weights)),
        degrees=degrees,
    )


def padded_rows(
    graph: Graph, nodes: Int[Array, " t"], *, width: int
) -> tuple[Int[Array, "t w"], Float[Array, "t w"]]:
    """Rows of a graph in either form, filled up with empty slots.

    Args:
        graph: The graph.
        nodes: Whose rows.
        width: Most entries of any row of a compressed graph; see `row_width`.

    Returns:
        Columns, -1 in empty slots, and weights, which say nothing there.
    """
    if graph.starts is None:
        return graph.indices[nodes], graph.weights[nodes]
    starts = graph.starts
    if not graph.indices.size:
        # There is nothing to gather from.
        return (
            jnp.full((nodes.shape[0], width), -1, graph.indices.dtype),
            jnp.zeros((nodes.shape[0], width), graph.weights.dtype),
        )
    places = starts[nodes][:, None] + jnp.arange(width, dtype=starts.dtype)[None, :]
    filled = places < starts[nodes + 1][:, None]
    places = jnp.where(filled, places, 0)
    columns = graph.indices.at[places].get(mode="fill", fill_value=-1)
    weights = graph.weights.at[places].get(mode="fill", fill_value=0)
    return jnp.where(filled, columns, -1), weights
