"""Query vectors: dense right-hand sides Y, and checks of sparse ones."""

import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from diffjax._arguments import (
    check_ids,
    check_in_range,
    check_not_downcast,
    count_ids,
    is_concrete,
)
from diffjax._choices import QueryRule
from diffjax._sharding import check_divisible_rows, distributed_top_k, row_spec
from diffjax.graph import kernel
from diffjax.types import Scalar

# Query regions whose similarities to the whole database are in memory at a time.
_REGIONS_PER_BLOCK = 64


def query_vectors(
    vectors: Float[Array, "n d"],
    queries: Float[Array, "r d"],
    query_ids: Int[Array | np.ndarray, " r"] | None = None,
    *,
    k: int,
    gamma: Scalar = 3.0,
    bias: Scalar = 0.0,
    rule: QueryRule = "paper",
    keep: int | None = None,
    nodes: Int[Array, "q t"] | None = None,
    num_queries: int | None = None,
    where: Bool[Array, " n"] | None = None,
    mesh: Mesh | None = None,
) -> Float[Array, "n q"] | Float[Array, "t q"]:
    r"""Builds the right-hand sides Y of queries that are not in the database.

    Rule "paper": y_i is the sum of s(x_i, z) over those regions z of the query that
    have x_i among their k nearest, s(x, z) = max(x'z - bias, 0)^gamma; then only the k
    largest y_i are kept. Rule "official": the raw similarities x_i'z - bias are summed
    over the same regions and neighbours, the k largest sums are kept, and only those
    are raised to gamma. With one region per query the two agree.

    Args:
        vectors: Database vectors.
        queries: Query vectors, the regions of one query after those of another.
        query_ids: Query of each row of `queries`, ascending from 0; None if every row
            is a query.
        k: Neighbours per region, and entries kept per query if `keep` is None, 1 to n.
            A Python number.
        gamma: Exponent of the kernel, above 0; may be traced and differentiated.
        bias: Number subtracted from each similarity, 0 in the paper; may be traced and
            differentiated.
        rule: Order of sum, cut and power; see above.
        keep: Entries kept per query, at least 1; n keeps all. A Python number.
        nodes: Short list of each query: the vectors that it may use, padded with -1;
            None for all. `k` is then at most t.
        num_queries: Number of queries q; needed where `query_ids` is traced. A query
            without rows gets an all-zero column.
        where: Mask of the rows of `vectors` that are vectors; the others are padding
            and never neighbours. None if there is no padding.
        mesh: Devices, also of other processes, that share the rows of `vectors` and of
            Y; n must be a multiple of their number. A device sends its k nearest
            vectors of every region. None is one device.

    Returns:
        One column per query with at most `keep` entries above zero, in the order of
        the short list if there is one.

    Raises:
        ValueError: If an argument is outside its range, dimensions differ, ids go back
            or skip, `num_queries` is missing under jit, or `nodes` is combined with
            `where` or a mesh.

    References:
        Iscen et al., CVPR 2017, eq. 7 and 8 and section 5.1 (the cut to k),
        https://arxiv.org/abs/1611.05113. "official" follows the authors' release.
    """
    check_in_range("gamma", gamma, low=0, high=float("inf"))
    check_in_range("bias", bias, low=-float("inf"), high=float("inf"))
    check_not_downcast("vectors", vectors)
    check_not_downcast("queries", queries)
    if queries.shape[1] != vectors.shape[1]:
        raise ValueError(
            f"queries must have the database's {vectors.shape[1]} dimensions, got "
            f"{queries.shape[1]}."
        )
    size, letter = (vectors.shape[0], "n") if nodes is None else (nodes.shape[1], "t")
    if not 1 <= k <= size:
        raise ValueError(f"k must be in 1..{size} ({letter}), got {k}.")
    if keep is not None and keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}.")
    if rule not in get_args(QueryRule):
        raise ValueError(f"rule must be one of {get_args(QueryRule)}, got {rule!r}.")
    rows = queries.shape[0]
    ids = np.arange(rows, dtype=np.int32) if query_ids is None else query_ids
    check_ids("query_ids", ids, rows=rows)
    count = count_ids("query_ids", ids, count=num_queries, count_name="num_queries")
    if nodes is not None and nodes.shape[0] != count:
        raise ValueError(
            f"nodes must have one row per query, {count}, got {nodes.shape[0]}."
        )
    if nodes is not None and not (where is None and mesh is None):
        raise ValueError("nodes must be None where rows are padded or on a mesh.")
    if where is not None and where.shape != (size,):
        raise ValueError(
            f"where must have one entry per vector, {size}, got {where.shape}."
        )
    if mesh is not None:
        check_divisible_rows("vectors", vectors, mesh)
    return _query_vectors(
        vectors,
        where,
        (queries, ids.astype(np.int32)),
        (gamma, bias),
        nodes,
        k=k,
        keep=min(keep or k, size),
        rule=rule,
        num_queries=count,
        mesh=mesh,
    )


