"""The product S X with the rows of S shared out among devices."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from diffjax.types import Graph

from ._operator import Product, multiply_rows


def sharded_product(mesh: Mesh) -> Product:
    """Makes the product of a padded graph whose rows are spread over a mesh.

    Each device multiplies its rows by all of X, which it holds a copy of; together
    they have the rows of the product. n need not be a multiple of the devices.

    Args:
        mesh: The devices; all of its axes share the rows.

    Returns:
        The product, with the derivatives of the one on a single device.
    """
    rows = PartitionSpec(mesh.axis_names)
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
        indices = jnp.pad(graph.indices, missing, constant_values=-1)
        return parts(indices, jnp.pad(graph.weights, missing), x)[:n]

    return product
