"""The product S X with the rows of S and of X shared out among devices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from diffjax._spread import by_rows, check_padded, place
from diffjax.types import Graph, Solution

from ._operator import Product, multiply_rows


def sharded_product(mesh: Mesh) -> Product:
    """Makes the product of a padded graph whose rows are spread over a mesh.

    Each device multiplies its rows by all of X, which it gathers from the others: n q
    numbers, the only ones that travel. What it gives is its own rows.

    Args:
        mesh: The devices; all of its axes share the rows, as many for each.

    Returns:
        The product, with the derivatives of the one on a single device.
    """
    rows = by_rows(mesh)

    def part(
        indices: Int[Array, "m k"], weights: Float[Array, "m k"], x: Float[Array, "m q"]
    ) -> Float[Array, "m q"]:
        everywhere = jax.lax.all_gather(x, mesh.axis_names, tiled=True)
        return multiply_rows(indices, weights, everywhere)

    parts = jax.shard_map(part, mesh=mesh, in_specs=rows, out_specs=rows)

    def product(graph: Graph, x: Float[Array, "n q"]) -> Float[Array, "n q"]:
        check_padded("graph", graph.starts)
        # Where things are is said at every turn: what a solve carries along must
        # not be spread in some other way, or gathered.
        return parts(graph.indices, graph.weights, place(x, mesh, rows))

    return product


class Filled(NamedTuple):
    """What a solve on a mesh takes, with as many rows for each device.

    Attributes:
        graph: The graph, with nodes without edges added.
        y: Right-hand sides, 0 there, as are the others.
        start: Scores to start from, if any.
        vectors: Eigenvectors, if any.
    """

    graph: Graph
    y: Float[Array, "p q"]
    start: Float[Array, "p q"] | None
    vectors: Float[Array, "p m"] | None


def fill_up(
    graph: Graph,
    y: Float[Array, "n q"],
    start: Float[Array, "n q"] | None,
    vectors: Float[Array, "n m"] | None,
    mesh: Mesh,
) -> Filled:
    """Adds nodes without edges until all devices have as many rows, and spreads them.

    Where n is a multiple of the devices nothing is added, and what is spread already
    stays where it is; else each device holds all of it once.

    Args:
        graph: A graph in the padded form.
        y: Right-hand sides.
        start: Scores to start from, if any.
        vectors: Eigenvectors, if any.
        mesh: The devices.

    Returns:
        All of it, row-sharded.
    """
    check_padded("graph", graph.starts)
    rows, missing = by_rows(mesh), -graph.num_nodes % mesh.size

    def fill(array: Array, value: int) -> Array:
        if missing:
            # The compiler might spread a gradient of n rows over as many devices as
            # divide n, which has no name outside.
            array = place(array, mesh, PartitionSpec())
            width = ((0, missing), *[(0, 0)] * (array.ndim - 1))
            array = jnp.pad(array, width, constant_values=value)
        return place(array, mesh, rows)

    degrees = None if graph.degrees is None else fill(graph.degrees, 0)
    filled = Graph(fill(graph.indices, -1), fill(graph.weights, 0), degrees=degrees)
    others = jax.tree.map(lambda array: fill(array, 0), (y, start, vectors))
    return Filled(filled, *others)


def cut_back(found: Solution, n: int, mesh: Mesh) -> Solution:
    """Takes the rows away again that `fill_up` added.

    Args:
        found: A solution of the filled system.
        n: Rows of the one that was given.
        mesh: The devices.

    Returns:
        The solution, row-sharded where n is a multiple of the devices, else with a copy
        on each.
    """
    whole = found.value.shape[0] == n
    spec = by_rows(mesh) if whole else PartitionSpec()
    return found._replace(value=place(found.value[:n], mesh, spec))
