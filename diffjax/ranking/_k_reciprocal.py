"""Re-ranking by k-reciprocal encoding: how much the neighbourhoods of two images share.

Everything is about one set: the m images of the database and, in place m, one query.
Its encodings are made once without the query; each query then changes the few rows
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

# Rows that are compared or encoded at a time.
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
    r"""Scores images by 1 - (1 - lam) J(q, x) - lam d(q, x), J over k-reciprocal sets.

    In the set of all images and one query, with s the inner product of global
    descriptors and N_k(p) the k nearest of p and p itself:

        d(p, g)  = (1 - s(p, g)) / max_h (1 - s(p, h)),
        R_k(p)   = {g in N_k(p): p in N_k(g)},
        R*(p)    = R_k1(p) and every R_h(c), h = k1 / 2 rounded, c in R_k1(p), with
                   |R_h(c) and R_k1(p)| > 2/3 |R_h(c)|,
        V_p      = exp(-d(p, g)) over g in R*(p), 0 elsewhere, divided by its sum,
        W_p      = mean of V over the first k2 of N(p), p itself being the first,
        J(p, g)  = 1 - sum min(W_p, W_g) / sum max(W_p, W_g).

    This is the authors' program for descriptors of unit length, where d is the squared
    distance as that program scales it, but for one thing: there all queries of a run
    are in the set at once, so that an answer depends on the other queries. Here each
    query comes alone. Ties go by lower index, the query last.

    Neighbour lists are [m, k1 + 1] and made by JAX; encodings are sparse matrices of
    SciPy, on the host, and nothing is m x m. So the function cannot be traced, and it
    has no gradient: the sets are discrete.

    Args:
        vectors: Region vectors of the database, unit length.
        image_ids: Image of every region, from 0 upwards.
        queries: Region vectors of the queries.
        query_ids: Query of every row of `queries`, from 0 upwards.
        num_images: Number of images m; None to read it from `image_ids`.
        num_queries: Number of queries q; None to read it from `query_ids`.
        k1: Neighbours that are encoded, at least 1; all where there are fewer.
        k2: Neighbours whose encodings are averaged, at least 1, which averages none.
        lam: Share of the original distance, in [0, 1]; 1 is k-NN.

    Returns:
        Image scores in [0, 1], one column per query; 0 for an image, and for all images
        of a query, without regions.

    Raises:
        ValueError: If ids go back or skip a number, dimensions differ, a count is too
            small, `k1` or `k2` is below 1, `lam` is outside [0, 1], or anything is
            traced.

    References:
        Zhong, Zheng, Cao and Li, Re-ranking person re-identification with k-reciprocal
        encoding, CVPR 2017, https://arxiv.org/abs/1701.08398; read from the authors'
        program, https://github.com/zhunzhong07/person-re-ranking, and cited without
        equation numbers, as the paper was not at hand.
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
    images = global_descriptors(vectors, image_ids, num_images=counts["num_images"])
    wanted = global_descriptors(queries, query_ids, num_images=counts["num_queries"])
    # Images without regions are nobody's neighbours.
    kept = np.flatnonzero(np.asarray(images).any(1))
    scores = np.zeros((images.shape[0], wanted.shape[0]), images.dtype)
    if kept.size:
        database = _encode_database(images[kept], k1=k1, k2=k2)
        similar = np.asarray(_inner_products(images[kept], wanted))
        descriptors = np.asarray(wanted)
        for query in np.flatnonzero(descriptors.any(1)):
            found = _score_query(
                database, descriptors[query], similar[:, query], lam=lam
            )
            scores[kept, query] = found
    return jnp.asarray(scores)


class _NeighborSets(NamedTuple):
    """What the encoding of any row of the set is made from.

    Attributes:
        descriptors: Descriptors of the images, then of the query.
        neighbor_lists: Every row's nearest, itself first; -1 in empty slots.
        max_distances: Largest 1 - s of every row.
        k1: Neighbours that are encoded.
    """

    descriptors: Float[np.ndarray, "m+1 d"]
    neighbor_lists: Int[np.ndarray, "m+1 w"]
    max_distances: Float[np.ndarray, " m+1"]
    k1: int


class _EncodedDatabase(NamedTuple):
    """A database encoded without a query; the query's row and column are empty.

    Attributes:
        sets: Its sets.
        similarities: Of its lists, infinite for a row itself, -inf in empty slots.
        encoded: V, by rows.
        averaged: W, by columns.
        k2: Neighbours whose encodings are averaged.
    """

    sets: _NeighborSets
    similarities: Float[np.ndarray, "m w"]
    encoded: scipy.sparse.csr_array
    averaged: scipy.sparse.csc_array
    k2: int


