"""The k of some vectors that are nearest to each of others, block by block."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from diffjax.types import Neighbors


def nearest(
    rows: Float[Array, "r d"],
    vectors: Float[Array, "n d"],
    real: Bool[Array, " n"],
    *,
    k: int,
    block: int,
) -> Neighbors:
    """Finds the k of `vectors` that are nearest to each of `rows`.

    Args:
        rows: Whose neighbours are looked for.
        vectors: Among what.
        real: Which of them count.
        k: How many, 1 to n.
        block: Rows compared at a time.

    Returns:
        Neighbours, ties by lower index; those that do not count have similarity -inf.
    """

    def find(row):
        products = jnp.matmul(vectors, row, precision=jax.lax.Precision.HIGHEST)
        return jax.lax.top_k(jnp.where(real, products, -jnp.inf), k)

    batch = min(block, max(rows.shape[0], 1))
    similarities, indices = jax.lax.map(find, rows, batch_size=batch)
    return Neighbors(indices, similarities)
