"""Principal components and whitening by them, fitted on a collection or its moments."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffjax._arguments import check_not_halved
from diffjax.types import Whitening

from ._moments import Moments, check_count, moments
from ._pooling import l2_normalize


def fit_pca(
    vectors: Float[Array | np.ndarray, "n d"] | Moments, *, dim: int
) -> Whitening:
    r"""Finds the directions of most variance, without scaling.

    With C = V diag(l) V' the covariance of the vectors, the projection holds v_i for
    the `dim` largest l_i, orthonormal. Precision and signs are those of
    `fit_pca_whitening`, and so is the number of columns where vectors span fewer than
    `dim` dimensions: variance beyond is rounding.

    Args:
        vectors: As in `fit_pca_whitening`.
        dim: Number of dimensions kept, at least 1; more than d gives d.

    Returns:
        The centring and projection, which `whiten` applies.

    Raises:
        ValueError: As in `fit_pca_whitening`.

    References:
        Hotelling, Analysis of a complex of statistical variables into principal
        components, Journal of Educational Psychology 24, 1933.
    """
    found = _principal(vectors, dim=dim, shrinkage=0.0)
    return whitening_of(found.moments, found.directions)


def fit_pca_whitening(
    vectors: Float[Array | np.ndarray, "n d"] | Moments,
    *,
    dim: int,
    shrinkage: float = 0.0,
) -> Whitening:
    r"""Finds the directions of most variance and scales them to variance 1.

    With C = V diag(l) V' the covariance of the vectors (divided by n - 1), the
    projection holds v_i / sqrt(l_i) for the `dim` largest l_i. It is computed in double
    precision from moments taken block by block, so memory is d x d and not n x d; the
    sign of each direction makes its entry of largest absolute value positive.

    Directions without variance can't be scaled: where the vectors span fewer than `dim`
    dimensions, as n of them do where n <= `dim`, the projection has fewer columns: as
    many as there are l_i above what rounding alone can give.

    Shrinkage puts (1 - s) C + s (tr(C)/d) I in the place of C: directions stay, and
    l_i becomes (1 - s) l_i + s (tr(C)/d). Then small variances are magnified less, and
    all directions have one: there are `dim` columns, those without variance in the
    vectors in an order of no meaning.

    Args:
        vectors: Vectors of regions or of whole images, of unit length; finite, float32
            or float64. Or the `moments` of a collection of any size.
        dim: Number of dimensions kept, at least 1; more than d gives d.
        shrinkage: s in [0, 1]; see `ledoit_wolf_shrinkage` for an estimate.

    Returns:
        The whitening, in the vectors' type; look at the shape of `projection` for the
        number of dimensions.

    Raises:
        ValueError: If `dim` is below 1, `shrinkage` outside [0, 1], the vectors are
            fewer than two, all equal, not finite, or float64 without `jax_enable_x64`,
            or if the whitening of so large or so small vectors has no place in their
            type.

    References:
        Jegou and Chum, Negative evidences and co-occurrences in image retrieval: the
        benefit of PCA and whitening, ECCV 2012.
        Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance
        matrices, Journal of Multivariate Analysis 88(2), 2004: the shrinkage.
    """
    found = _principal(vectors, dim=dim, shrinkage=shrinkage)
    return whitening_of(found.moments, found.directions / np.sqrt(found.variances))


@jax.jit
def whiten(vectors: Float[Array, "n d"], whitening: Whitening) -> Float[Array, "n p"]:
    """Whitens vectors and scales them back to unit length: u / |u|, u = (x - mean) P.

    The same for vectors of regions and of whole images, each with a whitening that was
    fitted on its kind. Differentiable in the vectors and in the whitening.

    Args:
        vectors: Like those of the fit: of unit length where those were.
        whitening: From `fit_pca_whitening`, `fit_pca` or `fit_supervised_whitening`, or
            read beside a network; of the vectors' type.

    Returns:
        Vectors of unit length; a vector equal to the mean becomes zero.
    """
    centred = vectors - whitening.mean[None, :]
    projected = jnp.matmul(
        centred, whitening.projection, precision=jax.lax.Precision.HIGHEST
    )
    return l2_normalize(projected)


class Eigen(NamedTuple):
    """Eigenvalues of a symmetric matrix, largest first, with unit eigenvectors.

    Attributes:
        values: In double precision.
        vectors: One per column.
    """

    values: Float[np.ndarray, " d"]
    vectors: Float[np.ndarray, "d d"]


def eigen(matrix: Float[np.ndarray, "d d"]) -> Eigen:
    """Decomposes a symmetric matrix in double precision."""
    with jax.enable_x64(True):
        # All of them: a subset takes LAPACK six times as long.
        values, vectors = map(np.asarray, _eigh(matrix))
    return Eigen(values[::-1], vectors[:, ::-1])


def check_fit(vectors: Any, *, dim: int, shrinkage: float) -> Moments:
    """Refuses what can't be fitted; gives the moments of the rest."""
    if dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim}.")
    if not 0 <= shrinkage <= 1:
        raise ValueError(f"shrinkage must be in [0, 1], got {shrinkage}.")
    if isinstance(vectors, Moments):
        check_not_halved("moments", vectors)
    own = vectors if isinstance(vectors, Moments) else moments(vectors)
    check_count(own)
    return own