def _encode_database(
    images: Float[Array, "m d"], *, k1: int, k2: int
) -> _EncodedDatabase:
    m = images.shape[0]
    # A query has all m images as neighbours at most.
    width = min(max(k1 + 1, k2), m + 1)
    found = _nearest_images(images, width=min(width, m))
    neighbor_lists, similarities, lowest = (np.asarray(part) for part in found)
    missing = ((0, 0), (0, width - neighbor_lists.shape[1]))
    neighbor_lists = np.pad(neighbor_lists, missing, constant_values=-1)
    similarities = np.pad(similarities, missing, constant_values=-np.inf)
    sets = _NeighborSets(
        descriptors=np.pad(np.asarray(images), ((0, 1), (0, 0))),
        neighbor_lists=np.pad(neighbor_lists, ((0, 1), (0, 0)), constant_values=-1),
        max_distances=np.append(1 - lowest, np.zeros(1, lowest.dtype)),
        k1=k1,
    )
    encoded = _encode_rows(np.arange(m), sets)
    terms = neighbor_lists[:, :k2]
    averaged = _averaging_matrix(terms, m, (terms >= 0).sum(1)) @ encoded
    return _EncodedDatabase(
        sets, similarities, encoded, scipy.sparse.csc_array(averaged), k2
    )


@functools.partial(jax.jit, static_argnames="width")
def _nearest_images(images, *, width):
    """Every image's nearest, itself first, and the lowest of all its similarities."""
    m = images.shape[0]

    def find(node):
        products = jnp.matmul(images, images[node], precision=jax.lax.Precision.HIGHEST)
        own = jnp.arange(m) == node
        best = jax.lax.top_k(jnp.where(own, jnp.inf, products), width)
        return best[1], best[0], jnp.min(products)

    return jax.lax.map(find, jnp.arange(m), batch_size=min(_BLOCK_ROWS, m))


@jax.jit
def _inner_products(images, wanted):
    return jnp.matmul(images, wanted.T, precision=jax.lax.Precision.HIGHEST)


def _score_query(
    database: _EncodedDatabase,
    query: Float[np.ndarray, " d"],
    similar: Float[np.ndarray, " m"],
    *,
    lam: float,
) -> Float[np.ndarray, " m"]:
    m = len(similar)
    sets, affected = _insert_query(database, query, similar)
    changed = np.flatnonzero(affected)
    averaged = np.flatnonzero(affected[sets.neighbor_lists[:, : database.k2]].any(1))
    # Rows of V stand in two matrices: those that changed, and the old ones.
    place = np.full(m + 1, -1)
    place[changed] = np.arange(len(changed))
    terms = sets.neighbor_lists[averaged, : database.k2]
    new = np.where(terms >= 0, place[terms], -1)
    old = np.where(new >= 0, -1, terms)
    count = (terms >= 0).sum(1)
    renewed = _averaging_matrix(new, len(changed), count) @ _encode_rows(changed, sets)
    kept = _averaging_matrix(old, m, count) @ database.encoded
    rows = scipy.sparse.csr_array(renewed + kept)
    # The query is the last of all rows, and always among those that changed.
    own = scipy.sparse.csr_array(rows[[-1]])
    weights = np.zeros(m + 1, own.dtype)
    weights[own.indices] = own.data
    # sum min over the images that the query did not change, then over the others.
    columns = scipy.sparse.csc_array(database.averaged[:, own.indices])
    smaller = np.minimum(columns.data, np.repeat(own.data, np.diff(columns.indptr)))
    shared = np.bincount(columns.indices, weights=smaller, minlength=m)
    smaller = np.minimum(rows.data, weights[rows.indices])
    by_row = np.repeat(np.arange(len(averaged)), np.diff(rows.indptr))
    again = np.bincount(by_row, weights=smaller, minlength=len(averaged))
    shared[averaged[:-1]] = again[:-1]
    # Both sum to 1, so that sum max is 2 - sum min.
    jaccard = 1 - shared / (2 - shared)
    distance = _scaled_distances(similar, np.full(m, m), sets)
    return np.clip(1 - (1 - lam) * jaccard - lam * distance, 0, 1)


