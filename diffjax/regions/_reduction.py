"""Reduction of an image's regions to the means of a mixture of them."""

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
    check_mixture_settings,
    component_responsibilities,
    difference_rounding,
    fit_masked_mixture,
)
from ._region_pooling import l2_normalize

_IMAGES_PER_BATCH = 16
_STATIC_ARGUMENTS = (
    "components",
    "covariance",
    "restarts",
    "steps",
    "num_images",
    "max_regions",
)


class ReducedRegions(NamedTuple):
    """Reduced region vectors of the same images.

    Attributes:
        vectors: Unit means of the images' mixtures.
        image_ids: Image of every vector, from 0 upwards.
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

    An image gets at most as many vectors as it has different regions, and at least
    one. Where the regions of a component cancel, so that its mean has no direction, the
    first of the regions of largest responsibility replaces it.

    Where arrays are traced, shapes can't depend on values: each image has `components`
    rows, those of dropped components all zero. Zero rows have no edges and no scores;
    leave them out before an index is built.

    Args:
        vectors: Region vectors, unit length.
        image_ids: Image of every region, from 0 upwards; None if every region is an
            image.
        components: Most vectors of an image, 5 in the paper. A Python number.
        key: Random key of the draws. The draws of an image depend on its number, not
            on other images.
        covariance: See `fit_mixture`.
        restarts: See `fit_mixture`.
        steps: See `fit_mixture`.
        regularization: See `fit_mixture`.
        num_images: Number of images m; needed where `image_ids` is traced. Images
            beyond the ids have no vectors.
        max_regions: Most regions of any image; needed where `image_ids` is traced.
            Under jit the vectors of an image with more regions are NaN.

    Returns:
        Vectors and their images, in the order of the images.

    Raises:
        ValueError: If a setting is outside its range, vectors are not finite or zero,
            ids decrease or skip a number, or a count is missing under jit or too small.

    References:
        Iscen et al., CVPR 2017, section 4.4, https://arxiv.org/abs/1611.05113, which
        names neither covariance, start nor regularisation.
    """
    check_mixture_settings(components, restarts, covariance, steps, regularization)
    check_vectors("vectors", vectors)
    rows = vectors.shape[0]
    ids = np.arange(rows, dtype=np.int32) if image_ids is None else image_ids
    check_ids("image_ids", ids, rows=rows)
    count = count_ids("image_ids", ids, count=num_images, count_name="num_images")
    most_regions = max_rows_per_id(
        "image_ids", ids, limit=max_regions, limit_name="max_regions"
    )
    means, is_kept = _reduce_regions(
        vectors,
        jnp.asarray(ids, jnp.int32),
        key,
        regularization,
        components=components,
        covariance=covariance,
        restarts=restarts,
        steps=steps,
        num_images=count,
        max_regions=most_regions,
    )
    images = jnp.repeat(jnp.arange(count, dtype=jnp.int32), components)
    if is_concrete(is_kept):
        return ReducedRegions(means[is_kept], images[is_kept])
    return ReducedRegions(means, images)


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
    """Computes unit means, [m g, d], zero if dropped, and the mask of used ones."""
    rows, dimensions = vectors.shape
    if rows == 0 or num_images == 0:
        size = num_images * components
        return jnp.zeros((size, dimensions), vectors.dtype), jnp.zeros(size, jnp.bool_)
    # A whole number of batches: a smaller last one would be compiled once more.
    batch = min(_IMAGES_PER_BATCH, num_images)
    images = jnp.arange(-(-num_images // batch) * batch, dtype=jnp.int32)
    first_rows = jnp.searchsorted(image_ids, images, side="left")
    counts = jnp.searchsorted(image_ids, images, side="right") - first_rows
    slots = jnp.arange(max_regions, dtype=jnp.int32)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(images)
    draw = functools.partial(
        jax.random.uniform, shape=(restarts, components), dtype=vectors.dtype
    )

    @jax.checkpoint  # A gradient keeps nothing but the regions of other batches.
    def reduce_image(image):
        first_row, count, starts = image
        is_region = slots < count
        regions: Array = vectors[jnp.minimum(first_row + slots, rows - 1)]
        regions = jnp.where(is_region[:, None], regions, jnp.zeros_like(regions))
        regions = jnp.where(count > max_regions, jnp.nan, regions)
        mixture = fit_masked_mixture(
            regions,
            is_region,
            starts,
            regularization,
            covariance=covariance,
            steps=steps,
        )
        # Not "is above 0": NaN is no reason to drop a component.
        is_kept = ~(mixture.weights == 0)
        means = _unit_means(regions, is_region, mixture)
        return jnp.where(is_kept[:, None], means, 0), is_kept

    means, is_kept = jax.lax.map(
        reduce_image, (first_rows, counts, jax.vmap(draw)(keys)), batch_size=batch
    )
    return (
        means[:num_images].reshape(-1, dimensions),
        is_kept[:num_images].reshape(-1),
    )


def _unit_means(vectors: Array, is_region: Array, mixture: Mixture) -> Array:
    """Unit means of the components; a region where the mean has no direction."""
    responsibilities = component_responsibilities(vectors, is_region, mixture)
    members = vectors[responsibilities.argmax(0)]
    cancels = (mixture.means**2).sum(-1) <= difference_rounding(vectors) ** 2
    return l2_normalize(jnp.where(cancels[:, None], members, mixture.means))
