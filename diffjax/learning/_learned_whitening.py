"""Whitening in closed form from mixed scatter matrices, with learned weights."""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_ids
from diffjax.regions import global_descriptors

from ._parameters import Parameters, check_parameters
from ._training_graphs import TrainingGraphs

# Differences that a projection is to shrink, in the order of `scatter_matrices`; the
# first two need labels.
SCATTER_KINDS = (
    "regions of an object",
    "images of an object",
    "regions of an image",
    "identity",
)
# Eigenvalues that differ by less, relative to the largest, count as equal.
_EIGENVALUE_TOLERANCE = 1e-7


class ScatterMatrices(NamedTuple):
    """Scatter matrices of vectors, within groups and between images, of trace d.

    Attributes:
        within: Scatters of the differences to shrink, s of them: see
            `scatter_matrices`.
        between: Scatter of the differences to preserve.
    """

    within: Float[Array, "s d d"]
    between: Float[Array, "d d"]


def scatter_matrices(
    training_graphs: TrainingGraphs, objects: Sequence[Int[np.ndarray, " _"]] = ()
) -> ScatterMatrices:
    """Scatter matrices of the vectors of a collection, within and between groups.

    With labels there are four scatters to shrink, in this order: of the regions of an
    object's images about their mean; of the global descriptors of these images about
    theirs; of the regions of an image about theirs; and the identity, which makes the
    mixture regular, and replaces a scatter of zero. Without labels there are the last
    two only. The scatter to preserve is that of all global descriptors about their
    mean.

    Args:
        training_graphs: The collection, with one view of d dimensions.
        objects: For every object the numbers of the images that show it.

    Returns:
        The covariances, each scaled to trace d, in the type of the vectors.

    Raises:
        ValueError: If there are several descriptions, an object has fewer than two
            images or one that is not in the collection, or all images are equal.
    """
    if len(training_graphs.views) != 1:
        raise ValueError(
            f"scatters are those of one description, got {len(training_graphs.views)}."
        )
    vectors = training_graphs.views[0].vectors
    ids = np.asarray(training_graphs.image_ids)
    check_ids("image_ids", ids, rows=len(vectors))
    count, dim = int(ids[-1]) + 1, vectors.shape[1]
    summed = global_descriptors(vectors, ids, num_images=count)
    image_vectors = np.asarray(summed, np.float64)
    regions = np.asarray(vectors, np.float64)
    object_images = [np.unique(np.asarray(images, int)) for images in objects]
    for number, images in enumerate(object_images):
        if images.size < 2 or images[0] < 0 or images[-1] >= count:
            raise ValueError(
                f"objects[{number}] must be two images or more of 0..{count - 1}, got "
                f"{images.tolist()}."
            )
    ends = np.searchsorted(ids, np.arange(count + 1))
    spans = [np.arange(a, b) for a, b in itertools.pairwise(ends)]
    scatters = []
    if object_images:
        object_regions = [
            np.concatenate([spans[i] for i in images]) for images in object_images
        ]
        scatters.append(_group_scatter(regions, object_regions))
        scatters.append(_group_scatter(image_vectors, object_images))
    scatters.append(_group_scatter(regions, spans))
    between = _group_scatter(image_vectors, [np.arange(count)])
    if between is None:
        raise ValueError("vectors must differ between images, got equal ones.")
    eye = np.eye(dim)
    within = [*(eye if scatter is None else scatter for scatter in scatters), eye]
    dtype = training_graphs.views[0].vectors.dtype
    return ScatterMatrices(
        jnp.asarray(np.stack(within), dtype), jnp.asarray(between, dtype)
    )


