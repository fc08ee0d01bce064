"""Pooling of region scores into image scores: sum and generalised max pooling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from diffjax._arguments import (
    check_ids,
    check_in_range,
    check_not_downcast,
    count_ids,
    max_rows_per_id,
)
from diffjax._sharding import check_divisible_rows, row_spec
from diffjax.types import Scalar

_IMAGES_PER_BATCH = 1024


def pool(
    scores: Float[Array, "n q"],
    image_ids: Int[Array | np.ndarray, " n"] | None = None,
    *,
    weights: Float[Array, " n"] | None = None,
    num_images: int | None = None,
    mesh: Mesh | None = None,
) -> Float[Array, "m q"]:
    r"""Pools scores of regions into scores of images: sum over regions of w_i f_i.

    Args:
        scores: Scores f of all regions, one column per query.
        image_ids: Image of every region, ascending from 0; None if every region is an
            image.
        weights: w of `gmp_weights`; None for sum pooling, w = 1.
        num_images: Number of images m; needed where `image_ids` is traced, or sharded
            over processes.
        mesh: Devices, also of other processes, that share the rows of all arguments; n
            must be a multiple of their number. The rows of an image may lie on several
            devices, whose partial sums are added. None is one device.

    Returns:
        Image scores, one column per query; on a mesh replicated on every device.

    Raises:
        ValueError: If ids go back or skip, lengths differ, `num_images` is missing
            under jit, or n is no multiple of the devices of `mesh`.

    References:
        Iscen et al., CVPR 2017, eq. 13, https://arxiv.org/abs/1611.05113.
    """
    check_not_downcast("scores", scores)
    rows = scores.shape[0]
    ids = np.arange(rows, dtype=np.int32) if image_ids is None else image_ids
    check_ids("image_ids", ids, rows=rows)
    count = count_ids("image_ids", ids, count=num_images, count_name="num_images")
    if weights is not None and weights.shape != (rows,):
        raise ValueError(
            f"weights must have one entry per region, {rows}, got {weights.shape}."
        )
    if mesh is not None:
        check_divisible_rows("scores", scores, mesh)
    return _pool(scores, ids.astype(np.int32), weights, num_images=count, mesh=mesh)


@functools.partial(jax.jit, static_argnames=("num_images", "mesh"))
def _pool(scores, image_ids, weights, *, num_images, mesh):
    weighted = scores if weights is None else weights[:, None] * scores

    def sum_by_image(weighted, image_ids):
        return jax.ops.segment_sum(
            weighted, image_ids, num_segments=num_images, indices_are_sorted=True
        )

    if mesh is None:
        return sum_by_image(weighted, image_ids)
    return jax.shard_map(
        lambda *shards: jax.lax.psum(sum_by_image(*shards), mesh.axis_names),
        mesh=mesh,
        in_specs=row_spec(mesh),
        out_specs=PartitionSpec(),
    )(weighted, image_ids)


def gmp_weights(
    vectors: Float[Array, "n d"],
    image_ids: Int[Array | np.ndarray, " n"] | None = None,
    *,
    lam: Scalar = 1.0,
    num_images: int | None = None,
    max_regions: int | None = None,
) -> Float[Array, " n"]:
    r"""Computes the weights of generalised max pooling.

    The weights of an image are w = (Phi Phi' + lambda I)^-1 1, where the rows of Phi
    are its regions. Similar regions share one vote; lambda times w tends to 1, sum
    pooling, as lambda grows.

    Args:
        vectors: Region vectors, unit length.
        image_ids: Image of every region, ascending from 0; None if every region is an
            image.
        lam: Regularisation lambda, above 0; may be traced and differentiated.
        num_images: Number of images m; needed where `image_ids` is traced.
        max_regions: Largest number of regions of any image; needed where `image_ids` is
            traced. Under jit the further regions of an image with more get NaN.

    Returns:
        One weight per region.

    Raises:
        ValueError: If `lam` is not above 0, ids go back or skip, or a count is missing
            under jit or too small.

    References:
        Iscen et al., CVPR 2017, eq. 14, https://arxiv.org/abs/1611.05113. The system
        is solved whether or not an image has fewer regions than dimensions.
    """
    check_in_range("lam", lam, low=0, high=float("inf"))
    check_not_downcast("vectors", vectors)
    rows = vectors.shape[0]
    ids = np.arange(rows, dtype=np.int32) if image_ids is None else image_ids
    check_ids("image_ids", ids, rows=rows)
    count = count_ids("image_ids", ids, count=num_images, count_name="num_images")
    max_regions = max_rows_per_id(
        "image_ids", ids, limit=max_regions, limit_name="max_regions"
    )
    return _gmp_weights(
        vectors,
        jnp.asarray(ids, jnp.int32),
        lam,
        num_images=count,
        max_regions=max_regions,
    )


@functools.partial(jax.jit, static_argnames=("num_images", "max_regions"))
def _gmp_weights(
    vectors: Array,
    image_ids: Array,
    lam: float | Array,
    *,
    num_images: int,
    max_regions: int,
) -> Array:
    rows = vectors.shape[0]
    if rows == 0:
        return jnp.zeros(0, vectors.dtype)
    lam = jnp.asarray(lam, vectors.dtype)
    images = jnp.arange(num_images, dtype=jnp.int32)
    starts = jnp.searchsorted(image_ids, images, side="left")
    counts = jnp.searchsorted(image_ids, images, side="right") - starts
    slots = jnp.arange(max_regions, dtype=jnp.int32)

    def solve_image_weights(image):
        start, regions = image
        is_region = slots < regions
        phi = vectors[jnp.minimum(start + slots, rows - 1)]
        phi = jnp.where(is_region[:, None], phi, jnp.zeros_like(phi))
        gram = jnp.matmul(phi, phi.T, precision=jax.lax.Precision.HIGHEST)
        system = gram + lam * jnp.eye(max_regions, dtype=vectors.dtype)
        # Rows of empty slots are lambda times the identity, separate from the others.
        factor = jax.scipy.linalg.cho_factor(system)
        return jax.scipy.linalg.cho_solve(factor, is_region.astype(vectors.dtype))

    batch = min(_IMAGES_PER_BATCH, max(num_images, 1))
    weights = jax.lax.map(solve_image_weights, (starts, counts), batch_size=batch)
    slot = jnp.arange(rows, dtype=jnp.int32) - starts[image_ids]
    region_weights: Array = weights[image_ids, jnp.minimum(slot, max_regions - 1)]
    return jnp.where(slot < max_regions, region_weights, jnp.nan)
