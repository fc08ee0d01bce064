"""Types that stages exchange: neighbour lists, graphs, solutions, results.

Dimension letters of all annotations in the package: n region vectors in the database, m
images, d dimensions, k neighbours, e stored edges, q queries, r regions of all queries
together, t results per query.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes
from jaxtyping import Array, Bool, Float, Int

from diffjax._arguments import check_not_downcast

if TYPE_CHECKING:  # Slow to import, and not needed to search in a saved index.
    import scipy.sparse
    from jax.experimental import sparse

# A setting that may be learned: a Python number, or a scalar array, traced or not.
Scalar = float | Float[Array | np.ndarray, ""]


class Neighbors(NamedTuple):
    """Lists of the k nearest vectors of every vector, most similar first.

    Attributes:
        indices: Numbers of the neighbours, including the vector itself, -1 in empty
            slots.
        similarities: Their inner products, 0 in empty slots.
    """

    indices: Int[Array, "n k"]
    similarities: Float[Array, "n k"]


class Graph(NamedTuple):
    """Weighted undirected graph on n nodes, in one of two forms.

    *Padded*: `indices` and `weights` are [n, k], and row i holds the neighbours of node
    i, with index -1 and weight 0 in empty slots. Shapes depend on n and k only, so this
    form can be built, batched and differentiated inside compiled code.

    *Compressed*: `indices` and `weights` are [e], the rows one after the other, and row
    i is `starts[i]:starts[i + 1]`. Memory is edges, not n x k; `compress` makes it.

    Every edge is stored in both directions, with the same weight.

    Attributes:
        indices: Column of each stored entry.
        weights: Weight of each stored entry, at least 0.
        starts: Start of each row in the compressed form; None in the padded form.
        degrees: Row sums of the affinity that `normalize` divided by; None before.
    """

    indices: Int[Array, "n k"] | Int[Array, " e"]
    weights: Float[Array, "n k"] | Float[Array, " e"]
    starts: Int[Array, " n+1"] | None = None
    degrees: Float[Array, " n"] | None = None

    @property
    def num_nodes(self) -> int:
        """Number of nodes n."""
        if self.starts is None:
            return self.indices.shape[0]
        return self.starts.shape[0] - 1

    @property
    def rows(self) -> Int[Array, "n k"] | Int[Array, " e"]:
        """Row of each stored entry, in the shape of `indices`."""
        nodes = jnp.arange(self.num_nodes, dtype=self.indices.dtype)
        if self.starts is None:
            return jnp.broadcast_to(nodes[:, None], self.indices.shape)
        size = self.indices.shape[0]
        return jnp.repeat(nodes, jnp.diff(self.starts), total_repeat_length=size)

    def to_scipy(self) -> "scipy.sparse.csr_array":
        """Copies the graph to the host as a SciPy matrix, without its zero entries."""
        import scipy.sparse  # noqa: PLC0415  # Slow, and seldom needed.

        columns, weights = np.asarray(self.indices), np.asarray(self.weights)
        nodes = np.arange(self.num_nodes, dtype=columns.dtype)
        if self.starts is None:
            rows = np.broadcast_to(nodes[:, None], columns.shape)
        else:
            rows = np.repeat(nodes, np.diff(np.asarray(self.starts)))
        is_edge = (columns >= 0) & (weights != 0)
        return scipy.sparse.csr_array(
            (weights[is_edge], (rows[is_edge], columns[is_edge])),
            shape=(self.num_nodes,) * 2,
        )

    def to_bcoo(self) -> "sparse.BCOO":
        """Converts the graph to JAX's coordinate matrix; empty slots become zeros."""
        from jax.experimental import sparse  # noqa: PLC0415  # Slow to import.

        rows, columns = self.rows.reshape(-1), self.indices.reshape(-1)
        return sparse.BCOO(
            (self.weights.reshape(-1), jnp.stack([rows, jnp.maximum(columns, 0)], 1)),
            shape=(self.num_nodes,) * 2,
        )

    @classmethod
    def from_scipy(
        cls, matrix: "scipy.sparse.sparray | scipy.sparse.spmatrix"
    ) -> "Graph":
        """Makes the compressed form of a symmetric, non-negative SciPy matrix.

        Args:
            matrix: Square, symmetric, floating point, finite, non-negative, with a zero
                diagonal. It is not modified.

        Returns:
            The graph.

        Raises:
            ValueError: If the matrix has none of these properties, or more entries than
                `row_starts` can count.
        """
        import scipy.sparse  # noqa: PLC0415  # Slow, and seldom needed.

        csr = scipy.sparse.csr_array(matrix, copy=True)
        rows, columns = csr.shape or (0, 0)
        if rows != columns:
            raise ValueError(f"matrix must be square, got {rows} x {columns}.")
        if not np.issubdtype(csr.dtype, np.floating):
            raise ValueError(f"matrix must be of floating point, got {csr.dtype}.")
        check_not_downcast("matrix", csr.data)
        csr.sum_duplicates()
        csr.eliminate_zeros()
        if not np.isfinite(csr.data).all():
            raise ValueError("matrix must be finite, got NaN or infinite weights.")
        if csr.data.size and csr.data.min() < 0:
            raise ValueError(f"matrix must be non-negative, got {csr.data.min()}.")
        if csr.diagonal().any():
            raise ValueError("matrix must have a zero diagonal, got self-loops.")
        if (csr != csr.T).nnz:
            raise ValueError(
                "matrix must be symmetric, got weights that differ by up to "
                f"{abs(csr - csr.T).max():.3g} between the two directions."
            )
        return cls(
            indices=jnp.asarray(csr.indices.astype(np.int32)),
            weights=jnp.asarray(csr.data),
            starts=row_starts(csr.indptr),
        )


