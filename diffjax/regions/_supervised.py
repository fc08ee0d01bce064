"""Whitening learned from pairs of vectors that show the same, or not the same."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax.types import Whitening

from ._moments import Moments, scatter
from ._whitening import Eigen, check_fit, eigen, noise, shrink, whitening_of

_BLOCK = 8192  # Pairs taken to double precision at a time.


def fit_supervised_whitening(
    vectors: Float[Array | np.ndarray, "n d"],
    matched: Int[Array | np.ndarray, "p 2"],
    unmatched: Int[Array | np.ndarray, "u 2"] | None = None,
    *,
    dim: int,
    shrinkage: float = 0.0,
) -> Whitening:
    r"""Finds the directions along which vectors differ most where matches differ least.

    C_S is the mean over matched pairs of (x_i - x_j)(x_i - x_j)', and C_D the same over
    unmatched pairs. The projection is P = C_S^(-1/2) U, U the eigenvectors of
    C_S^(-1/2) C_D C_S^(-1/2) with the `dim` largest eigenvalues: P' C_S P = I, and
    P' C_D P is diagonal and descending. Vectors mapped by an invertible matrix
    beforehand come out the same up to signs.

    Without unmatched pairs C_D is the mean over *all* vectors of (x - m)(x - m)', m
    their mean, as in the authors' program. Three things differ from that program: its m
    is the mean of the first vectors of the pairs, here it is that of all vectors, also
    in the result; its C_S^(-1/2) is the inverse of a Cholesky factor, which gives the
    same P; and where C_S is singular it adds a growing number to the diagonal, here
    `shrinkage` is asked for. That C_S and C_D are means, not sums, scales all of P
    alike.

    It is computed in double precision, pairs block by block; signs are those of
    `fit_pca_whitening`.

    Args:
        vectors: Vectors of regions or of whole images, of unit length; finite, float32
            or float64; two or more.
        matched: Row numbers (i, j) of vectors of the same thing; see `pairs_of_labels`.
        unmatched: Row numbers of vectors of different things; None takes all vectors.
        dim: Number of dimensions kept, at least 1; more than d gives d. Where C_D has
            fewer that are not zero the others come last, in an order of no meaning.
        shrinkage: s in [0, 1], which puts (1 - s) C_S + s (tr(C_S)/d) I in the place of
            C_S; above 0 for differences that do not span all d dimensions, such as
            those of fewer than d pairs.

    Returns:
        The whitening, with the mean of all vectors, in their type.

    Raises:
        ValueError: If a pair is not two different rows of the vectors, there are none,
            or none differ; C_S is singular and `shrinkage` 0; or as
            `fit_pca_whitening`.

    References:
        Radenovic, Tolias and Chum, CNN image retrieval learns from BoW: unsupervised
        fine-tuning with hard examples, ECCV 2016, https://arxiv.org/abs/1604.02426.
        Cited without a number; their program, cirtorch/utils/whiten.py of
        https://github.com/filipradenovic/cnnimageretrieval-pytorch, was read.
        Mikolajczyk and Matas, Improving descriptors for fast tree matching by optimal
        linear projection, ICCV 2007, cited from the former.
        For the shrinkage see `fit_pca_whitening`.
    """
    own = check_fit(vectors, dim=dim, shrinkage=shrinkage)
    host = np.asarray(vectors)
    _check_pairs("matched", matched, rows=len(host))
    if unmatched is None:
        between = own.scatter / own.count
    else:
        _check_pairs("unmatched", unmatched, rows=len(host))
        between = _mean_scatter(host, np.asarray(unmatched))
        if not between.trace() > noise(float(between.trace()), own):
            raise ValueError("unmatched must hold vectors that differ, got equal ones.")
    within = eigen(_mean_scatter(host, np.asarray(matched)))
    within = _check_rank(within, own, pairs=len(matched), shrinkage=shrinkage)
    with jax.enable_x64(True):
        projection = np.asarray(_project(within.values, within.vectors, between))
    return whitening_of(own, projection[:, :dim])


def pairs_of_labels(
    labels: Int[Array | np.ndarray, " n"], *, limit: int | None = None, seed: int = 0
) -> Int[np.ndarray, "p 2"]:
    """Lists pairs of vectors with the same label.

    Args:
        labels: What each vector shows.
        limit: Most pairs, at least 1: of more, that many are drawn, each pair as likely
            as any other and none twice. None takes all: c (c - 1) / 2 for a label of c
            vectors.
        seed: Of the draws; the same seed gives the same pairs.

    Returns:
        Row numbers (i, j) with i < j, int32, ordered by label, then by i and j; none
        where all labels differ.

    Raises:
        ValueError: If `limit` is below 1 or labels are not whole numbers, one a row.
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
    # Pairs are numbered by place of their first vector in the order, then of the other.
    starts = np.concatenate([[0], np.cumsum(ends - np.arange(len(host)) - 1)])
    if limit is None or limit >= starts[-1]:
        number = np.arange(starts[-1])
    else:
        rng = np.random.default_rng(seed)
        number = np.sort(rng.choice(starts[-1], limit, replace=False, shuffle=False))
    first = np.searchsorted(starts, number, side="right") - 1
    second = first + 1 + number - starts[first]
    return np.stack([order[first], order[second]], 1).astype(np.int32)


def _check_pairs(
    name: str, pairs: Int[Array | np.ndarray, "p 2"], *, rows: int
) -> None:
    """Refuses what does not name two different rows, naming the first bad pair."""
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
    same = np.flatnonzero(host[:, 0] == host[:, 1])
    if same.size:
        raise ValueError(
            f"{name} must pair different vectors, got {host[same[0]].tolist()} in row "
            f"{same[0]}."
        )


def _check_rank(within: Eigen, own: Moments, *, pairs: int, shrinkage: float) -> Eigen:
    """Refuses differences of matches that have no inverse; shrinks the others."""
    values = within.values
    rank = int((values > noise(float(values[0]), own)).sum())
    if rank == 0:
        raise ValueError(f"matched must hold vectors that differ, got {pairs} equal.")
    if shrinkage:
        return within._replace(values=shrink(values, shrinkage))
    if rank < len(values):
        raise ValueError(
            f"matched must give differences of rank {len(values)}, the vectors' "
            f"dimension, got {rank} from {pairs} pairs: give more, or set shrinkage "
            "above 0."
        )
    return within


def _mean_scatter(
    vectors: Float[np.ndarray, "n d"], pairs: Int[np.ndarray, "p 2"]
) -> Float[np.ndarray, "d d"]:
    """The mean over pairs of (x_i - x_j)(x_i - x_j)'."""
    total = np.zeros((vectors.shape[1],) * 2)
    for start in range(0, len(pairs), _BLOCK):
        first, second = pairs[start : start + _BLOCK].T
        total += scatter(vectors[first], vectors[second])
    return total / len(pairs)


@jax.jit
def _project(values, vectors, between):
    """C_S^(-1/2) U, largest eigenvalue first, from C_S decomposed and C_D."""
    highest = jax.lax.Precision.HIGHEST
    scaled = vectors / jnp.sqrt(values)[None, :]
    root = jnp.matmul(scaled, vectors.T, precision=highest)
    inner = jnp.matmul(
        root, jnp.matmul(between, root, precision=highest), precision=highest
    )
    return jnp.matmul(root, jnp.linalg.eigh(inner)[1], precision=highest)[:, ::-1]
