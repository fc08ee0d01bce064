"""Re-ranking by k-reciprocal encoding: overlap of the neighbourhoods of two images.

All arrays describe one set: the m images of the database and, with number m, one query.
The database is encoded once without the query; each query then changes the few rows
whose neighbourhoods it enters.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Bool, Float, Int

from diffjax._arguments import is_concrete
from diffjax.regions import global_descriptors

from ._validation import check_scorer_arguments

# Rows compared or encoded at a time.
_BLOCK_ROWS = 256


def k_reciprocal(
    vectors: Float[Array, "n d"],
    image_ids: Int[Array | np.ndarray, " n"],
    queries: Float[Array, "r d"],
    query_ids: Int[Array | np.ndarray, " r"],
    *,
    num_images: int | None = None,
    num_queries: int | None = None,
    k1: int = 20,
    k2: int = 6,
    lam: float = 0.3,
) -> Float[Array, "m q"]:
    r"""Scores images by k-reciprocal encoding: 1 - (1 - lam) J(q, x) - lam d(q, x).

    In the set of all images and one query, with s the inner product of global
    descriptors and N_k(p) the k nearest of p and p itself:

        d(p, g)  = (1 - s(p, g)) / max_h (1 - s(p, h)),
        R_k(p)   = {g in N_k(p): p in N_k(g)},
        R*(p)    = R_k1(p) and every R_h(c), h = k1 / 2 rounded, c in R_k1(p), with
                   |R_h(c) and R_k1(p)| > 2/3 |R_h(c)|,
        V_p      = exp(-d(p, g)) over g in R*(p), 0 elsewhere, divided by its sum,
        W_p      = mean of V over the first k2 of N(p), p itself being the first,
        J(p, g)  = 1 - sum min(W_p, W_g) / sum max(W_p, W_g).

    These are the formulas of the authors' program for descriptors of unit length, where
    d is the squared distance as that program scales it, with one difference: in that
    program all queries of a run are in the set at once, so that an answer depends on
    the other queries. Here every query is alone in the set. Ties are ordered by lower
    index, the query last.

    Neighbour lists are [m, k1 + 1] and computed by JAX; encodings are sparse matrices
    of SciPy, on the host, and no array is m x m. So the function cannot be traced, and
    it has no gradient: the sets are discrete.

    Args:
        vectors: Region vectors of the database, unit length.
        image_ids: Image of every region, from 0 upwards.
        queries: Region vectors of the queries.
        query_ids: Query of every row of `queries`, from 0 upwards.
        num_images: Number of images m; None to read it from `image_ids`.
        num_queries: Number of queries q; None to read it from `query_ids`.
        k1: Number of neighbours that are encoded, at least 1; with fewer images all.
        k2: Number of neighbours whose encodings are averaged, at least 1; 1 averages
            none.
        lam: Weight of the original distance, in [0, 1]; 1 is k-NN.

    Returns:
        Image scores in [0, 1], one column per query; 0 for an image, and for all images
        of a query, without regions.

    Raises:
        ValueError: If ids decrease or skip a number, dimensions differ, a count is too
            small, `k1` or `k2` is below 1, `lam` is outside [0, 1], or an argument is
            traced.

    References:
        Zhong, Zheng, Cao and Li, Re-ranking person re-identification with k-reciprocal
        encoding, CVPR 2017, https://arxiv.org/abs/1701.08398; read from the authors'
        program, https://github.com/zhunzhong07/person-re-ranking, and cited without
        equation numbers, as the paper was not available.
    """
    if not all(map(is_concrete, (vectors, image_ids, queries, query_ids))):
        raise ValueError(
            "vectors, queries and ids must have values, got traced ones: k_reciprocal "
            "runs on the host, call it outside jit."
        )
    counts = check_scorer_arguments(
        vectors,
        image_ids,
        queries,
        query_ids,
        num_images=num_images,
        num_queries=num_queries,
    )
    if k1 < 1:
        raise ValueError(f"k1 must be at least 1, got {k1}.")
    if k2 < 1:
        raise ValueError(f"k2 must be at least 1, got {k2}.")
    if not 0 <= lam <= 1:
        raise ValueError(f"lam must be in [0, 1], got {lam}.")
    images, query_descriptors = (
        np.asarray(global_descriptors(side, ids, num_images=count))
        for side, ids, count in (
            (vectors, image_ids, counts["num_images"]),
            (queries, query_ids, counts["num_queries"]),
        )
    )
    # Images without regions are neighbours of no image.
    with_regions = np.flatnonzero(images.any(1))
    scores = np.zeros((len(images), len(query_descriptors)), images.dtype)
    if with_regions.size:
        images = images[with_regions]
        database = _encode_database(images, k1=k1, k2=k2)
        similarities = np.asarray(_inner_products(images, query_descriptors))
        for query in np.flatnonzero(query_descriptors.any(1)):
            scores[with_regions, query] = _score_query(
                database, query_descriptors[query], similarities[:, query], lam=lam
            )
    return jnp.asarray(scores)


class _NeighborSets(NamedTuple):
    """Descriptors and neighbour lists of the set, from which rows are encoded.

    Attributes:
        descriptors: Descriptors of the images, then of the query.
        neighbor_lists: Nearest rows of every row, itself first; -1 in empty slots.
        max_distances: Largest 1 - s of every row.
        k1: Number of neighbours that are encoded.
    """

    descriptors: Float[np.ndarray, "m+1 d"]
    neighbor_lists: Int[np.ndarray, "m+1 w"]
    max_distances: Float[np.ndarray, " m+1"]
    k1: int


class _EncodedDatabase(NamedTuple):
    """Encodings of a database without a query, whose row and column are empty.

    Attributes:
        sets: Descriptors and neighbour lists.
        similarities: Similarities of the neighbour lists, infinite for a row itself,
            -inf in empty slots.
        encoded: V, by rows.
        averaged: W, by columns.
        k2: Number of neighbours whose encodings are averaged.
    """

    sets: _NeighborSets
    similarities: Float[np.ndarray, "m w"]
    encoded: scipy.sparse.csr_array
    averaged: scipy.sparse.csc_array
    k2: int


def _encode_database(
    images: Float[np.ndarray, "m d"], *, k1: int, k2: int
) -> _EncodedDatabase:
    m = images.shape[0]
    # A query has all m images as neighbours at most.
    width = min(max(k1 + 1, k2), m + 1)
    neighbor_lists, similarities, lowest = map(
        np.asarray, _nearest_images(images, width=min(width, m))
    )
    padding = ((0, 0), (0, width - neighbor_lists.shape[1]))
    neighbor_lists = np.pad(neighbor_lists, padding, constant_values=-1)
    similarities = np.pad(similarities, padding, constant_values=-np.inf)
    sets = _NeighborSets(
        descriptors=np.pad(images, ((0, 1), (0, 0))),
        neighbor_lists=np.pad(neighbor_lists, ((0, 1), (0, 0)), constant_values=-1),
        max_distances=np.append(1 - lowest, np.zeros(1, lowest.dtype)),
        k1=k1,
    )
    encoded = _encode_rows(np.arange(m), sets)
    averaged_rows = neighbor_lists[:, :k2]
    counts = (averaged_rows >= 0).sum(1)
    averaged = _averaging_matrix(averaged_rows, m, counts) @ encoded
    return _EncodedDatabase(
        sets, similarities, encoded, scipy.sparse.csc_array(averaged), k2
    )


@functools.partial(jax.jit, static_argnames="width")
def _nearest_images(images, *, width):
    """Finds the nearest of every image, itself first, and its lowest similarity."""
    m = images.shape[0]

    def find_nearest(image):
        products = jnp.matmul(
            images, images[image], precision=jax.lax.Precision.HIGHEST
        )
        is_self = jnp.arange(m) == image
        nearest = jax.lax.top_k(jnp.where(is_self, jnp.inf, products), width)
        return nearest[1], nearest[0], jnp.min(products)

    return jax.lax.map(find_nearest, jnp.arange(m), batch_size=min(_BLOCK_ROWS, m))


@jax.jit
def _inner_products(images, queries):
    return jnp.matmul(images, queries.T, precision=jax.lax.Precision.HIGHEST)


def _score_query(
    database: _EncodedDatabase,
    query: Float[np.ndarray, " d"],
    similarities: Float[np.ndarray, " m"],
    *,
    lam: float,
) -> Float[np.ndarray, " m"]:
    m = len(similarities)
    sets, is_changed = _insert_query(database, query, similarities)
    changed = np.flatnonzero(is_changed)
    # Rows of W to average again; the query is the last of them.
    updated = np.flatnonzero(is_changed[sets.neighbor_lists[:, : database.k2]].any(1))
    # Rows of V are in two matrices: changed rows in a new one, the others in the old.
    new_position = np.full(m + 1, -1)
    new_position[changed] = np.arange(len(changed))
    neighbors = sets.neighbor_lists[updated, : database.k2]
    in_new = np.where(neighbors >= 0, new_position[neighbors], -1)
    in_old = np.where(in_new >= 0, -1, neighbors)
    counts = (neighbors >= 0).sum(1)
    from_new = _averaging_matrix(in_new, len(changed), counts) @ _encode_rows(
        changed, sets
    )
    from_old = _averaging_matrix(in_old, m, counts) @ database.encoded
    rows = scipy.sparse.csr_array(from_new + from_old)
    query_row = scipy.sparse.csr_array(rows[[-1]])
    weights = np.zeros(m + 1, query_row.dtype)
    weights[query_row.indices] = query_row.data
    # sum min from the old rows of W, then again for the updated rows.
    columns = scipy.sparse.csc_array(database.averaged[:, query_row.indices])
    minima = np.minimum(
        columns.data, np.repeat(query_row.data, np.diff(columns.indptr))
    )
    overlap = np.bincount(columns.indices, weights=minima, minlength=m)
    minima = np.minimum(rows.data, weights[rows.indices])
    row_numbers = np.repeat(np.arange(len(updated)), np.diff(rows.indptr))
    updated_overlap = np.bincount(row_numbers, weights=minima, minlength=len(updated))
    overlap[updated[:-1]] = updated_overlap[:-1]
    # Both rows sum to 1, so that sum max is 2 - sum min.
    jaccard = 1 - overlap / (2 - overlap)
    distance = _scaled_distances(similarities, np.full(m, m), sets)
    return np.clip(1 - (1 - lam) * jaccard - lam * distance, 0, 1)


def _insert_query(
    database: _EncodedDatabase,
    query: Float[np.ndarray, " d"],
    similarities: Float[np.ndarray, " m"],
) -> tuple[_NeighborSets, Bool[np.ndarray, " m+1"]]:
    """Inserts a query into the lists; returns the mask of rows of V that may change."""
    sets, m = database.sets, len(similarities)
    width = sets.neighbor_lists.shape[1]
    neighbor_lists = sets.neighbor_lists.copy()
    nearest = np.argsort(-similarities, kind="stable")[: width - 1]
    neighbor_lists[m, 0], neighbor_lists[m, 1 : 1 + len(nearest)] = m, nearest
    entered = np.flatnonzero(similarities > database.similarities[:, -1])
    rows = neighbor_lists[entered]
    position = (database.similarities[entered] >= similarities[entered, None]).sum(1)
    position = position[:, None]
    slots = np.arange(width)[None, :]
    shifted = np.pad(rows[:, :-1], ((0, 0), (1, 0)))
    rows = np.where(slots > position, shifted, rows)
    neighbor_lists[entered] = np.where(
        slots == position, np.asarray(m, rows.dtype), rows
    )
    # R*(p) depends on the lists of p, of its neighbours, and of theirs.
    is_changed = np.zeros(m + 1, bool)
    is_changed[entered] = is_changed[m] = True
    for _ in range(2):
        is_changed |= is_changed[neighbor_lists[:, : sets.k1 + 1]].any(1)
    distances = np.append(1 - similarities, (1 - similarities).max())
    distances = distances.astype(sets.max_distances.dtype)
    is_farthest = distances > sets.max_distances
    # In place: a copy of all descriptors would cost more than the rest of a query.
    sets.descriptors[m] = query
    with_query = sets._replace(
        neighbor_lists=neighbor_lists,
        max_distances=np.maximum(distances, sets.max_distances),
    )
    return with_query, is_changed | is_farthest


def _scaled_distances(
    similarities: Float[np.ndarray, " e"],
    rows: Int[np.ndarray, " e"],
    sets: _NeighborSets,
) -> Float[np.ndarray, " e"]:
    """Distances (1 - s) / max (1 - s) of the row; 0 where the maximum is rounding."""
    eps = np.finfo(similarities.dtype).eps
    is_apart = sets.max_distances > np.sqrt(sets.descriptors.shape[1]) * 4 * eps
    scale = np.where(is_apart, sets.max_distances, np.ones_like(sets.max_distances))
    distances = np.maximum(1 - similarities, 0)
    return np.where(is_apart[rows], distances, np.zeros_like(distances)) / scale[rows]


def _encode_rows(
    nodes: Int[np.ndarray, " r"], sets: _NeighborSets
) -> scipy.sparse.csr_array:
    """Encodes rows: V, [r, m + 1]."""
    blocks = [
        _encode_block(nodes[start : start + _BLOCK_ROWS], sets)
        for start in range(0, len(nodes), _BLOCK_ROWS)
    ]
    return scipy.sparse.csr_array(scipy.sparse.vstack(blocks, format="csr"))


def _encode_block(nodes, sets):
    columns = np.sort(
        _expanded_reciprocal_sets(nodes, sets.neighbor_lists, sets.k1), axis=1
    )
    is_member = columns >= 0
    is_member[:, 1:] &= columns[:, 1:] != columns[:, :-1]
    rows, columns = np.nonzero(is_member)[0], columns[is_member]
    similarities = np.einsum(
        "ed,ed->e", sets.descriptors[nodes[rows]], sets.descriptors[columns]
    )
    weights = np.exp(-_scaled_distances(similarities, nodes[rows], sets))
    starts = np.append(0, np.cumsum(is_member.sum(1)))
    # No row is empty: every row contains itself.
    weights /= np.add.reduceat(weights, starts[:-1])[rows]
    shape = (len(nodes), len(sets.descriptors))
    return scipy.sparse.csr_array((weights, columns, starts), shape=shape)


def _expanded_reciprocal_sets(
    nodes: Int[np.ndarray, " r"], neighbor_lists: Int[np.ndarray, "s w"], k1: int
) -> Int[np.ndarray, "r c"]:
    """Expanded sets R* of rows, unordered, with duplicates; -1 in empty slots."""
    full, half = neighbor_lists[:, : k1 + 1], neighbor_lists[:, : round(k1 / 2) + 1]
    members = np.where(_reciprocal_mask(nodes, full), full[nodes], -1)
    candidates, inverse = np.unique(members, return_inverse=True)
    half_sets = np.where(_reciprocal_mask(candidates, half), half[candidates], -1)
    half_sets = half_sets[inverse.reshape(members.shape)]
    half_sets = np.where(members[..., None] >= 0, half_sets, -1)
    is_shared = (half_sets[..., None] == members[:, None, None, :]).any(-1)
    num_shared = (is_shared & (half_sets >= 0)).sum(-1)
    is_added = 3 * num_shared > 2 * (half_sets >= 0).sum(-1)
    added = np.where(is_added[..., None], half_sets, -1)
    return np.concatenate([members, added.reshape(len(nodes), -1)], axis=1)


def _reciprocal_mask(
    nodes: Int[np.ndarray, " r"], neighbor_lists: Int[np.ndarray, "s w"]
) -> Bool[np.ndarray, "r w"]:
    """Whether each neighbour of the rows has the row in its own list."""
    nearest = neighbor_lists[nodes]
    return (neighbor_lists[nearest] == nodes[:, None, None]).any(-1) & (nearest >= 0)


def _averaging_matrix(
    averaged_rows: Int[np.ndarray, "r k"], size: int, counts: Int[np.ndarray, " r"]
) -> scipy.sparse.csr_array:
    """Matrix with 1 / count at the columns of the averaged rows; -1 is skipped."""
    row, slot = np.nonzero(averaged_rows >= 0)
    entries = (row, averaged_rows[row, slot])
    shape = (len(averaged_rows), size)
    return scipy.sparse.csr_array((1 / counts[row], entries), shape=shape)