def row_starts(
    starts: np.ndarray, *, sharding: jax.sharding.Sharding | None = None
) -> Int[Array, " starts"]:
    """Puts row starts on the device, in the narrowest integer type that holds them.

    Args:
        starts: Start of each row of a compressed matrix, and the end: n + 1 numbers. On
            a processor they are not copied if they have that type already.
        sharding: Target device; None for the default device.

    Returns:
        The row starts in int32 or, from 2^31 entries on, in int64.

    Raises:
        ValueError: If they need 64 bits and jax_enable_x64 is off.
    """
    check_countable(int(starts[-1]))
    if starts[-1] <= np.iinfo(np.int32).max:
        return jax.device_put(starts.astype(np.int32, copy=False), sharding)
    return jax.device_put(starts.astype(np.int64, copy=False), sharding)


def check_countable(edges: int) -> None:
    """Checks that a number of stored edges fits the integers of JAX.

    Raises:
        ValueError: If it needs 64 bits and jax_enable_x64 is off.
    """
    counts_in_32_bits = dtypes.canonicalize_dtype(np.int64) != np.int64
    if counts_in_32_bits and edges > np.iinfo(np.int32).max:
        raise ValueError(
            f"graph must have fewer than 2^31 stored edges here, got {edges}: use a "
            "smaller k, or turn on jax_enable_x64 to count beyond."
        )


class Solution(NamedTuple):
    """Solution of a diffusion, one entry per query.

    Attributes:
        value: f = (I - alpha S)^-1 y, one column per query.
        residual: Relative residual |y - (I - alpha S) f| / |y|; 0 where y is 0.
        num_steps: Iterations spent on each query; -1 where the solver reports none.
        converged: Whether `residual` reached the tolerance. Twenty steps rarely reach
            it, but ranks are right long before.
    """

    value: Float[Array, "n q"]
    residual: Float[Array, " q"]
    num_steps: Int[Array, " q"]
    converged: Bool[Array, " q"]


class Whitening(NamedTuple):
    """Whitening x -> (x - mean) projection, fitted on vectors or read with a network.

    Attributes:
        mean: Mean of the vectors that it was fitted on.
        projection: Directions, one per column, with the scale of the whitening.
    """

    mean: Float[Array, " d"]
    projection: Float[Array, "d p"]


class SearchResult(NamedTuple):
    """Best images of every query.

    Attributes:
        images: Image numbers, best first.
        scores: Their pooled scores, in the units of the diffusion's right-hand side.
        solution: The diffusion that the scores are pooled from: a `Solution` on all
            regions, or a `LocalSolution` on those that a query reaches.
        regions: Region of each image that contributes most to its score, which locates
            the object; -1 if no region contributes.
        ids: For each query the ids of its images, as the index was given them,
            without empty slots; None outside of an index.
    """

    images: Int[Array, "q t"]
    scores: Float[Array, "q t"]
    solution: Any
    regions: Int[Array, "q t"]
    ids: Any = None
