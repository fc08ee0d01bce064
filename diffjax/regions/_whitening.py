"""PCA whitening and supervised whitening, fitted on vectors or on pairs of vectors."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_not_downcast
from diffjax.types import Whitening

from ._region_pooling import l2_normalize
from ._running_covariance import (
    RunningCovariance,
    check_enough_vectors,
    running_covariance,
    scatter_matrix,
)

_BLOCK_PAIRS = 8192  # Pairs converted to double precision at a time.


def fit_pca(
    vectors: Float[Array | np.ndarray, "n d"] | RunningCovariance, *, dim: int
) -> Whitening:
    r"""Fits PCA without scaling: the directions of largest variance.

    With C = V diag(l) V' the covariance of the vectors, the projection holds v_i for
    the `dim` largest l_i, orthonormal. Precision and signs are those of
    `fit_pca_whitening`, and so is the number of columns where vectors span fewer than
    `dim` dimensions: variance in other directions is rounding.

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
    principal = _principal_directions(vectors, dim=dim, shrinkage=0.0)
    return make_whitening(principal.running_covariance, principal.directions)


def fit_pca_whitening(
    vectors: Float[Array | np.ndarray, "n d"] | RunningCovariance,
    *,
    dim: int,
    shrinkage: float = 0.0,
) -> Whitening:
    r"""Fits PCA whitening: the directions of largest variance, scaled to variance 1.

    With C = V diag(l) V' the covariance of the vectors (divided by n - 1), the
    projection holds v_i / sqrt(l_i) for the `dim` largest l_i. It is computed in double
    precision from a running covariance, so memory is d x d and not n x d; the sign of
    each direction makes its entry of largest absolute value positive.

    Directions without variance can't be scaled: where the vectors span fewer than `dim`
    dimensions, as n vectors do where n <= `dim`, the projection has fewer columns: as
    many as there are l_i above what rounding alone can give.

    Shrinkage replaces C by (1 - s) C + s (tr(C)/d) I: the directions are unchanged, and
    l_i becomes (1 - s) l_i + s (tr(C)/d). Small variances are then magnified less, and
    every direction has a variance: there are `dim` columns, and the order of those
    without variance in the vectors is arbitrary.

    Args:
        vectors: Vectors of regions or of whole images, of unit length; finite, float32
            or float64. Or the `running_covariance` of a collection of any size.
        dim: Number of dimensions kept, at least 1; more than d gives d.
        shrinkage: s in [0, 1]; see `ledoit_wolf_shrinkage` for an estimate.

    Returns:
        The whitening, in the vectors' type; the shape of `projection` tells the number
        of dimensions.

    Raises:
        ValueError: If `dim` is below 1, `shrinkage` outside [0, 1], the vectors are
            fewer than two, all equal, not finite, or float64 without `jax_enable_x64`,
            or if the vectors are so large or so small that their type can't hold the
            whitening.

    References:
        Jegou and Chum, Negative evidences and co-occurrences in image retrieval: the
        benefit of PCA and whitening, ECCV 2012.
        Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance
        matrices, Journal of Multivariate Analysis 88(2), 2004: the shrinkage.
    """
    principal = _principal_directions(vectors, dim=dim, shrinkage=shrinkage)
    return make_whitening(
        principal.running_covariance,
        principal.directions / np.sqrt(principal.variances),
    )


