"""Running covariance of a stream of vectors, in double precision."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffjax._arguments import check_matrix, check_not_downcast

_BLOCK_ROWS = 8192  # Rows taken to double precision at a time.
_MIN_PADDED_ROWS = 64  # Rows that a block is filled up to at least.


class RunningCovariance(NamedTuple):
    """The first two moments of vectors, whatever the setting `jax_enable_x64` is.

    Attributes:
        count: Number of vectors n.
        mean: m, the mean of x_i; zeros where there is no vector.
        scatter_matrix: The sum over i of (x_i - m)(x_i - m)'; by n - 1 it is the
            covariance.
        dtype: The vectors' own type, whose rounding their variances contain; what is
            fitted has this type.
    """

    # The name hides a method of tuples, which nobody asks three arrays for.
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]
    mean: Float[np.ndarray, " d"]
    scatter_matrix: Float[np.ndarray, "d d"]
    dtype: np.dtype = np.dtype(np.float32)


def running_covariance(vectors: Float[Array | np.ndarray, "n d"]) -> RunningCovariance:
    r"""Computes the mean m and the sum of (x_i - m)(x_i - m)' in double precision.

    Block by block: memory is d x d and a block, not n x d in double precision. Parts of
    a collection that does not fit are put together by `merge_covariances`.

    Args:
        vectors: Any number of them, none included; finite, float32 or float64.

    Returns:
        Their moments.

    Raises:
        ValueError: If the vectors are no matrix of floating point, have no dimension,
            are not finite, are float64 without `jax_enable_x64`, or so large that
            double precision can't hold their squares.

    References:
        Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for
        computing sample variances, Stanford report STAN-CS-79-773, 1979.
    """
    check_matrix("vectors", vectors)
    check_not_downcast("vectors", vectors)
    host = np.asarray(vectors)
    size = host.shape[1]
    if size == 0:
        raise ValueError(f"vectors must have a dimension, got {list(host.shape)}.")
    total = RunningCovariance(0, np.zeros(size), np.zeros((size, size)), host.dtype)
    for start in range(0, len(host), _BLOCK_ROWS):
        total = merge_covariances(
            total, _block_covariance(host[start : start + _BLOCK_ROWS], start)
        )
    return total


def merge_covariances(a: RunningCovariance, b: RunningCovariance) -> RunningCovariance:
    r"""Computes the moments of two collections together from those of each.

    n = n_a + n_b, m = m_a + (n_b / n) (m_b - m_a), and the scatter is
    S_a + S_b + (n_a n_b / n) (m_b - m_a)(m_b - m_a)'. In whatever order parts are
    merged, the result is the same up to rounding in double precision.

    Args:
        a: Of the one collection.
        b: Of the other, of as many dimensions; either may be of no vectors.

    Returns:
        The moments of both, their type the coarser of the two.

    Raises:
        ValueError: If the dimensions differ.

    References:
        See `running_covariance`.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"b must have the {len(a.mean)} dimensions of a, got {len(b.mean)}."
        )
    count = a.count + b.count
    between = b.mean - a.mean
    share = b.count / max(count, 1)
    return RunningCovariance(
        count=count,
        mean=a.mean + share * between,
        scatter_matrix=a.scatter_matrix
        + b.scatter_matrix
        + a.count * share * np.outer(between, between),
        dtype=max(a.dtype, b.dtype, key=lambda kind: jnp.finfo(kind).eps),
    )