def noise(largest: float, own: Moments) -> float:
    """The variance that rounding of the vectors, or of the eigenvalues, can give.

    The first is the square of the rule of `numpy.linalg.matrix_rank`.
    """
    size = len(own.mean)
    eps = float(jnp.finfo(own.dtype).eps)
    of_vectors = eps**2 * max(size**2 * largest, float(own.mean @ own.mean))
    return max(of_vectors, size * float(np.finfo(np.float64).eps) * largest)


def shrink(values: Float[np.ndarray, " d"], share: float) -> Float[np.ndarray, " d"]:
    """The eigenvalues of (1 - s) C + s (tr(C)/d) I, from those of C."""
    positive = np.maximum(values, 0)  # Rounding makes some of nothing negative.
    return (1 - share) * positive + share * positive.mean()


def whitening_of(own: Moments, projection: Float[np.ndarray, "d p"]) -> Whitening:
    """Fixes the signs, and gives the numbers in the vectors' type.

    Raises:
        ValueError: If they have no place there.
    """
    largest = np.take_along_axis(projection, np.abs(projection).argmax(0)[None], 0)
    kind = jnp.finfo(own.dtype)
    sizes = np.abs(largest)
    if sizes.max() > float(kind.max) or sizes.min() < float(kind.tiny):
        raise ValueError(
            "vectors must have variances whose inverse roots their type can hold, got "
            f"{own.dtype} and directions of {sizes.min():.3g} to {sizes.max():.3g}: "
            "scale them to unit length."
        )
    return Whitening(
        mean=jnp.asarray(own.mean.astype(own.dtype)),
        projection=jnp.asarray((projection * np.sign(largest)).astype(own.dtype)),
    )


class _Principal(NamedTuple):
    """The directions kept, with their variances.

    Attributes:
        moments: Of the vectors.
        variances: After shrinkage, largest first, all above 0.
        directions: One per column, of unit length.
    """

    moments: Moments
    variances: Float[np.ndarray, " p"]
    directions: Float[np.ndarray, "d p"]


def _principal(vectors: Any, *, dim: int, shrinkage: float) -> _Principal:
    own = check_fit(vectors, dim=dim, shrinkage=shrinkage)
    variances, directions = eigen(own.scatter / (own.count - 1))
    kept = variances > noise(float(variances[0]), own)
    if not kept.any():
        raise ValueError(f"vectors must differ, got {own.count} equal ones.")
    if shrinkage:
        variances, kept = shrink(variances, shrinkage), np.ones_like(kept)
    return _Principal(own, variances[kept][:dim], directions[:, kept][:, :dim])


@jax.jit
def _eigh(matrix):
    return jnp.linalg.eigh(matrix)
