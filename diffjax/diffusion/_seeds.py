"""Right-hand sides that are given by the nodes where they are not 0."""

import numpy as np
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_not_halved, is_concrete


def check_seeds(
    nodes: Int[Array | np.ndarray, "q s"],
    values: Float[Array | np.ndarray, "q s"],
    *,
    num_nodes: int,
) -> None:
    """Refuses what is not a node and a value for each place of each query.

    Args:
        nodes: Nodes, -1 in empty places.
        values: What right-hand sides are there.
        num_nodes: Of the graph.

    Raises:
        ValueError: With what was found.
    """
    check_not_halved("values", values)
    if nodes.ndim != 2 or nodes.shape != values.shape:
        raise ValueError(
            "nodes and values must be [q, s], one row per query, got "
            f"{list(nodes.shape)} and {list(values.shape)}."
        )
    if is_concrete(nodes) and nodes.size:
        # On the host: inside compiled code even a look at what is known is traced.
        host = np.asarray(nodes)
        low, high = int(host.min()), int(host.max())
        if not -1 <= low <= high < num_nodes:
            raise ValueError(
                f"nodes must be in -1..{num_nodes - 1}, got {low}..{high}."
            )
