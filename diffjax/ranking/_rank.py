"""Ranking of images by score, also of images outside a short list."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@jax.jit
def rank(scores: Float[Array, "m q"]) -> Int[Array, "m q"]:
    """Ranks images by descending score, ties by lower index.

    Args:
        scores: Image scores, one column per query. NaN ranks last.

    Returns:
        Per query (column) the image numbers, best first.

    Example:
        >>> import jax.numpy as jnp
        >>> rank(jnp.array([[0.1], [0.9], [0.9]]))[:, 0].tolist()
        [1, 2, 0]
    """
    return jnp.argsort(-scores, axis=0, stable=True)


@jax.jit
def fill_outside_by_similarity(
    scores: Float[Array, "l q"],
    images: Int[Array, "q l"],
    similarities: Float[Array, "m q"],
) -> Float[Array, "m q"]:
    """Scores images outside a short list by similarity, below all of the list.

    The other images keep the order of a first search: with b the largest similarity of
    all images and s the smallest score of the list, an image of similarity g gets
    s - 1 - (b - g).

    Args:
        scores: Scores of the short-listed images, in the order of the list.
        images: Numbers of the short-listed images, see `graph.shortlist`.
        similarities: Similarities of all images by the first search.

    Returns:
        Scores of all images, for `rank`.

    References:
        Meant for users. The release of Iscen et al., CVPR 2017, gives every other
        image the score 0 instead: `fill_outside_with_zeros`.
    """
    lowest = jnp.min(scores, axis=0, keepdims=True)
    best = jnp.max(similarities, axis=0, keepdims=True)
    return _insert_shortlist_scores(lowest - 1 - (best - similarities), scores, images)


@jax.jit
def fill_outside_with_zeros(
    scores: Float[Array, "l q"],
    images: Int[Array, "q l"],
    similarities: Float[Array, "m q"],
) -> Float[Array, "m q"]:
    """Scores images outside a short list with zeros, as the authors' release does.

    Args:
        scores: Scores of the short-listed images, in the order of the list.
        images: Numbers of the short-listed images, see `graph.shortlist`.
        similarities: Similarities of all images by the first search; only their shape
            is used.

    Returns:
        Scores of all images, for `rank`; those outside the list tie, in database order.
    """
    return _insert_shortlist_scores(jnp.zeros_like(similarities), scores, images)


def _insert_shortlist_scores(all_scores, scores, images):
    columns = jnp.arange(images.shape[0])[:, None]
    return all_scores.at[images, columns].set(scores.T)
