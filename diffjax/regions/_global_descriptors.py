"""Global descriptors: one vector per image, from its regions or from its scales."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_in_range
from diffjax.types import Scalar, Whitening

from ._region_pooling import l2_normalize, pool_regions
from ._whitening import whiten


def global_descriptors(
    vectors: Float[Array, "n d"],
    image_ids: Int[Array | np.ndarray, " n"],
    *,
    num_images: int | None = None,
    whitening: Whitening | None = None,
) -> Float[Array, "m p"]:
    """Sums the region vectors of every image and scales the sums to unit length.

    A whitened global descriptor can be made in two ways. Of whitened vectors this
    function computes R-MAC as its authors do: regions are whitened, then summed. Of
    unwhitened vectors and a `whitening` it whitens the sums instead. The whole image is
    one more region of the sum.

    Args:
        vectors: Region vectors of unit length; unwhitened where `whitening` is set.
        image_ids: Image of each vector: from 0, never decreasing.
        num_images: The number m of images; a Python number, needed under `jit`. None is
            the last id + 1.
        whitening: Applied to the sums, scaled to unit length; fitted on such sums. None
            does not whiten.

    Returns:
        One vector of unit length per image; zeros for an image without vectors.

    Raises:
        ValueError: If `image_ids` starts below 0, decreases, or holds `num_images` or
            more (checked where the values are known), or if `num_images` is missing
            under `jit`.

    References:
        Tolias, Sicre and Jegou, Particular object retrieval with integral max-pooling
        of CNN activations, ICLR 2016, https://arxiv.org/abs/1511.05879.
    """
    if isinstance(image_ids, Tracer):
        if num_images is None:
            raise ValueError("num_images must be given under jit, got None.")
    else:
        num_images = _checked_image_count(np.asarray(image_ids), num_images)
    return _sum_per_image(vectors, image_ids, whitening, num_images=num_images)


@jax.jit
def rmac(
    maps: Float[Array, "b h w c"], boxes: Int[Array, "b r 4"]
) -> Float[Array, "b c"]:
    """Computes R-MAC without whitening: the sum of the unit maxima of all regions.

    Args:
        maps: Feature maps.
        boxes: (y0, x0, y1, x1) in cells as `region_boxes` gives them, the whole map
            among them; an empty slot adds nothing.

    Returns:
        One vector of unit length per map.

    References:
        Tolias, Sicre and Jegou, ICLR 2016, https://arxiv.org/abs/1511.05879. Every
        region counts once, also the whole of a square map, which programs derived from
        the authors' count twice: as the map, and as scale 1.
    """
    return l2_normalize(l2_normalize(pool_regions(maps, boxes)).sum(1))


def combine_scales(
    vectors: Float[Array, "s *n d"], *, p: Scalar = 1.0
) -> Float[Array, "*n d"]:
    r"""Combines vectors of one picture at several scales: (mean_s v_s^p)^(1/p).

    The vectors are scaled to unit length before, and the result after.

    Args:
        vectors: One vector per scale along the first axis; without negative entries
            where p is not 1, else the result may be NaN.
        p: Power, at least 1; may be traced and differentiated. The authors use the
            power of `gem` for vectors of `gem`, and 1 for whitened and all others.

    Returns:
        Vectors of unit length, or zeros.

    Raises:
        ValueError: If there is no scale, or `p` is below 1.

    References:
        Radenovic, Tolias and Chum, Fine-tuning CNN image retrieval with no human
        annotation, TPAMI 2018, https://arxiv.org/abs/1711.02512; the choice of p is
        that of the authors' program.
    """
    if len(vectors) == 0:
        raise ValueError("vectors must be of at least one scale, got none.")
    check_in_range("p", p, low=1, high=np.inf, closed_low=True)
    return _combine_scales(vectors, p)


@jax.jit
def _combine_scales(vectors: Float[Array, "s *n d"], p: Scalar) -> Float[Array, "*n d"]:
    vectors = l2_normalize(vectors)
    power = jnp.asarray(p, vectors.dtype)
    # The scale of the entries is divided out before the power, which would underflow;
    # no gradient needs to pass through it.
    scale = jax.lax.stop_gradient(jnp.abs(vectors).max(0))
    scaled = vectors / jnp.where(scale == 0, 1, scale)[None]
    mean = (scaled**power).mean(0)
    is_steep = (mean == 0) & (power != 1)  # The derivative of the root is set to 0.
    root = jnp.where(is_steep, 0, jnp.where(is_steep, 1, mean) ** (1 / power))
    return l2_normalize(scale * root)


def _checked_image_count(ids: Int[np.ndarray, " n"], num_images: int | None) -> int:
    if ids.size and ids[0] < 0:
        raise ValueError(f"image_ids must be at least 0, got {ids[0]}.")
    decreases = np.flatnonzero(ids[1:] < ids[:-1])
    if decreases.size:
        row = decreases[0] + 1
        raise ValueError(
            f"image_ids must never decrease, got {ids[row]} after {ids[row - 1]} in "
            f"row {row}."
        )
    min_images = int(ids[-1]) + 1 if ids.size else 0
    if num_images is None:
        return min_images
    if num_images < min_images:
        raise ValueError(
            f"num_images must be above the last of image_ids, {min_images - 1}, got "
            f"{num_images}."
        )
    return num_images


@functools.partial(jax.jit, static_argnames="num_images")
def _sum_per_image(
    vectors: Float[Array, "n d"],
    image_ids: Int[Array | np.ndarray, " n"],
    whitening: Whitening | None,
    *,
    num_images: int,
) -> Float[Array, "m p"]:
    sums = l2_normalize(
        jax.ops.segment_sum(
            vectors, image_ids, num_segments=num_images, indices_are_sorted=True
        )
    )
    if whitening is None:
        return sums
    # An empty sum has no direction; after subtraction of the mean it would have one.
    has_direction = jnp.any(sums != 0, axis=1, keepdims=True)
    whitened: Float[Array, "m p"] = whiten(sums, whitening)
    return jnp.where(has_direction, whitened, 0)
