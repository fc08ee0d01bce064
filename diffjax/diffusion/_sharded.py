"""The product S X with the rows of S shared out among devices."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from diffjax.types import Graph

from ._operator import Product, multiply_rows


def sharded_product(mesh: Mesh) -> Product:
    """Makes the product of a padded graph whose rows are spread over a mesh.

    Each device multiplies its rows by all of X, which it holds a copy of, and gets a
    copy of the rows of all. Where n is a multiple of the devices, a graph that is
    spread already stays so; else it is filled up, for which each holds all of it once.

    Args:
        mesh: The devices; all of its axes share the rows.

    Returns:
        The product, with the derivatives of the one on a single device.
    """
    rows = PartitionSpec(mesh.axis_names)
    in_parts = NamedSharding(mesh, rows)
    everywhere = NamedSharding(mesh, PartitionSpec())
    parts = jax.shard_map(
        multiply_rows,
        mesh=mesh,
        in_specs=(rows, rows, PartitionSpec()),
        out_specs=rows,
    )

    def product(graph: Graph, x: Float[Array, "n q"]) -> Float[Array, "n q"]:
        if graph.starts is not None:
            raise ValueError(
                "graph must be in the padded form to be spread over devices, got the "
                "compressed one: truncate(graph, jnp.arange(n)) pads it."
            )
        n = graph.num_nodes
        missing = ((0, -n % mesh.size), (0, 0))
        # Where things are is said at every turn, or the compiler may spread a gradient
        # of n rows over as many devices as divide n, which has no name outside.
        place = jax.lax.with_sharding_constraint
        indices, weights = graph.indices, graph.weights
        if n % mesh.size:
            weights = jnp.pad(place(weights, everywhere), missing)
            indices = jnp.pad(indices, missing, constant_values=-1)
        product = parts(
            place(indices, in_parts), place(weights, in_parts), place(x, everywhere)
        )
        return place(product[:n], everywhere)

    return product