def replace_shrinkage_by_projection(
    parameters: Parameters, scatter_matrices: ScatterMatrices, *, dim: int | None = None
) -> Parameters:
    r"""Replaces `shrinkage` and `emphasis` by their projection in closed form.

    With W = sum_j s_j W_j over the scatters to shrink, s being `shrinkage`, W = L L'
    and the eigenvalues v_1 >= v_2 >= ... and eigenvectors u_1, u_2, ... of L^-1 B L^-T,
    row i of the projection is (v_i / v_1)^e u_i' L^-1, e being `emphasis`. At e = 0
    this is supervised whitening with its covariance of matched pairs shrunken to
    several targets; above it directions in which nothing but noise differs count less.
    The projection is scaled to sum of squares p. It is differentiable; derivatives are
    those of x -> P x / |P x|, in which directions of equal v may turn.

    Args:
        parameters: Parameters with `shrinkage`; without `emphasis` e is 0.
        scatter_matrices: As many scatters to shrink as `shrinkage` has weights.
        dim: Dimensions p it projects to, 1 to d; None is d. A Python number.

    Returns:
        The parameters, with the projection.

    Raises:
        ValueError: If there is no `shrinkage` or a projection beside it, numbers
            contradict each other, or a parameter is outside its range.

    References:
        The closed form is that of `regions.fit_supervised_whitening`; the regularised
        discriminant of Friedman, Regularized discriminant analysis, JASA 84, 1989,
        known by its abstract, mixes covariances likewise. That the mixture is learned
        through the diffusion is ours.
    """
    check_parameters(parameters)
    weights = parameters.shrinkage
    if weights is None or parameters.projection is not None:
        raise ValueError("parameters must have shrinkage and no projection.")
    kinds, size, _ = scatter_matrices.within.shape
    if weights.shape[0] != kinds:
        raise ValueError(
            f"shrinkage must have one weight per scatter, {kinds}, got "
            f"{weights.shape[0]}."
        )
    dim = size if dim is None else dim
    if not 1 <= dim <= size:
        raise ValueError(f"dim must be in 1..{size}, got {dim}.")
    emphasis = parameters.emphasis
    if emphasis is None:
        emphasis = jnp.zeros_like(parameters.alpha)
    projection = _closed_form_projection(scatter_matrices, weights, emphasis, dim=dim)
    return parameters._replace(projection=projection, shrinkage=None, emphasis=None)


def _closed_form_projection(scatter_matrices, weights, emphasis, *, dim):
    dtype = scatter_matrices.within.dtype
    weights, emphasis = weights.astype(dtype), emphasis.astype(dtype)
    within = jnp.tensordot(weights, scatter_matrices.within, 1, precision="highest")
    root = jnp.linalg.cholesky(within)

    def apply_inverse_root(matrix):
        return jax.scipy.linalg.solve_triangular(root, matrix, lower=True)

    whitened_between = apply_inverse_root(
        apply_inverse_root(scatter_matrices.between).T
    )
    values, vectors = _safe_eigh((whitened_between + whitened_between.T) / 2)
    values, vectors = values[::-1][:dim], vectors[:, ::-1][:, :dim]
    rows = jax.scipy.linalg.solve_triangular(root.T, vectors, lower=False).T
    # Rounding makes zeros negative, of which there is no power.
    ratio = jnp.maximum(values / values[0], jnp.finfo(dtype).eps)
    rows *= (ratio**emphasis)[:, None]
    # Lengths are made 1 after it: this scale only keeps entries those of an identity.
    return rows * jnp.sqrt(dim / jnp.sum(rows**2))


@jax.custom_jvp
def _safe_eigh(matrix):
    values, vectors = jnp.linalg.eigh(matrix, symmetrize_input=False)
    return values, vectors


@_safe_eigh.defjvp
def _safe_eigh_jvp(primals, tangents):
    # The library's rule divides by differences of eigenvalues, some of which are 0
    # where vectors span less than all dimensions. Vectors of equal values may turn
    # among themselves without changing a similarity: their turn is taken to be 0.
    (matrix,), (tangent,) = primals, tangents
    values, vectors = _safe_eigh(matrix)
    product = functools.partial(jnp.matmul, precision="highest")
    inner: Array = product(product(vectors.T, tangent), vectors)
    gap = values[None, :] - values[:, None]
    equal = jnp.abs(gap) <= _EIGENVALUE_TOLERANCE * jnp.max(jnp.abs(values))
    rotation = inner / (gap + equal.astype(gap.dtype)) * (~equal).astype(gap.dtype)
    return (values, vectors), (jnp.diagonal(inner), product(vectors, rotation))


def _group_scatter(
    vectors: Float[np.ndarray, "n d"], groups: Sequence[Int[np.ndarray, " _"]]
) -> Float[np.ndarray, "d d"] | None:
    """Scatter of vectors about the means of their groups, of trace d; None if 0."""
    dim = vectors.shape[1]
    total = np.zeros((dim, dim))
    for group in groups:
        differences = vectors[group] - vectors[group].mean(0)
        total += differences.T @ differences
    trace = total.trace()
    # Means of equal vectors differ from them by rounding.
    if trace <= np.finfo(np.float32).eps ** 2 * len(vectors):
        return None
    return total * (dim / trace)
