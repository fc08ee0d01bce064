"""Leading eigenvectors of a graph, found beforehand, and what they answer alone."""

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

# Products between two looks at how good the eigenvectors are.
_FILTER_DEGREE = 20


class SpectralBasis(NamedTuple):
    """Leading eigenvectors of S, from `leading_eigenvectors`.

    Attributes:
        values: Their eigenvalues, the largest first, at most 1.
        vectors: One per column, orthogonal and of size 1.
        residual: |S v - value v| of each; an eigenvalue of S is as near to its value.
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
    r"""Finds the eigenvectors of S with the largest eigenvalues, on the host's time.

    Subspace iteration, filtered: in turns, a Chebyshev polynomial of S that is small on
    [-1, a] and grows beyond is applied to a block of columns, the block is made
    orthogonal, and S is diagonalised in it (Rayleigh-Ritz); a is the smallest value of
    the block. A block, because each component of the graph has an eigenvalue 1 of its
    own, and an iteration from one vector sees one of them.

    Args:
        graph: The normalised graph S, in either form; the compressed form is faster.
        rank: How many, 1 to n. A Python number.
        tol: Largest `SpectralBasis.residual` at which to stop. A Python number; 1e-3 is
            as good as any for `diffuse`, and single precision reaches some 1e-6.
        max_rounds: Most turns, of 20 products each; reaching it is not an error, see
            `SpectralBasis.residual`. A Python number.
        seed: Of the block to start from. A Python number.

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
    # More columns than are asked for: the last of a block are the last to be right.
    width = min(rank + rank // 8 + 8, n)
    shape = n, width
    start = jax.random.normal(jax.random.key(seed), shape, graph.weights.dtype)
    block = _rayleigh_ritz(graph, _orthonormalize(start))
    for _ in range(max_rounds):
        if width == n or float(block.residual[:rank].max()) <= tol:
            break
        spread = _chebyshev_filter(graph, block.vectors, block.values[-1])
        block = _rayleigh_ritz(graph, _orthonormalize(spread))
    found = SpectralBasis(
        block.values[:rank], block.vectors[:, :rank], block.residual[:rank]
    )
    return found._replace(values=jnp.minimum(found.values, 1))


def _matmul_highest(one: Array, other: Array) -> Array:
    return jnp.matmul(one, other, precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _orthonormalize(x: Array) -> Array:
    """An orthonormal basis of columns that may be nearly dependent.

    By the eigenvectors of their inner products, twice: five times as fast as QR.
    """
    for _ in range(2):
        x = x / safe_divisor(column_norms(x))
        values, turn = jnp.linalg.eigh(_matmul_highest(x.T, x))
        least = jnp.finfo(x.dtype).eps * values[-1]
        x = _matmul_highest(x, turn / jnp.sqrt(jnp.maximum(values, least))[None, :])
    return x


@jax.jit
def _rayleigh_ritz(graph: Graph, x: Array) -> SpectralBasis:
    """Rayleigh-Ritz: eigenvectors of S in the space of orthonormal columns."""
    spread = multiply(graph, x)
    values, turn = jnp.linalg.eigh(_matmul_highest(x.T, spread))
    values, turn = values[::-1], turn[:, ::-1]
    vectors, spread = _matmul_highest(x, turn), _matmul_highest(spread, turn)
    rest = jnp.linalg.norm(spread - vectors * values[None, :], axis=0)
    return SpectralBasis(values, vectors, rest)


@jax.jit
def _chebyshev_filter(graph: Graph, x: Array, above: Array) -> Array:
    """T_20 of S mapped so that [-1, above] becomes [-1, 1], divided by its value at 1.

    Divided step by step, as powers of a growing number would not fit.
    """
    centre, width = (above - 1) / 2, (above + 1) / 2

    def mapped(x):
        return (multiply(graph, x) - centre * x) / width

    first = width / (1 - centre)  # 1 / T_1 at 1.

    def step(_, carry):
        before, now, ratio = carry
        new = 1 / (2 / first - ratio)
        return now, 2 * new * mapped(now) - ratio * new * before, new

    carry = x, first * mapped(x), first
    return jax.lax.fori_loop(1, _FILTER_DEGREE, step, carry)[1]


def spectral_guess(
    basis: SpectralBasis, alpha: Float[Array, "1 q"], y: Float[Array, "n q"]
) -> Float[Array, "n q"]:
    """The answer that a basis gives: y + V ((I - alpha Lambda)^-1 - I) V' y.

    Args:
        basis: Eigenvectors.
        alpha: How far scores spread.
        y: Right-hand sides.

    Returns:
        Scores; exact where y is in the space of the basis, and y where it is
        orthogonal to it.
    """
    vectors = basis.vectors.astype(y.dtype)
    return y + _matmul_highest(
        vectors, _spectral_gain(basis, alpha) * _matmul_highest(y.T, vectors).T
    )


def _spectral_gain(
    basis: SpectralBasis, alpha: Float[Array, "1 q"]
) -> Float[Array, "m q"]:
    """What (I - alpha S)^-1 adds to each eigenvector: alpha v / (1 - alpha v)."""
    scaled = basis.values.astype(alpha.dtype)[:, None] * alpha
    return scaled / (1 - scaled)


def spectral_scores(
    basis: SpectralBasis,
    nodes: Int[Array | np.ndarray, "q s"],
    values: Float[Array | np.ndarray, "q s"],
    *,
    alpha: Scalar = 0.99,
) -> Float[Array, "n q"]:
    r"""Scores of all nodes from eigenvectors alone, without the graph and iterations.

        f = y + V ((I - alpha Lambda)^-1 - I) V' y,

    which is (I - alpha S)^-1 y with 0 for all eigenvalues of S that are not in the
    basis. With exact eigenvectors and lambda the last of their values the error is at
    most max(alpha lambda / (1 - alpha lambda), alpha / (1 + alpha)) |y|, and none where
    the basis is complete. `diffuse(basis=..., max_steps=0)` gives the same scores, with
    their residual. Differentiable in alpha and the values.

    Args:
        basis: From `leading_eigenvectors`.
        nodes: Nodes where the right-hand side of each query is not 0, such as its
            nearest neighbours; -1 in empty places. What is named twice adds up.
        values: Right-hand sides there, such as similarities that `kernel` has raised.
        alpha: How far scores spread, in [0, 1); may be traced and differentiated.

    Returns:
        Scores of all nodes, one column per query. A node's scores need its own row of V
        only.

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
    here = (nodes >= 0) & (nodes < n)
    values = jnp.where(here, jnp.asarray(values, dtype), jnp.zeros((), dtype))
    rows = basis.vectors[jnp.maximum(nodes, 0)]
    known = jnp.einsum("qs,qsm->mq", values, rows, precision=jax.lax.Precision.HIGHEST)
    alpha = jnp.full((1, nodes.shape[0]), jnp.asarray(alpha, dtype))
    scores = _matmul_highest(basis.vectors, _spectral_gain(basis, alpha) * known)
    columns = jnp.arange(nodes.shape[0])[:, None]
    return scores.at[jnp.where(here, nodes, n), columns].add(values, mode="drop")