def fit_supervised_whitening(
    vectors: Float[Array | np.ndarray, "n d"],
    matched: Int[Array | np.ndarray, "p 2"],
    unmatched: Int[Array | np.ndarray, "u 2"] | None = None,
    *,
    dim: int,
    shrinkage: float = 0.0,
) -> Whitening:
    r"""Fits whitening to pairs: matches differ by 1, other pairs as much as possible.

    C_S is the mean over matched pairs of (x_i - x_j)(x_i - x_j)', and C_D the same over
    unmatched pairs. The projection is P = C_S^(-1/2) U, U the eigenvectors of
    C_S^(-1/2) C_D C_S^(-1/2) with the `dim` largest eigenvalues: P' C_S P = I, and
    P' C_D P is diagonal and descending. Vectors mapped by an invertible matrix
    beforehand come out the same up to signs.

    Without unmatched pairs C_D is the mean over *all* vectors of (x - m)(x - m)', m
    their mean, as in the authors' program. Three things differ from that program: its m
    is the mean of the first vectors of the pairs, here the mean of all vectors, also in
    the result; its C_S^(-1/2) is the inverse of a Cholesky factor, which gives the same
    P; and where C_S is singular it adds a growing number to the diagonal, while this
    function asks for `shrinkage`. That C_S and C_D are means, not sums, scales P as a
    whole.

    C_S, C_D and P are computed in double precision, pairs block by block; signs are
    those of `fit_pca_whitening`.

    Args:
        vectors: Vectors of regions or of whole images, of unit length; finite, float32
            or float64; two or more.
        matched: Row numbers (i, j) of vectors that show the same object; see
            `list_matching_pairs`.
        unmatched: Row numbers of vectors that show different objects; None uses all
            vectors.
        dim: Number of dimensions kept, at least 1; more than d gives d. Directions
            without variance in C_D come last, in arbitrary order.
        shrinkage: s in [0, 1], which replaces C_S by (1 - s) C_S + s (tr(C_S)/d) I;
            above 0 for differences that do not span all d dimensions, such as those of
            fewer than d pairs.

    Returns:
        The whitening, with the mean of all vectors, in their type.

    Raises:
        ValueError: If a pair is not two different rows of the vectors, there are no
            pairs, or all pairs are of equal vectors; if C_S is singular and `shrinkage`
            0; or as `fit_pca_whitening`.

    References:
        Radenovic, Tolias and Chum, CNN image retrieval learns from BoW: unsupervised
        fine-tuning with hard examples, ECCV 2016, https://arxiv.org/abs/1604.02426.
        Cited without an equation number; their program, cirtorch/utils/whiten.py of
        https://github.com/filipradenovic/cnnimageretrieval-pytorch, was read.
        Mikolajczyk and Matas, Improving descriptors for fast tree matching by optimal
        linear projection, ICCV 2007, cited from the former.
        For the shrinkage see `fit_pca_whitening`.
    """
    statistics = check_whitening_fit(vectors, dim=dim, shrinkage=shrinkage)
    host = np.asarray(vectors)
    _check_pair_rows("matched", matched, rows=len(host))
    if unmatched is None:
        between = statistics.scatter_matrix / statistics.count
    else:
        _check_pair_rows("unmatched", unmatched, rows=len(host))
        between = _mean_pair_scatter(host, np.asarray(unmatched))
        if not between.trace() > rounding_variance(float(between.trace()), statistics):
            raise ValueError("unmatched must hold vectors that differ, got equal ones.")
    within = decompose_symmetric(_mean_pair_scatter(host, np.asarray(matched)))
    within = _check_within_rank(
        within, statistics, pairs=len(matched), shrinkage=shrinkage
    )
    with jax.enable_x64(True):
        projection = np.asarray(
            _discriminant_projection(within.values, within.vectors, between)
        )
    return make_whitening(statistics, projection[:, :dim])


def list_matching_pairs(
    labels: Int[Array | np.ndarray, " n"], *, limit: int | None = None, seed: int = 0
) -> Int[np.ndarray, "p 2"]:
    """Lists pairs of vectors with the same label.

    Args:
        labels: Label of each vector, such as the object that it shows.
        limit: Largest number of pairs, at least 1: of more pairs, `limit` are drawn
            uniformly without replacement. None lists all: c (c - 1) / 2 for a label of
            c vectors.
        seed: Random seed of the draws; the same seed gives the same pairs.

    Returns:
        Row numbers (i, j) with i < j, int32, ordered by label, then by i and j; empty
        where all labels differ.

    Raises:
        ValueError: If `limit` is below 1 or labels are not whole numbers, one per row.
    """
    host = np.asarray(labels)
    if host.ndim != 1 or not np.issubdtype(host.dtype, np.integer):
        raise ValueError(
            f"labels must be whole numbers [n], got {host.dtype} {list(host.shape)}."
        )
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}.")
    order = np.argsort(host, kind="stable")
    ends = np.searchsorted(host[order], host[order], side="right")
    # Pairs are numbered by the positions of their first and second vector in `order`.
    starts = np.concatenate([[0], np.cumsum(ends - np.arange(len(host)) - 1)])
    if limit is None or limit >= starts[-1]:
        numbers = np.arange(starts[-1])
    else:
        rng = np.random.default_rng(seed)
        numbers = np.sort(rng.choice(starts[-1], limit, replace=False, shuffle=False))
    first = np.searchsorted(starts, numbers, side="right") - 1
    second = first + 1 + numbers - starts[first]
    return np.stack([order[first], order[second]], 1).astype(np.int32)