@functools.partial(
    jax.jit, static_argnames=("k", "keep", "rule", "num_queries", "mesh")
)
def _query_vectors(
    vectors,
    where,
    query_regions,
    kernel_parameters,
    nodes,
    *,
    num_queries,
    mesh,
    **settings,
):
    if num_queries == 0:
        size = vectors.shape[0] if nodes is None else nodes.shape[1]
        return jnp.zeros((size, 0), vectors.dtype)

    def build_rows(vectors, where, query_regions, kernel_parameters):
        return _right_hand_sides(
            *(vectors, where, query_regions, kernel_parameters, nodes),
            num_queries=num_queries,
            mesh=mesh,
            **settings,
        )

    if mesh is not None:
        rows, replicated = row_spec(mesh), PartitionSpec()
        specs = rows, rows, replicated, replicated
        build_rows = jax.shard_map(
            build_rows, mesh=mesh, in_specs=specs, out_specs=rows
        )
    return build_rows(vectors, where, query_regions, kernel_parameters)


def _right_hand_sides(
    vectors,
    where,
    query_regions,
    kernel_parameters,
    nodes,
    *,
    k,
    keep,
    rule,
    num_queries,
    mesh,
):
    """Builds Y, or inside `shard_map` the rows of Y on this device."""
    queries, ids = query_regions
    gamma, bias = kernel_parameters

    def similarity(products):
        return kernel(products, gamma, bias=bias)

    def subtract_bias(products):
        return products - jnp.asarray(bias, products.dtype)

    def similarity_of_sums(sums):
        return kernel(sums, gamma)

    transform_terms, transform_sums = similarity, _identity
    if rule == "official":
        transform_terms, transform_sums = subtract_bias, similarity_of_sums
    size = vectors.shape[0] if nodes is None else nodes.shape[1]
    top = functools.partial(_row_top_k, mesh=mesh)
    total = jnp.zeros_like(vectors, shape=(num_queries, size))
    sums = _sum_region_similarities(
        *(total, vectors, queries, ids),
        nodes=nodes,
        where=where,
        similarity=transform_terms,
        top=functools.partial(top, k=k),
    )
    return transform_sums(_keep_largest(sums, functools.partial(top, k=keep))).T


def _row_top_k(values, *, k, mesh):
    """Finds the k largest of each row and their columns.

    On a mesh the column of an entry of another device is the number of columns here,
    which a scatter drops.
    """
    if mesh is None:
        return jax.lax.top_k(values, k)
    count = values.shape[1]
    best, numbers = distributed_top_k(values, k, mesh)
    columns = numbers - jax.lax.axis_index(mesh.axis_names) * count
    return best, jnp.where((columns >= 0) & (columns < count), columns, count)


def _identity(values):
    return values


def _sum_region_similarities(
    total, vectors, queries, ids, *, nodes, where, similarity, top
):
    """Sums the similarities of the k nearest of each region over the query: [q, n]."""
    num_queries = total.shape[0]
    rows = max(min(_REGIONS_PER_BLOCK, queries.shape[0]), 1)
    num_padding = -queries.shape[0] % rows
    # Padding belongs to a query past the last, which the scatter drops.
    ids = jnp.pad(ids, (0, num_padding), constant_values=num_queries)
    blocks = jnp.pad(queries, ((0, num_padding), (0, 0)))
    blocks = blocks.reshape(-1, rows, queries.shape[1])

    def add_block(total, block):
        regions, owner = block
        products = jnp.matmul(regions, vectors.T, precision=jax.lax.Precision.HIGHEST)
        if nodes is not None:
            listed = nodes[jnp.minimum(owner, num_queries - 1)]
            products = jnp.take_along_axis(products, jnp.maximum(listed, 0), axis=1)
            products = jnp.where(listed >= 0, products, -jnp.inf)
        if where is not None:
            products = jnp.where(where[None], products, -jnp.inf)
        values, columns = top(products)
        # A list of fewer than k vectors leaves entries that are no neighbours.
        is_neighbor = values > -jnp.inf
        terms = similarity(jnp.where(is_neighbor, values, jnp.zeros_like(values)))
        terms = jnp.where(is_neighbor, terms, jnp.zeros_like(terms))
        total = total.at[owner[:, None], columns].add(terms, mode="drop")
        return total, None

    return jax.lax.scan(add_block, total, (blocks, ids.reshape(-1, rows)))[0]


def _keep_largest(y, top):
    """Keeps the largest entries of every row, ties by lower index."""
    values, nodes = top(y)
    rows = jnp.arange(y.shape[0])[:, None]
    return jnp.zeros_like(y).at[rows, nodes].set(values, mode="drop")


def check_seeds(
    nodes: Int[Array | np.ndarray, "q s"],
    values: Float[Array | np.ndarray, "q s"],
    *,
    num_nodes: int,
) -> None:
    """Checks sparse right-hand sides: nodes and values of one shape, nodes in range.

    Args:
        nodes: Nodes of each query, padded with -1.
        values: Right-hand sides at these nodes.
        num_nodes: Number of nodes of the graph.

    Raises:
        ValueError: If shapes differ or a node is not in the graph.
    """
    check_not_downcast("values", values)
    if nodes.ndim != 2 or nodes.shape != values.shape:
        raise ValueError(
            "nodes and values must be [q, s], one row per query, got "
            f"{list(nodes.shape)} and {list(values.shape)}."
        )
    if is_concrete(nodes) and nodes.size:
        # On the host: inside compiled code even operations on constants are traced.
        host = np.asarray(nodes)
        low, high = int(host.min()), int(host.max())
        if not -1 <= low <= high < num_nodes:
            raise ValueError(
                f"nodes must be in -1..{num_nodes - 1}, got {low}..{high}."
            )
