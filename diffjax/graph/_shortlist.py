"""Short lists: the images, and with them the nodes, that a diffusion is limited to."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_ids, count_most


class Shortlist(NamedTuple):
    """The best images of every query and their regions, in one shape for all queries.

    Attributes:
        images: Image numbers, best first.
        nodes: Their regions, `max_regions` places for each image, one image after the
            other; -1 where an image has fewer.
    """

    images: Int[Array, "q l"]
    nodes: Int[Array, "q t"]


def shortlist(
    scores: Float[Array, "m q"],
    image_ids: Int[Array | np.ndarray, " n"],
    *,
    size: int,
    max_regions: int | None = None,
) -> Shortlist:
    """Lists the images of highest score, ties by lower index, and their regions.

    Args:
        scores: Scores of all images by a first search, such as by global descriptors.
        image_ids: Image of every region, from 0 upwards.
        size: Images per query, 1 to m. A Python number.
        max_regions: Most regions of any image; needed where `image_ids` is traced. A
            Python number. Regions past it are left out.

    Returns:
        Images and nodes of every query; the nodes of one are what `truncate` and
        `query_vectors` take.

    Raises:
        ValueError: If `size` is outside 1..m, ids go back or skip, or `max_regions` is
            missing under jit or too small.

    References:
        Iscen et al., CVPR 2017, section 4.4, https://arxiv.org/abs/1611.05113.
    """
    m = scores.shape[0]
    if not 1 <= size <= m:
        raise ValueError(f"size must be in 1..{m} (m), got {size}.")
    check_ids("image_ids", image_ids, rows=image_ids.shape[0])
    most = count_most("image_ids", image_ids, most=max_regions, most_name="max_regions")
    ids = jnp.asarray(image_ids, jnp.int32)
    return _shortlist(scores, ids, size=size, max_regions=most)


@functools.partial(jax.jit, static_argnames=("size", "max_regions"))
def _shortlist(scores, image_ids, *, size, max_regions):
    images = jax.lax.top_k(scores.T, size)[1].astype(jnp.int32)
    first = jnp.searchsorted(image_ids, images, side="left")
    last = jnp.searchsorted(image_ids, images, side="right")
    places = first[..., None] + jnp.arange(max_regions, dtype=first.dtype)[None, None]
    nodes = jnp.where(places < last[..., None], places, jnp.full_like(places, -1))
    return Shortlist(images, nodes.reshape(images.shape[0], -1))
