"""Whitening by principal components, fitted on the collection."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffjax.types import Whitening

from ._pooling import l2_normalize

_BLOCK = 8192  # Rows taken to double precision at a time.


def fit_pca_whitening(
    vectors: Float[Array | np.ndarray, "n d"], *, dim: int
) -> Whitening:
    r"""Finds the directions of most variance and scales them to variance 1.

    With C = V diag(l) V' the covariance of the vectors (divided by n - 1), the
    projection holds v_i / sqrt(l_i) for the `dim` largest l_i. It is computed in double
    precision, block by block, so memory is d x d and not n x d; the sign of each
    direction makes its entry of largest absolute value positive.

    Directions without variance can't be scaled: where the vectors span fewer than `dim`
    dimensions, as n of them do where n <= `dim`, the projection has fewer columns: as
    many as there are l_i above what rounding alone can give.

    Args:
        vectors: Region vectors of unit length; finite, float32 or float64.
        dim: Number of dimensions kept, at least 1; more than d gives d.

    Returns:
        The whitening, in the vectors' type; look at the shape of `projection` for the
        number of dimensions.

    Raises:
        ValueError: If `dim` is below 1, or the vectors are fewer than two, all equal,
            not finite, or float64 without `jax_enable_x64`.

    References:
        Jegou and Chum, Negative evidences and co-occurrences in image retrieval: the
        benefit of PCA and whitening, ECCV 2012.
    """
    if dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim}.")
    if len(vectors) < 2:
        raise ValueError(f"vectors must be two or more, got {len(vectors)}.")
    dtype = vectors.dtype
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(
            f"vectors must be float32, got {dtype}; set jax_enable_x64 for float64."
        )
    mean, covariance = _moments(np.asarray(vectors))
    # All of them: a subset takes LAPACK six times as long.
    variances, directions = np.linalg.eigh(covariance)
    variances, directions = variances[::-1][:dim], directions[:, ::-1][:, :dim]
    kept = variances > _noise(
        float(variances[0]), mean, eps=float(jnp.finfo(dtype).eps)
    )
    if not kept.any():
        raise ValueError(f"vectors must differ, got {len(vectors)} equal ones.")
    variances, directions = variances[kept], directions[:, kept]
    largest = np.abs(directions).argmax(0)
    signs = np.sign(np.take_along_axis(directions, largest[None], 0))
    return Whitening(
        mean=jnp.asarray(mean.astype(dtype)),
        projection=jnp.asarray((directions * signs / np.sqrt(variances)).astype(dtype)),
    )


def _noise(largest: float, mean: Float[np.ndarray, " d"], *, eps: float) -> float:
    """The variance that rounding of the vectors, or of the eigenvalues, can give.

    The first is the square of the rule of `numpy.linalg.matrix_rank`.
    """
    size = len(mean)
    of_vectors = eps**2 * max(size**2 * largest, float(mean @ mean))
    return max(of_vectors, size * float(np.finfo(np.float64).eps) * largest)


class _Moments(NamedTuple):
    """The first two moments of vectors, in double precision.

    Attributes:
        mean: Their mean.
        covariance: Their covariance, divided by n - 1.
    """

    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]


def _moments(vectors: Float[np.ndarray, "n d"]) -> _Moments:
    count, size = vectors.shape
    mean = vectors.sum(0, dtype=np.float64) / count
    if not np.isfinite(mean).all():
        raise ValueError("vectors must be finite, got NaN or infinite entries.")
    covariance = np.zeros((size, size))
    for start in range(0, count, _BLOCK):
        block = vectors[start : start + _BLOCK] - mean
        covariance += block.T @ block
    return _Moments(mean, covariance / (count - 1))


@jax.jit
def whiten(vectors: Float[Array, "n d"], whitening: Whitening) -> Float[Array, "n p"]:
    """Whitens vectors and scales them back to unit length: u / |u|, u = (x - mean) P.

    Args:
        vectors: Region vectors of unit length, like those of the fit.
        whitening: From `fit_pca_whitening`.

    Returns:
        Vectors of unit length; a vector equal to the mean becomes zero.
    """
    centred = vectors - whitening.mean[None, :]
    projected = jnp.matmul(
        centred, whitening.projection, precision=jax.lax.Precision.HIGHEST
    )
    return l2_normalize(projected)
