"""Spectral ranking: leading eigenvectors of a graph, and scores from them alone."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_in_range, is_concrete
from diffjax.graph import check_graph
from diffjax.types import Graph, Scalar

from ._cg import column_norms, safe_divisor
from ._matvec import multiply
from ._query import check_seeds

# Products with S between two checks of the eigenvectors.
_FILTER_DEGREE = 20


class SpectralBasis(NamedTuple):
    """Leading eigenvectors of S, from `leading_eigenvectors`.

    Attributes:
        values: Eigenvalues, largest first, at most 1.
        vectors: Eigenvectors, one per column, orthonormal.
        residual: |S v - value v| of each; S has an eigenvalue within this distance.
    """

    values: Float[Array, " m"]
    vectors: Float[Array, "n m"]
    residual: Float[Array, " m"]


def leading_eigenvectors(
    graph: Graph,
    rank: int,
    *,
    tol: float = 1e-3,
    max_rounds: int = 30,
    seed: int = 0,
) -> SpectralBasis:
    r"""Finds the eigenvectors of S with the largest eigenvalues; not under jit.

    Filtered subspace iteration: in each round, a Chebyshev polynomial of S that is
    small on [-1, a] and grows beyond is applied to a block of columns, the block is
    orthonormalised, and S is diagonalised in it (Rayleigh-Ritz); a is the smallest
    eigenvalue of the block. A block is needed because every component of the graph has
    an eigenvalue 1, and an iteration from one vector sees only one of them.

    Args:
        graph: The normalised graph S, in either form; the compressed form is faster.
        rank: Number of eigenvectors, 1 to n. A Python number.
        tol: Largest `SpectralBasis.residual` at which to stop. A Python number; 1e-3 is
            small enough for `diffuse`, and single precision reaches about 1e-6.
        max_rounds: Largest number of rounds, of 20 products each; reaching it is not an
            error, see `SpectralBasis.residual`. A Python number.
        seed: Seed of the random initial block. A Python number.

    Returns:
        The eigenvectors, for `diffuse` and `spectral_scores`.

    Raises:
        ValueError: If `rank` is outside 1..n, `tol` outside (0, 1), `max_rounds` below
            1, or the graph is traced or is not normalised.

    References:
        Zhou, Saad, Tiago and Chelikowsky, Self-consistent-field calculations using
        Chebyshev-filtered subspace iteration, J. Comput. Phys. 219(1), 2006.
    """
    n = graph.num_nodes
    if not 1 <= rank <= n:
        raise ValueError(f"rank must be in 1..{n} (n), got {rank}.")
    check_in_range("tol", tol, low=0, high=1)
    if max_rounds < 1:
        raise ValueError(f"max_rounds must be at least 1, got {max_rounds}.")
    if not all(is_concrete(leaf) for leaf in jax.tree.leaves(graph)):
        raise ValueError(
            "graph must be concrete, got a traced one: find its eigenvectors outside "
            "of compiled code, and pass them in."
        )
    if graph.degrees is None:
        raise ValueError(
            "graph must be normalised, got one without degrees: give it to normalize."
        )
    check_graph("graph", graph)
    # More columns than are asked for: the last columns of a block converge last.
    width = min(rank + rank // 8 + 8, n)
    shape = n, width
    start = jax.random.normal(jax.random.key(seed), shape, graph.weights.dtype)
    block = _rayleigh_ritz(graph, _orthonormalize(start))
    for _ in range(max_rounds):
        if width == n or float(block.residual[:rank].max()) <= tol:
            break
        filtered = _chebyshev_filter(graph, block.vectors, block.values[-1])
        block = _rayleigh_ritz(graph, _orthonormalize(filtered))
    return SpectralBasis(
        jnp.minimum(block.values[:rank], 1),
        block.vectors[:, :rank],
        block.residual[:rank],
    )


def _matmul_highest(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _orthonormalize(x: Array) -> Array:
    """Makes an orthonormal basis of columns that may be nearly dependent.

    The eigenvectors of their inner products, used twice, are five times as fast as QR.
    """
    for _ in range(2):
        x = x / safe_divisor(column_norms(x))
        values, rotation = jnp.linalg.eigh(_matmul_highest(x.T, x))
        values = jnp.maximum(values, jnp.finfo(x.dtype).eps * values[-1])
        x = _matmul_highest(x, rotation / jnp.sqrt(values)[None, :])
    return x


@jax.jit
def _rayleigh_ritz(graph: Graph, x: Array) -> SpectralBasis:
    """Finds the eigenvectors of S in the space of orthonormal columns."""
    sx = multiply(graph, x)
    values, rotation = jnp.linalg.eigh(_matmul_highest(x.T, sx))
    values, rotation = values[::-1], rotation[:, ::-1]
    vectors, sx = _matmul_highest(x, rotation), _matmul_highest(sx, rotation)
    residual = jnp.linalg.norm(sx - vectors * values[None, :], axis=0)
    return SpectralBasis(values, vectors, residual)


@jax.jit
def _chebyshev_filter(graph: Graph, x: Array, upper: Array) -> Array:
    """Applies T_20 of S, with [-1, upper] mapped to [-1, 1], divided by its value at 1.

    The division is done step by step, because the polynomial itself overflows.
    """
    centre, width = (upper - 1) / 2, (upper + 1) / 2

    def multiply_mapped(x):
        return (multiply(graph, x) - centre * x) / width

    first_ratio = width / (1 - centre)  # 1 / T_1 at 1.

    def next_chebyshev_term(_, carry):
        previous, current, ratio = carry
        new_ratio = 1 / (2 / first_ratio - ratio)
        following = (
            2 * new_ratio * multiply_mapped(current) - ratio * new_ratio * previous
        )
        return current, following, new_ratio

    carry = x, first_ratio * multiply_mapped(x), first_ratio
    return jax.lax.fori_loop(1, _FILTER_DEGREE, next_chebyshev_term, carry)[1]


def spectral_guess(
    basis: SpectralBasis, alpha: Float[Array, "1 q"], y: Float[Array, "n q"]
) -> Float[Array, "n q"]:
    """Computes the solution in the space of a basis: y + V ((I - aL)^-1 - I) V' y.

    Args:
        basis: Eigenvectors.
        alpha: How far scores spread.
        y: Right-hand sides.

    Returns:
        Scores, exact for y in the space of the basis, and y itself if it is orthogonal
        to that space.
    """
    vectors = basis.vectors.astype(y.dtype)
    return y + _matmul_highest(
        vectors, _spectral_gain(basis, alpha) * _matmul_highest(y.T, vectors).T
    )


def _spectral_gain(
    basis: SpectralBasis, alpha: Float[Array, "1 q"]
) -> Float[Array, "m q"]:
    """Computes the gain of (I - alpha S)^-1 - I per eigenvalue v: a v / (1 - a v)."""
    scaled = basis.values.astype(alpha.dtype)[:, None] * alpha
    return scaled / (1 - scaled)


def spectral_scores(
    basis: SpectralBasis,
    nodes: Int[Array | np.ndarray, "q s"],
    values: Float[Array | np.ndarray, "q s"],
    *,
    alpha: Scalar = 0.99,
) -> Float[Array, "n q"]:
    r"""Computes scores of all nodes from eigenvectors, without graph and iterations.

        f = y + V ((I - alpha Lambda)^-1 - I) V' y,

    which is (I - alpha S)^-1 y with all eigenvalues of S outside the basis replaced by
    0. With exact eigenvectors, lambda being the last eigenvalue, the error is at most
    max(alpha lambda / (1 - alpha lambda), alpha / (1 + alpha)) |y|, and 0 for a
    complete basis. `diffuse(basis=..., max_steps=0)` gives the same scores, with
    their residual. Differentiable in alpha and the values.

    Args:
        basis: Eigenvectors of `leading_eigenvectors`.
        nodes: Nodes where the right-hand side of each query is not 0, such as its
            nearest neighbours, padded with -1. A repeated node adds up.
        values: Right-hand sides at these nodes, such as similarities after `kernel`.
        alpha: How far scores spread, in [0, 1); may be traced and differentiated.

    Returns:
        Scores of all nodes, one column per query. The scores of a node need only its
        row of V.

    Raises:
        ValueError: If `alpha` is outside [0, 1), sizes do not match, or a node is not
            in the graph.

    References:
        Iscen, Avrithis, Tolias, Furon and Chum, Fast Spectral Ranking for Similarity
        Search, CVPR 2018, https://arxiv.org/abs/1703.06935.
    """
    check_in_range("alpha", alpha, low=0, high=1, closed_low=True)
    check_seeds(nodes, values, num_nodes=basis.vectors.shape[0])
    return _spectral_scores(basis, nodes, values, alpha)


@jax.jit
def _spectral_scores(basis, nodes, values, alpha):
    dtype, n = basis.vectors.dtype, basis.vectors.shape[0]
    is_node = (nodes >= 0) & (nodes < n)
    values = jnp.where(is_node, jnp.asarray(values, dtype), jnp.zeros((), dtype))
    rows = basis.vectors[jnp.maximum(nodes, 0)]
    coefficients = jnp.einsum(
        "qs,qsm->mq", values, rows, precision=jax.lax.Precision.HIGHEST
    )
    alpha = jnp.full((1, nodes.shape[0]), jnp.asarray(alpha, dtype))
    scores = _matmul_highest(basis.vectors, _spectral_gain(basis, alpha) * coefficients)
    columns = jnp.arange(nodes.shape[0])[:, None]
    return scores.at[jnp.where(is_node, nodes, n), columns].add(values, mode="drop")
