"""Scores of all images where only a short list of them was diffused."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@jax.jit
def scatter_shortlist(
    scores: Float[Array, "l q"],
    images: Int[Array, "q l"],
    rest: Float[Array, "m q"],
) -> Float[Array, "m q"]:
    """Puts the scores of short-listed images among those of all others.

    The others come after the whole list, in the order of a first search: with b the
    best of their similarities and s the least score of the list, one of similarity g
    gets s - 1 - (b - g).

    Args:
        scores: Scores of the short-listed images, in the order of the list.
        images: Which images those are, see `graph.shortlist`.
        rest: Similarities of all images by the first search.

    Returns:
        Scores of all images, for `rank`.

    References:
        A tail for users. The release of Iscen et al., CVPR 2017, gives every other
        image the score 0 instead: `pad_shortlist`.
    """
    least = jnp.min(scores, axis=0, keepdims=True)
    best = jnp.max(rest, axis=0, keepdims=True)
    return _place(least - 1 - (best - rest), scores, images)


@jax.jit
def pad_shortlist(
    scores: Float[Array, "l q"],
    images: Int[Array, "q l"],
    rest: Float[Array, "m q"],
) -> Float[Array, "m q"]:
    """Puts the scores of short-listed images among zeros, as the authors' release does.

    Args:
        scores: Scores of the short-listed images, in the order of the list.
        images: Which images those are, see `graph.shortlist`.
        rest: Similarities of all images by the first search; only their shape is used.

    Returns:
        Scores of all images, for `rank`; those outside the list tie, in database order.
    """
    return _place(jnp.zeros_like(rest), scores, images)


def _place(everywhere, scores, images):
    columns = jnp.arange(images.shape[0])[:, None]
    return everywhere.at[images, columns].set(scores.T)