def ledoit_wolf_shrinkage(vectors: Float[Array | np.ndarray, "n d"]) -> float:
    r"""Estimates how far to shrink a covariance C towards (tr(C)/d) I.

    With C the covariance (divided by n) and T = (tr(C)/d) I, it is the share s of T in
    (1 - s) C + s T that is expected nearest to the covariance behind the vectors:
    s = min(1, mean over i of |z_i z_i' - C|^2 / (n |C - T|^2)), z_i = x_i - mean.

    Args:
        vectors: As for `running_covariance`; two or more. It takes fourth moments, so
            the vectors themselves, which are gone through twice.

    Returns:
        s in [0, 1], for the setting `shrinkage` of a fit; 0 where C is T.

    Raises:
        ValueError: As `running_covariance`, or if the vectors are fewer than two.

    References:
        Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance
        matrices, Journal of Multivariate Analysis 88(2), 2004. Cited without a number;
        scikit-learn's function of this name is what the tests compare with.
    """
    own = running_covariance(vectors)
    check_enough_vectors(own)
    host = np.asarray(vectors)
    fourth = 0.0
    for start in range(0, len(host), _BLOCK_ROWS):
        centred = host[start : start + _BLOCK_ROWS] - own.mean
        fourth += float(((centred**2).sum(1) ** 2).sum())
    covariance = own.scatter_matrix / own.count
    square = float((covariance**2).sum())
    apart = square - float(covariance.trace()) ** 2 / len(own.mean)
    if not apart > 0:
        return 0.0
    error = max(fourth / own.count - square, 0) / own.count
    return min(error / apart, 1.0)


def check_enough_vectors(own: RunningCovariance) -> None:
    """Refuses the moments of fewer vectors than have a variance."""
    if own.count < 2:
        raise ValueError(f"vectors must be two or more, got {own.count}.")


def scatter_matrix(
    rows: Float[np.ndarray, "b d"], centres: Float[np.ndarray, "#b d"]
) -> Float[np.ndarray, "d d"]:
    """The sum over i of (x_i - c_i)(x_i - c_i)' in double precision, c_i one or many.

    On accelerators by a compiled program. On the CPU by NumPy, whose BLAS computes half
    of a symmetric product: XLA took 2.5 times as long there.
    """
    if jax.default_backend() == "cpu":
        apart = rows.astype(np.float64) - centres
        return apart.T @ apart
    if len(centres) == len(rows):
        centres = _pad_to_power_of_two(centres)
    with jax.enable_x64(True):
        return np.asarray(
            _compiled_scatter_matrix(_pad_to_power_of_two(rows), centres, len(rows))
        )


def _pad_to_power_of_two(block: Float[np.ndarray, "b d"]) -> Float[np.ndarray, "c d"]:
    """Adds rows of zeros up to a power of two, so that few programs are compiled."""
    rows = max(_MIN_PADDED_ROWS, 1 << (len(block) - 1).bit_length())
    filled = np.zeros((rows, block.shape[1]), block.dtype)
    filled[: len(block)] = block
    return filled


@jax.jit
def _compiled_scatter_matrix(rows, centres, count):
    apart = rows.astype(jnp.float64) - centres.astype(jnp.float64)
    real = jnp.arange(rows.shape[0]) < count
    apart = apart * real[:, None].astype(apart.dtype)
    return jax.lax.dot_general(
        apart, apart, (((0,), (0,)), ((), ())), precision=jax.lax.Precision.HIGHEST
    )


def _block_covariance(block: Float[np.ndarray, "b d"], start: int) -> RunningCovariance:
    """The moments of rows that are `start` and following of the vectors."""
    with np.errstate(over="ignore", invalid="ignore"):  # Looked at below.
        mean = block.sum(0, dtype=np.float64) / len(block)
        own = scatter_matrix(block, mean[None])
    # NaN and infinity stay in sums; the diagonal bounds the rest of the scatter.
    if not (np.isfinite(mean).all() and np.isfinite(own.trace())):
        bad = np.flatnonzero(~np.isfinite(block).all(1))
        if bad.size:
            raise ValueError(
                "vectors must be finite, got NaN or infinite entries, first in row "
                f"{start + bad[0]}."
            )
        raise ValueError(
            "vectors must have squares that double precision can hold, got entries up "
            f"to {np.abs(block).max():.3g}: scale them to unit length."
        )
    return RunningCovariance(len(block), mean, own, block.dtype)
