"""Positives without labels: what independent views of a collection agree on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Array, Bool, Int
from scipy.sparse.csgraph import connected_components

Lists = Int[np.ndarray | Array, "m _"]


class MinedLabels(NamedTuple):
    """Images as queries, with what is taken for their right answers.

    Attributes:
        query_images: Which images of the database are the queries, ascending.
        positives: Right answers of each query.
        used: Images that count: not the query itself, nothing uncertain.
        objects: What stands in for the object of each query: the name of the set of
            images that it reaches from positive to positive. Queries of one set share
            answers; see `object_splits`.
    """

    query_images: Int[np.ndarray, " q"]
    positives: Bool[np.ndarray, "m q"]
    used: Bool[np.ndarray, "m q"]
    objects: tuple[str, ...]


def mine_positives(
    views: Sequence[Lists],
    *,
    k: int,
    max_queries: int | None = None,
    seed: int = 0,
) -> MinedLabels:
    """Takes for positives the images that independent views agree on.

    The protocol. A view is a way to find neighbours: descriptors of another network, of
    another scale of the pictures, of another crop. Errors of one view are its own, so a
    pair that all of them find is seldom wrong. Each view lists the nearest images of
    every image, best first; then, for images i and j,

    1. j is a positive of i where in *every* view each is among the first k of the
       other (i itself not counted);
    2. j is uncertain, and not used, where it is no positive but in *some* view one of
       the two is anywhere in the list of the other: lists longer than k keep a safe
       distance between positives and negatives;
    3. j is a negative of i where no view lists the pair at all;
    4. i itself is not used.

    Images that have a positive and a negative are queries. What is learned from them
    must still be judged by labels: agreement is not truth, and views that share their
    errors, such as two crops of one background, agree on those too.

    Args:
        views: Two or more lists, one row of image numbers per image, best first, each
            as long as one likes; -1 is an empty place. An image in its own row is
            passed over.
        k: How many of a row must hold a positive.
        max_queries: Most queries; None for all there are. More are drawn from, without
            favour.
        seed: Seed of the draw.

    Returns:
        The queries and their answers.

    Raises:
        ValueError: If there are fewer than two views or two are the same, sizes differ,
            a number is no image or is twice in a row, `k` or `max_queries` is below 1,
            or the views agree on nothing.
    """
    tables = [_without_self(np.asarray(view), i) for i, view in enumerate(views)]
    _check(tables, k, max_queries)
    m = len(tables[0])
    agreed = None
    listed = scipy.sparse.csr_array((m, m), dtype=bool)
    for table in tables:
        near = _matrix(table[:, :k], m)
        mutual = near.multiply(near.T)
        agreed = mutual if agreed is None else agreed.multiply(mutual)
        whole = _matrix(table, m)
        listed = listed + whole + whole.T
    agreed = scipy.sparse.csr_array(agreed, dtype=bool)
    agreed.eliminate_zeros()
    listed = scipy.sparse.csr_array(listed, dtype=bool)
    # All but the image itself and what is listed is a negative.
    found, negative = np.diff(agreed.indptr), m - 1 - np.diff(listed.indptr)
    queries = np.flatnonzero((found > 0) & (negative > 0))
    if queries.size == 0:
        raise ValueError(
            f"views must agree on a pair of images, got none within k = {k} that "
            "leaves a negative: take a larger k, or views that are less different."
        )
    if max_queries is not None and queries.size > max_queries:
        rng = np.random.default_rng(seed)
        queries = np.sort(rng.choice(queries, max_queries, replace=False))
    positives = agreed[queries].toarray().T
    used = positives | ~listed[queries].toarray().T
    used[queries, np.arange(queries.size)] = False
    _, component = connected_components(agreed, directed=False)
    objects = tuple(f"set {number}" for number in component[queries])
    return MinedLabels(queries, positives, used, objects)


def _without_self(table: Lists, view: int) -> Int[np.ndarray, "m _"]:
    """A list with each image taken out of its own row, the others moved up."""
    if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
        raise ValueError(
            f"views must be matrices of image numbers, got {table.dtype} "
            f"{list(table.shape)} for view {view}."
        )
    own = table == np.arange(len(table))[:, None]
    # A stable sort by "is it empty" keeps the order of the others.
    kept = np.where(own, -1, table)
    return np.take_along_axis(kept, np.argsort(kept < 0, axis=1, kind="stable"), axis=1)


def _check(tables: list[np.ndarray], k: int, max_queries: int | None) -> None:
    """Refuses views that are none or do not belong together."""
    if len(tables) < 2:
        raise ValueError(f"views must be at least 2, got {len(tables)}.")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    if max_queries is not None and max_queries < 1:
        raise ValueError(f"max_queries must be at least 1, got {max_queries}.")
    m = len(tables[0])
    for view, table in enumerate(tables):
        if len(table) != m:
            raise ValueError(
                f"views must be of the same images, {m}, got {len(table)} for view "
                f"{view}."
            )
        if table.size and not -1 <= table.min() <= table.max() < m:
            wrong = table[(table < -1) | (table >= m)][0]
            raise ValueError(
                f"views must hold image numbers, 0 to {m - 1}, or -1, got {wrong} in "
                f"view {view}."
            )
        rows = np.sort(table, axis=1)
        twice = (rows[:, 1:] == rows[:, :-1]) & (rows[:, 1:] >= 0)
        if twice.any():
            image, place = np.argwhere(twice)[0]
            raise ValueError(
                f"views must list an image once, got {rows[image, place]} twice for "
                f"image {image} in view {view}."
            )
        for other in range(view):
            if np.array_equal(table, tables[other]):
                raise ValueError(
                    f"views must be independent, got the same lists for views {other} "
                    f"and {view}."
                )


def _matrix(table: Int[np.ndarray, "m _"], m: int) -> scipy.sparse.csr_array:
    """Who lists whom, a matrix of m x m with only the entries that are there."""
    row, place = np.nonzero(table >= 0)
    where = (row, table[row, place])
    return scipy.sparse.csr_array((np.ones(row.size, bool), where), shape=(m, m))
