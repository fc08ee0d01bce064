"""Running covariance of a stream of vectors, in double precision."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffjax._arguments import check_matrix, check_not_downcast

_BLOCK_ROWS = 8192  # Rows converted to double precision at a time.
_MIN_PADDED_ROWS = 64  # Smallest padded block.


class RunningCovariance(NamedTuple):
    """Mean and scatter of vectors in double precision, also without `jax_enable_x64`.

    Attributes:
        count: Number of vectors n.
        mean: m, the mean of x_i; zeros without vectors.
        scatter_matrix: The sum over i of (x_i - m)(x_i - m)'; divided by n - 1 it is
            the covariance.
        dtype: The vectors' type, whose rounding their variances contain, and the type
            of what is fitted to them.
    """

    # The name hides a method of tuples, which is of no use for three arrays.
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]
    mean: Float[np.ndarray, " d"]
    scatter_matrix: Float[np.ndarray, "d d"]
    dtype: np.dtype = np.dtype(np.float32)


def running_covariance(vectors: Float[Array | np.ndarray, "n d"]) -> RunningCovariance:
    r"""Computes the mean m and the sum of (x_i - m)(x_i - m)' in double precision.

    The vectors are converted block by block: memory is d x d and a block, not n x d in
    double precision. `merge_covariances` merges the results of several shards of a
    collection that does not fit into memory.

    Args:
        vectors: Any number of vectors, also none; finite, float32 or float64.

    Returns:
        Count, mean and scatter of the vectors.

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
    r"""Merges the running covariances of two collections into that of their union.

    n = n_a + n_b, m = m_a + (n_b / n) (m_b - m_a), and the scatter is
    S_a + S_b + (n_a n_b / n) (m_b - m_a)(m_b - m_a)'. The order of merges changes the
    result only by rounding in double precision.

    Args:
        a: Running covariance of one collection.
        b: Running covariance of the other, of as many dimensions; either may be of no
            vectors.

    Returns:
        The running covariance of both, with the coarser of the two types.

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
        vectors: As for `running_covariance`; two or more. Fourth moments are needed, so
            the vectors themselves, which are read twice.

    Returns:
        s in [0, 1], for the setting `shrinkage` of a fit; 0 where C equals T.

    Raises:
        ValueError: As `running_covariance`, or if the vectors are fewer than two.

    References:
        Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance
        matrices, Journal of Multivariate Analysis 88(2), 2004. Cited without an
        equation number; the tests compare with scikit-learn's function of this name.
    """
    statistics = running_covariance(vectors)
    check_enough_vectors(statistics)
    host = np.asarray(vectors)
    fourth = 0.0
    for start in range(0, len(host), _BLOCK_ROWS):
        centred = host[start : start + _BLOCK_ROWS] - statistics.mean
        fourth += float(((centred**2).sum(1) ** 2).sum())
    covariance = statistics.scatter_matrix / statistics.count
    square = float((covariance**2).sum())
    # |C - T|^2
    distance = square - float(covariance.trace()) ** 2 / len(statistics.mean)
    if not distance > 0:
        return 0.0
    error = max(fourth / statistics.count - square, 0) / statistics.count
    return min(error / distance, 1.0)


def check_enough_vectors(statistics: RunningCovariance) -> None:
    """Refuses a running covariance of fewer than two vectors, which has no variance."""
    if statistics.count < 2:
        raise ValueError(f"vectors must be two or more, got {statistics.count}.")


def scatter_matrix(
    rows: Float[np.ndarray, "b d"], centres: Float[np.ndarray, "#b d"]
) -> Float[np.ndarray, "d d"]:
    """Computes the sum over i of (x_i - c_i)(x_i - c_i)' in double precision.

    A compiled program computes it on accelerators, and NumPy on the CPU, where its BLAS
    computes half of a symmetric product: XLA took 2.5 times as long.
    """
    if jax.default_backend() == "cpu":
        differences = rows.astype(np.float64) - centres
        return differences.T @ differences
    if len(centres) == len(rows):
        centres = _pad_to_power_of_two(centres)
    with jax.enable_x64(True):
        return np.asarray(
            _compiled_scatter_matrix(_pad_to_power_of_two(rows), centres, len(rows))
        )


def _pad_to_power_of_two(block: Float[np.ndarray, "b d"]) -> Float[np.ndarray, "c d"]:
    """Pads a block with rows of zeros, so that few programs are compiled."""
    rows = max(_MIN_PADDED_ROWS, 1 << (len(block) - 1).bit_length())
    padded = np.zeros((rows, block.shape[1]), block.dtype)
    padded[: len(block)] = block
    return padded


@jax.jit
def _compiled_scatter_matrix(rows, centres, count):
    differences = rows.astype(jnp.float64) - centres.astype(jnp.float64)
    mask = jnp.arange(rows.shape[0]) < count
    differences = differences * mask[:, None].astype(differences.dtype)
    return jax.lax.dot_general(
        differences,
        differences,
        (((0,), (0,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
    )


def _block_covariance(block: Float[np.ndarray, "b d"], start: int) -> RunningCovariance:
    """Running covariance of a block whose first row has the number `start`."""
    with np.errstate(over="ignore", invalid="ignore"):  # Checked below.
        mean = block.sum(0, dtype=np.float64) / len(block)
        scatter = scatter_matrix(block, mean[None])
    # NaN and infinity stay in sums; the diagonal bounds the rest of the scatter.
    if not (np.isfinite(mean).all() and np.isfinite(scatter.trace())):
        not_finite = np.flatnonzero(~np.isfinite(block).all(1))
        if not_finite.size:
            raise ValueError(
                "vectors must be finite, got NaN or infinite entries, first in row "
                f"{start + not_finite[0]}."
            )
        raise ValueError(
            "vectors must have squares that double precision can hold, got entries up "
            f"to {np.abs(block).max():.3g}: scale them to unit length."
        )
    return RunningCovariance(len(block), mean, scatter, block.dtype)
