"""Order of images by score."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@jax.jit
def rank(scores: Float[Array, "m q"]) -> Int[Array, "m q"]:
    """Orders images by descending score, ties by lower index.

    Args:
        scores: Image scores, one column per query. NaN comes last.

    Returns:
        Per query (column) the image numbers, best first.

    Example:
        >>> import jax.numpy as jnp
        >>> rank(jnp.array([[0.1], [0.9], [0.9]]))[:, 0].tolist()
        [1, 2, 0]
    """
    return jnp.argsort(-scores, axis=0, stable=True)
