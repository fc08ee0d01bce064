"""One global vector per image from the vectors of its regions."""

import functools

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from ._pooling import l2_normalize


def global_descriptors(
    vectors: Float[Array, "n d"],
    image_ids: Int[Array | np.ndarray, " n"],
    *,
    num_images: int | None = None,
) -> Float[Array, "m d"]:
    """Sums the region vectors of every image and scales the sums to unit length.

    Given whitened vectors this is R-MAC as its authors have it: regions are whitened,
    then summed. (The other reading, to whiten the sum, is not built.) The whole image
    is one more region of the sum.

    Args:
        vectors: Region vectors, whitened, of unit length.
        image_ids: Image of each vector: from 0, never falling.
        num_images: The number m of images; a Python number, needed under `jit`. None is
            the last id + 1.

    Returns:
        One vector of unit length per image; zeros for an image without vectors.

    Raises:
        ValueError: If `image_ids` starts below 0, falls somewhere, or holds
            `num_images` or more (looked at where the values are known), or if
            `num_images` is missing under `jit`.

    References:
        Tolias, Sicre and Jegou, Particular object retrieval with integral max-pooling
        of CNN activations, ICLR 2016, https://arxiv.org/abs/1511.05879.
    """
    if isinstance(image_ids, Tracer):
        if num_images is None:
            raise ValueError("num_images must be given under jit, got None.")
    else:
        num_images = _checked_number(np.asarray(image_ids), num_images)
    return _sum_images(vectors, image_ids, num_images=num_images)


def _checked_number(ids: Int[np.ndarray, " n"], num_images: int | None) -> int:
    if ids.size and ids[0] < 0:
        raise ValueError(f"image_ids must be at least 0, got {ids[0]}.")
    falls = np.flatnonzero(ids[1:] < ids[:-1])
    if falls.size:
        at = falls[0] + 1
        raise ValueError(
            f"image_ids must never fall, got {ids[at]} after {ids[at - 1]} at {at}."
        )
    needed = int(ids[-1]) + 1 if ids.size else 0
    if num_images is None:
        return needed
    if num_images < needed:
        raise ValueError(
            f"num_images must be above the last of image_ids, {needed - 1}, got "
            f"{num_images}."
        )
    return num_images


@functools.partial(jax.jit, static_argnames="num_images")
def _sum_images(
    vectors: Float[Array, "n d"],
    image_ids: Int[Array | np.ndarray, " n"],
    *,
    num_images: int,
) -> Float[Array, "m d"]:
    sums = jax.ops.segment_sum(
        vectors, image_ids, num_segments=num_images, indices_are_sorted=True
    )
    return l2_normalize(sums)