@jax.jit
def whiten(vectors: Float[Array, "n d"], whitening: Whitening) -> Float[Array, "n p"]:
    """Whitens vectors and scales them back to unit length: u / |u|, u = (x - mean) P.

    Vectors of regions and vectors of whole images each need a whitening that was fitted
    on vectors of their kind. Differentiable in the vectors and in the whitening.

    Args:
        vectors: Vectors as they were fitted: of unit length where those were.
        whitening: From `fit_pca_whitening`, `fit_pca` or `fit_supervised_whitening`, or
            loaded with a network; of the vectors' type.

    Returns:
        Vectors of unit length; a vector equal to the mean becomes zero.
    """
    centred = vectors - whitening.mean[None, :]
    projected = jnp.matmul(
        centred, whitening.projection, precision=jax.lax.Precision.HIGHEST
    )
    return l2_normalize(projected)


class EigenDecomposition(NamedTuple):
    """Eigenvalues of a symmetric matrix, largest first, with unit eigenvectors.

    Attributes:
        values: Eigenvalues in double precision.
        vectors: Eigenvectors, one per column.
    """

    values: Float[np.ndarray, " d"]
    vectors: Float[np.ndarray, "d d"]


def decompose_symmetric(matrix: Float[np.ndarray, "d d"]) -> EigenDecomposition:
    """Decomposes a symmetric matrix in double precision."""
    with jax.enable_x64(True):
        # All eigenvectors: a subset takes LAPACK six times as long.
        values, vectors = map(np.asarray, _eigh(matrix))
    return EigenDecomposition(values[::-1], vectors[:, ::-1])


def check_whitening_fit(
    vectors: Any, *, dim: int, shrinkage: float
) -> RunningCovariance:
    """Validates vectors and settings of a fit, and returns the running covariance."""
    if dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim}.")
    if not 0 <= shrinkage <= 1:
        raise ValueError(f"shrinkage must be in [0, 1], got {shrinkage}.")
    if isinstance(vectors, RunningCovariance):
        check_not_downcast("running_covariance", vectors)
    statistics = (
        vectors
        if isinstance(vectors, RunningCovariance)
        else running_covariance(vectors)
    )
    check_enough_vectors(statistics)
    return statistics


def rounding_variance(largest: float, statistics: RunningCovariance) -> float:
    """Bounds the variance that rounding of vectors or of eigenvalues can give.

    The bound of the vectors is the square of the rule of `numpy.linalg.matrix_rank`.
    """
    size = len(statistics.mean)
    eps = float(jnp.finfo(statistics.dtype).eps)
    from_vectors = eps**2 * max(
        size**2 * largest, float(statistics.mean @ statistics.mean)
    )
    return max(from_vectors, size * float(np.finfo(np.float64).eps) * largest)


def shrink_eigenvalues(
    values: Float[np.ndarray, " d"], share: float
) -> Float[np.ndarray, " d"]:
    """Eigenvalues of (1 - s) C + s (tr(C)/d) I, from those of C."""
    positive = np.maximum(values, 0)  # Rounding makes some zeros negative.
    return (1 - share) * positive + share * positive.mean()


def make_whitening(
    statistics: RunningCovariance, projection: Float[np.ndarray, "d p"]
) -> Whitening:
    """Makes a whitening of a projection: fixes signs, converts to the vectors' type.

    Raises:
        ValueError: If the vectors' type can't hold the projection.
    """
    largest = np.take_along_axis(projection, np.abs(projection).argmax(0)[None], 0)
    limits = jnp.finfo(statistics.dtype)
    sizes = np.abs(largest)
    if sizes.max() > float(limits.max) or sizes.min() < float(limits.tiny):
        raise ValueError(
            "vectors must have variances whose inverse roots their type can hold, got "
            f"{statistics.dtype} and directions of {sizes.min():.3g} to "
            f"{sizes.max():.3g}: "
            "scale them to unit length."
        )
    return Whitening(
        mean=jnp.asarray(statistics.mean.astype(statistics.dtype)),
        projection=jnp.asarray(
            (projection * np.sign(largest)).astype(statistics.dtype)
        ),
    )


