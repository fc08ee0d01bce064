"""Few vectors for an image: the means of a mixture of its regions."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from diffjax._arguments import (
    check_ids,
    check_vectors,
    count_ids,
    is_concrete,
    max_rows_per_id,
)
from diffjax.types import Scalar

from ._gmm import (
    CovarianceType,
    Mixture,
    check_em_settings,
    check_mixture_settings,
    component_responsibilities,
    difference_rounding,
    fit_masked_mixture,
)
from ._region_pooling import l2_normalize

_IMAGES_AT_ONCE = 16


class ReducedRegions(NamedTuple):
    """Fewer vectors for the same images.

    Attributes:
        vectors: Unit means of the images' mixtures.
        image_ids: Image of every one, from 0 upwards.
    """

    vectors: Float[Array, "g d"]
    image_ids: Int[Array, " g"]


def reduce_regions(
    vectors: Float[Array, "n d"],
    image_ids: Int[Array | np.ndarray, " n"] | None = None,
    *,
    components: int = 5,
    key: PRNGKeyArray,
    covariance: CovarianceType = "diagonal",
    restarts: int = 5,
    steps: int = 10,
    regularization: Scalar = 3e-3,
    num_images: int | None = None,
    max_regions: int | None = None,
) -> ReducedRegions:
    r"""Replaces the regions of each image by the unit means m / |m| of their mixture.

    An image gets at most as many vectors as it has regions that differ, and at least
    one. Where the regions of a component cancel, so that its mean has no direction, the
    first of those that it has most of stands for it.

    Where arrays are traced, shapes can't depend on values: each image has `components`
    rows, those of dropped components all zero. Zero rows have no edges and no scores;
    leave them out before an index is built.

    Args:
        vectors: Region vectors, unit length.
        image_ids: Image of every region, from 0 upwards; None if each is an image.
        components: Most vectors of an image, 5 in the paper. A Python number.
        key: Of the draws. What an image gets depends on its number, not on others.
        covariance: See `refine_mixture`.
        restarts: See `fit_mixture`.
        steps: See `refine_mixture`.
        regularization: See `refine_mixture`.
        num_images: Number of images m; needed where `image_ids` is traced. Images
            beyond the ids have no vectors.
        max_regions: Most regions of any image; needed where `image_ids` is traced.
            Under jit the vectors of an image with more are not numbers.

    Returns:
        Vectors and their images, in the order of the images.

    Raises:
        ValueError: If a setting is outside its range, vectors are not finite or zero,
            ids go back or skip, or a count is missing under jit or too small.

    References:
        Iscen et al., CVPR 2017, section 4.4, https://arxiv.org/abs/1611.05113, which
        names neither covariance, start nor regularisation.
    """
    check_mixture_settings(components, restarts)
    check_em_settings(covariance, steps, regularization)
    check_vectors("vectors", vectors)
    rows = vectors.shape[0]
    ids = np.arange(rows, dtype=np.int32) if image_ids is None else image_ids
    check_ids("image_ids", ids, rows=rows)
    count = count_ids("image_ids", ids, count=num_images, count_name="num_images")
    most = max_rows_per_id("image_ids", ids, most=max_regions, most_name="max_regions")
    means, kept = _reduce_regions(
        vectors,
        jnp.asarray(ids, jnp.int32),
        key,
        regularization,
        components=components,
        covariance=covariance,
        restarts=restarts,
        steps=steps,
        num_images=count,
        max_regions=most,
    )
    images = jnp.repeat(jnp.arange(count, dtype=jnp.int32), components)
    if is_concrete(kept):
        return ReducedRegions(means[kept], images[kept])
    return ReducedRegions(means, images)


_STATIC_ARGUMENTS = (
    "components",
    "covariance",
    "restarts",
    "steps",
    "num_images",
    "max_regions",
)


@functools.partial(jax.jit, static_argnames=_STATIC_ARGUMENTS)
def _reduce_regions(
    vectors,
    image_ids,
    key,
    regularization,
    *,
    components,
    covariance,
    restarts,
    steps,
    num_images,
    max_regions,
):
    """Computes unit means, [m g, d], zero where dropped, and which are kept, [m g]."""
    rows, dimensions = vectors.shape
    if rows == 0 or num_images == 0:
        none = num_images * components
        return jnp.zeros((none, dimensions), vectors.dtype), jnp.zeros(none, jnp.bool_)
    # Up to a whole number of batches: a rest would be compiled once more.
    batch = min(_IMAGES_AT_ONCE, num_images)
    images = jnp.arange(-(-num_images // batch) * batch, dtype=jnp.int32)
    first = jnp.searchsorted(image_ids, images, side="left")
    counts = jnp.searchsorted(image_ids, images, side="right") - first
    slots = jnp.arange(max_regions, dtype=jnp.int32)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(images)
    draw = functools.partial(
        jax.random.uniform, shape=(restarts, components), dtype=vectors.dtype
    )

    @jax.checkpoint  # A gradient keeps nothing but the regions of other batches.
    def reduce(image):
        row, regions, start = image
        is_region = slots < regions
        own: Array = vectors[jnp.minimum(row + slots, rows - 1)]
        own = jnp.where(is_region[:, None], own, jnp.zeros_like(own))
        own = jnp.where(regions > max_regions, jnp.nan, own)
        mixture = fit_masked_mixture(
            own, is_region, start, regularization, covariance=covariance, steps=steps
        )
        kept = ~(mixture.weights == 0)
        return jnp.where(kept[:, None], _unit_means(own, is_region, mixture), 0), kept

    means, kept = jax.lax.map(
        reduce, (first, counts, jax.vmap(draw)(keys)), batch_size=batch
    )
    return (
        means[:num_images].reshape(-1, dimensions),
        kept[:num_images].reshape(-1),
    )


def _unit_means(vectors: Array, is_region: Array, mixture: Mixture) -> Array:
    """Scales means to unit length, or takes a region where there is no direction."""
    member = vectors[component_responsibilities(vectors, is_region, mixture).argmax(0)]
    cancels = (mixture.means**2).sum(-1) <= difference_rounding(vectors) ** 2
    return l2_normalize(jnp.where(cancels[:, None], member, mixture.means))