def _insert_query(
    database: _EncodedDatabase,
    query: Float[np.ndarray, " d"],
    similar: Float[np.ndarray, " m"],
) -> tuple[_NeighborSets, Bool[np.ndarray, " m+1"]]:
    """Puts a query into the lists; also which rows of V that can change."""
    sets, m, dtype = database.sets, len(similar), database.sets.neighbor_lists.dtype
    width = sets.neighbor_lists.shape[1]
    neighbor_lists = sets.neighbor_lists.copy()
    nearest = np.argsort(-similar, kind="stable")[: width - 1]
    neighbor_lists[m, 0], neighbor_lists[m, 1 : 1 + len(nearest)] = m, nearest
    entered = np.flatnonzero(similar > database.similarities[:, -1])
    before = (database.similarities[entered] >= similar[entered, None]).sum(1)
    slots = np.arange(width)[None, :]
    row, place = neighbor_lists[entered], before[:, None]
    later = np.pad(row[:, :-1], ((0, 0), (1, 0)))
    row = np.where(slots > place, later, row)
    neighbor_lists[entered] = np.where(slots == place, np.asarray(m, dtype), row)
    # R*(p) depends on the lists of p, of its neighbours, and of theirs.
    affected = np.zeros(m + 1, bool)
    affected[entered] = affected[m] = True
    for _ in range(2):
        affected |= affected[neighbor_lists[:, : sets.k1 + 1]].any(1)
    far = np.append(1 - similar, (1 - similar).max()).astype(sets.max_distances.dtype)
    farther = far > sets.max_distances
    max_distances = np.maximum(far, sets.max_distances)
    # In place: a copy of all points would cost more than the rest of a query.
    sets.descriptors[m] = query
    return sets._replace(
        neighbor_lists=neighbor_lists, max_distances=max_distances
    ), affected | farther


def _scaled_distances(
    similar: Float[np.ndarray, " e"], rows: Int[np.ndarray, " e"], sets: _NeighborSets
) -> Float[np.ndarray, " e"]:
    """(1 - s) over the largest of the row; 0 where that is no more than rounding."""
    least = np.sqrt(sets.descriptors.shape[1]) * 4 * np.finfo(similar.dtype).eps
    apart = sets.max_distances > least
    scale = np.where(apart, sets.max_distances, np.ones_like(sets.max_distances))
    differ = np.maximum(1 - similar, 0)
    return np.where(apart[rows], differ, np.zeros_like(differ)) / scale[rows]


def _encode_rows(
    nodes: Int[np.ndarray, " r"], sets: _NeighborSets
) -> scipy.sparse.csr_array:
    """V of some rows, [r, m + 1]."""
    blocks = [
        _encode_block(nodes[start : start + _BLOCK_ROWS], sets)
        for start in range(0, len(nodes), _BLOCK_ROWS)
    ]
    return scipy.sparse.csr_array(scipy.sparse.vstack(blocks, format="csr"))


def _encode_block(nodes, sets):
    columns = np.sort(
        _expanded_reciprocal_sets(nodes, sets.neighbor_lists, sets.k1), axis=1
    )
    kept = columns >= 0
    kept[:, 1:] &= columns[:, 1:] != columns[:, :-1]
    row, columns = np.nonzero(kept)[0], columns[kept]
    similar = np.einsum(
        "ed,ed->e", sets.descriptors[nodes[row]], sets.descriptors[columns]
    )
    weights = np.exp(-_scaled_distances(similar, nodes[row], sets))
    starts = np.append(0, np.cumsum(kept.sum(1)))
    # No row is empty: each holds itself.
    weights /= np.add.reduceat(weights, starts[:-1])[row]
    shape = (len(nodes), len(sets.descriptors))
    return scipy.sparse.csr_array((weights, columns, starts), shape=shape)


def _expanded_reciprocal_sets(
    nodes: Int[np.ndarray, " r"], neighbor_lists: Int[np.ndarray, "s w"], k1: int
) -> Int[np.ndarray, "r c"]:
    """R* of some rows, in any order, some members several times; -1 is none."""
    full, half = neighbor_lists[:, : k1 + 1], neighbor_lists[:, : round(k1 / 2) + 1]
    near = np.where(_reciprocal_mask(nodes, full), full[nodes], -1)
    others, place = np.unique(near, return_inverse=True)
    sets = np.where(_reciprocal_mask(others, half), half[others], -1)
    sets = np.where(near[..., None] >= 0, sets[place.reshape(near.shape)], -1)
    inside = (sets[..., None] == near[:, None, None, :]).any(-1) & (sets >= 0)
    enough = 3 * inside.sum(-1) > 2 * (sets >= 0).sum(-1)
    added = np.where(enough[..., None], sets, -1)
    return np.concatenate([near, added.reshape(len(nodes), -1)], axis=1)


def _reciprocal_mask(
    nodes: Int[np.ndarray, " r"], neighbor_lists: Int[np.ndarray, "s w"]
) -> Bool[np.ndarray, "r w"]:
    """Which entries of the lists of some rows have the row in theirs."""
    near = neighbor_lists[nodes]
    return (neighbor_lists[near] == nodes[:, None, None]).any(-1) & (near >= 0)


def _averaging_matrix(
    terms: Int[np.ndarray, "r k"], size: int, count: Int[np.ndarray, " r"]
) -> scipy.sparse.csr_array:
    """The matrix that takes 1 / count of each of some rows; -1 is none."""
    row, slot = np.nonzero(terms >= 0)
    where = (row, terms[row, slot])
    return scipy.sparse.csr_array((1 / count[row], where), shape=(len(terms), size))