class _PrincipalDirections(NamedTuple):
    """Principal directions of a whitening, with their variances.

    Attributes:
        running_covariance: Running covariance of the vectors.
        variances: Variances after shrinkage, largest first, all above 0.
        directions: Unit vectors, one per column.
    """

    running_covariance: RunningCovariance
    variances: Float[np.ndarray, " p"]
    directions: Float[np.ndarray, "d p"]


def _principal_directions(
    vectors: Any, *, dim: int, shrinkage: float
) -> _PrincipalDirections:
    statistics = check_whitening_fit(vectors, dim=dim, shrinkage=shrinkage)
    variances, directions = decompose_symmetric(
        statistics.scatter_matrix / (statistics.count - 1)
    )
    is_kept = variances > rounding_variance(float(variances[0]), statistics)
    if not is_kept.any():
        raise ValueError(f"vectors must differ, got {statistics.count} equal ones.")
    if shrinkage:
        variances = shrink_eigenvalues(variances, shrinkage)
        is_kept = np.ones_like(is_kept)
    return _PrincipalDirections(
        statistics, variances[is_kept][:dim], directions[:, is_kept][:, :dim]
    )


@jax.jit
def _eigh(matrix):
    return jnp.linalg.eigh(matrix)


def _check_pair_rows(
    name: str, pairs: Int[Array | np.ndarray, "p 2"], *, rows: int
) -> None:
    """Refuses pairs that are not two different rows, naming the first such pair."""
    host = np.asarray(pairs)
    if (
        host.ndim != 2
        or host.shape[1] != 2
        or not np.issubdtype(host.dtype, np.integer)
    ):
        raise ValueError(
            f"{name} must be pairs of row numbers [p, 2], got {host.dtype} "
            f"{list(host.shape)}."
        )
    if len(host) == 0:
        raise ValueError(f"{name} must be one pair or more, got none.")
    outside = np.flatnonzero(((host < 0) | (host >= rows)).any(1))
    if outside.size:
        raise ValueError(
            f"{name} must be row numbers from 0 to {rows - 1}, got "
            f"{host[outside[0]].tolist()} in row {outside[0]}."
        )
    self_pairs = np.flatnonzero(host[:, 0] == host[:, 1])
    if self_pairs.size:
        raise ValueError(
            f"{name} must pair different vectors, got "
            f"{host[self_pairs[0]].tolist()} in row {self_pairs[0]}."
        )


def _check_within_rank(
    within: EigenDecomposition,
    statistics: RunningCovariance,
    *,
    pairs: int,
    shrinkage: float,
) -> EigenDecomposition:
    """Refuses a singular scatter of the matches without shrinkage, else shrinks it."""
    values = within.values
    rank = int((values > rounding_variance(float(values[0]), statistics)).sum())
    if rank == 0:
        raise ValueError(f"matched must hold vectors that differ, got {pairs} equal.")
    if shrinkage:
        return within._replace(values=shrink_eigenvalues(values, shrinkage))
    if rank < len(values):
        raise ValueError(
            f"matched must give differences of rank {len(values)}, the vectors' "
            f"dimension, got {rank} from {pairs} pairs: give more, or set shrinkage "
            "above 0."
        )
    return within


def _mean_pair_scatter(
    vectors: Float[np.ndarray, "n d"], pairs: Int[np.ndarray, "p 2"]
) -> Float[np.ndarray, "d d"]:
    """Mean over pairs of (x_i - x_j)(x_i - x_j)'."""
    total = np.zeros((vectors.shape[1],) * 2)
    for start in range(0, len(pairs), _BLOCK_PAIRS):
        first, second = pairs[start : start + _BLOCK_PAIRS].T
        total += scatter_matrix(vectors[first], vectors[second])
    return total / len(pairs)


@jax.jit
def _discriminant_projection(values, vectors, between):
    """Computes C_S^(-1/2) U, largest eigenvalue first, from C_S decomposed and C_D."""
    highest = jax.lax.Precision.HIGHEST
    scaled = vectors / jnp.sqrt(values)[None, :]
    root = jnp.matmul(scaled, vectors.T, precision=highest)
    inner = jnp.matmul(
        root, jnp.matmul(between, root, precision=highest), precision=highest
    )
    return jnp.matmul(root, jnp.linalg.eigh(inner)[1], precision=highest)[:, ::-1]
