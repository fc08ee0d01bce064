"""Labels of queries: query tables, splits by object, positives mined without labels."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Bool, Float, Int
from scipy.sparse.csgraph import connected_components

from diffjax._arguments import check_ids

from ._problem import LearningProblem, QueryDescriptors


class LabelledQueries(NamedTuple):
    """Queries and what is right for them.

    Attributes:
        queries: Their regions.
        positives: Right images of each query.
        used: Images that count for each query: not junk, not its own picture.
        objects: What each query shows; empty where that is not known.
    """

    queries: QueryDescriptors
    positives: Bool[Array | np.ndarray, "m q"]
    used: Bool[Array | np.ndarray, "m q"]
    objects: tuple[str, ...] = ()


class QueryTable(NamedTuple):
    """The queries that ask something, made ready to be drawn from.

    Attributes:
        vectors: For every view the regions of all queries.
        rows: Which of them are a query's, -1 in places that are left over.
        positives: Right images, one row per query.
        used: Images that count, one row per query.
        numbers: Which queries they are among those that were given.
    """

    vectors: tuple[Float[Array, "r _"], ...]
    rows: Int[Array, "q s"]
    positives: Bool[Array, "q m"]
    used: Bool[Array, "q m"]
    numbers: Int[Array, " q"]


class RelevanceLists(NamedTuple):
    """Right and ignored images per query, as `evaluate` takes them.

    Attributes:
        positives: Right answers.
        junk: Answers that do not count.
    """

    positives: Sequence[Int[np.ndarray, " _"]]
    junk: Sequence[Int[np.ndarray, " _"]]


def make_query_table(
    name: str, labelled: LabelledQueries, problem: LearningProblem
) -> QueryTable:
    """Checks labelled queries and leaves out those that ask nothing.

    Args:
        name: What the caller calls them.
        labelled: The queries, concrete.
        problem: The collection.

    Raises:
        ValueError: If shapes contradict the collection, or no query has both a positive
            and a negative.
    """
    ids = np.asarray(labelled.queries.query_ids)
    positives, used = np.asarray(labelled.positives), np.asarray(labelled.used)
    count = positives.shape[1]
    images = int(np.asarray(problem.image_ids)[-1]) + 1
    check_ids(f"{name}.query_ids", ids, rows=labelled.queries.vectors[0].shape[0])
    if ids.size and ids[-1] + 1 != count:
        raise ValueError(
            f"{name}.positives must have one column per query, {ids[-1] + 1}, got "
            f"{count}."
        )
    if positives.shape != (images, count) or used.shape != positives.shape:
        raise ValueError(
            f"{name} must have positives and used of shape [{images}, {count}], the "
            f"images of the collection, got {list(positives.shape)} and "
            f"{list(used.shape)}: are the labels those of another index?"
        )
    if labelled.objects and len(labelled.objects) != count:
        raise ValueError(
            f"{name}.objects must be one per query, {count}, got "
            f"{len(labelled.objects)}."
        )
    right = positives & used
    numbers = np.flatnonzero(right.any(0) & (~right & used).any(0))
    if not numbers.size:
        raise ValueError(
            f"{name} must have a query with a positive and a negative image, got none "
            f"among {count}."
        )
    starts, ends = np.searchsorted(ids, numbers), np.searchsorted(ids, numbers + 1)
    slots = np.arange((ends - starts).max())
    rows = starts[:, None] + slots
    rows = np.where(rows < ends[:, None], rows, -1)
    return QueryTable(
        vectors=tuple(jnp.asarray(each) for each in labelled.queries.vectors),
        rows=jnp.asarray(rows, jnp.int32),
        positives=jnp.asarray(right[:, numbers].T),
        used=jnp.asarray(used[:, numbers].T),
        numbers=jnp.asarray(numbers, jnp.int32),
    )


def images_of_objects(*labelled: LabelledQueries) -> dict[str, Int[np.ndarray, " _"]]:
    """Lists the images that show an object, if they are two or more.

    Args:
        labelled: Queries with objects; several are put together.

    Returns:
        By the object's name, sorted, the images that are right for any of its queries.
    """
    shown: dict[str, np.ndarray] = {}
    for each in labelled:
        positives = np.asarray(each.positives)
        for query, name in enumerate(each.objects):
            shown[name] = (
                shown.get(name, np.zeros(len(positives), bool)) | (positives[:, query])
            )
    images = {name: np.flatnonzero(shown[name]) for name in sorted(shown)}
    return {name: each for name, each in images.items() if each.size > 1}


def split_query_table(
    table: QueryTable, fold_ids: Int[np.ndarray, " q"]
) -> tuple[QueryTable, ...]:
    """Splits the queries of a table; all parts have one shape.

    Args:
        table: The table.
        fold_ids: Part of every query, from 0 upwards, each with one at least.

    Returns:
        The parts. Places that are left over ask nothing and have no positive.
    """
    size = int(np.bincount(fold_ids).max())

    def part(number):
        own = np.flatnonzero(fold_ids == number)
        chosen = np.pad(own, (0, size - own.size))
        real = jnp.arange(size)[:, None] < own.size
        return table._replace(
            rows=jnp.where(real, table.rows[chosen], -1),
            positives=table.positives[chosen] & real,
            used=table.used[chosen] & real,
            numbers=table.numbers[chosen],
        )

    return tuple(part(number) for number in range(int(fold_ids.max()) + 1))


def select_queries(table: QueryTable, chosen: Int[Array, " b"]) -> QueryDescriptors:
    """Takes some queries out of a table, in a shape that depends on their number only.

    Args:
        table: The table.
        chosen: Rows of it; -1 is no query, and gets a column of zeros.

    Returns:
        Their regions. Rows that are left over belong to a query past the last.
    """
    count = chosen.shape[0]
    rows = table.rows[jnp.maximum(chosen, 0)]
    rows = jnp.where(chosen[:, None] >= 0, rows, -1)
    owner = jnp.arange(count, dtype=jnp.int32)[:, None]
    ids = jnp.where(rows >= 0, owner, count).reshape(-1)
    there = jnp.maximum(rows, 0).reshape(-1)
    return QueryDescriptors(tuple(each[there] for each in table.vectors), ids)


def relevance_lists(table: QueryTable) -> RelevanceLists:
    """Lists what is right and what is ignored for every query of a table."""
    return RelevanceLists(
        [np.flatnonzero(row) for row in np.asarray(table.positives)],
        [np.flatnonzero(~row) for row in np.asarray(table.used)],
    )


# Of the objects to learn on, those that choose and stop are one in so many.
_HELD_OUT_ONE_IN = 4


class QuerySplit(NamedTuple):
    """Which queries learn, which choose and which test; each is in one part.

    Attributes:
        train: Queries whose loss has a gradient.
        held_out: Queries that tell when to stop and which settings are best.
        test: Queries that nothing is chosen on.
    """

    train: Bool[np.ndarray, " q"]
    held_out: Bool[np.ndarray, " q"]
    test: Bool[np.ndarray, " q"]


def split_by_object(
    objects: Sequence[str], *, splits: int = 10, seed: int = 0
) -> tuple[QuerySplit, ...]:
    """Splits queries by object, never by query alone.

    Two queries for one object are not independent: one in training and one in the test
    would show how well an object is remembered, not how well others are found. So all
    queries of an object are in one part. The rule, for split i of 0, 1, 2, ...: the
    sorted list of different objects is put in the order of
    `np.random.default_rng(seed + i).permutation`. The first half of it, the smaller
    where the number is odd, is to learn on, the rest is the test. Of that first half a
    quarter, rounded down but at least one, its first ones, are held out; the others
    train. Pictures of the database are not split: all are searched in every part.

    Args:
        objects: What each query shows.
        splits: Number of splits, at least 1.
        seed: Seed of the first split; the others follow it.

    Returns:
        The splits.

    Raises:
        ValueError: If there are fewer than four different objects (two to learn on are
            the fewest that can be split again), or `splits` or `seed` is too small.

    Example:
        >>> (split,) = split_by_object(["a", "a", "b", "c", "d"], splits=1)
        >>> [int(part.sum()) for part in split]
        [2, 1, 2]
    """
    if splits < 1:
        raise ValueError(f"splits must be at least 1, got {splits}.")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}.")
    names, number = np.unique(np.asarray(objects, dtype=object), return_inverse=True)
    if names.size < 2 * 2:
        raise ValueError(
            "objects must be at least 4 different ones, 2 to learn on (1 of them held "
            f"out) and 2 to test on, got {names.size}: {', '.join(map(str, names))}."
        )
    learning = names.size // 2
    held_out = max(1, learning // _HELD_OUT_ONE_IN)
    made = []
    for i in range(splits):
        order = np.random.default_rng(seed + i).permutation(names.size)
        place = np.argsort(order)[number.reshape(-1)]
        made.append(
            QuerySplit(
                train=(place >= held_out) & (place < learning),
                held_out=place < held_out,
                test=place >= learning,
            )
        )
    return tuple(made)


def hold_out_objects(
    objects: Sequence[str], *, seed: int = 0
) -> Bool[np.ndarray, " q"]:
    """Draws a quarter of the objects, rounded down but at least one, to stop by.

    Args:
        objects: What each query shows.
        seed: Of the draw from the sorted list of different objects.

    Returns:
        Which queries are held out.

    Raises:
        ValueError: If there are fewer than two different objects.
    """
    names = sorted(set(objects))
    if len(names) < 2:
        raise ValueError(
            "objects must be at least 2, one to learn from and one to stop by, got "
            f"{len(names)}."
        )
    drawn = np.random.default_rng(seed).permutation(len(names))
    away = {names[i] for i in drawn[: max(1, len(names) // _HELD_OUT_ONE_IN)]}
    return np.array([name in away for name in objects])


def average_over_splits(
    precision: Sequence[Float[np.ndarray, " q"]], splits: Sequence[QuerySplit]
) -> Float[np.ndarray, " q"]:
    """Takes for each query the mean over the splits in which it was tested.

    A query is tested in about half of the splits, so what comes out is not of
    independent numbers: give it to `evaluation.paired_bootstrap` with the objects as
    `groups`, once, not once per split.

    Args:
        precision: Per split the average precision of all queries; what it holds for
            queries that were not tested is not looked at.
        splits: The splits.

    Returns:
        One number per query; NaN where it was never tested, or is NaN wherever it was.

    Raises:
        ValueError: If there is not one array per split, with one number per query.
    """
    if len(precision) != len(splits) or not splits:
        raise ValueError(
            f"precision must have one array per split, {len(splits)} of them and at "
            f"least 1, got {len(precision)}."
        )
    queries = splits[0].test.shape
    for values, split in zip(precision, splits, strict=True):
        if not values.shape == split.test.shape == queries:
            raise ValueError(
                f"precision must have one number per query, {queries[0]}, got "
                f"{values.shape} for a split of {split.test.shape}."
            )
    values = np.stack(precision)
    counted = np.stack([split.test for split in splits]) & ~np.isnan(values)
    number = counted.sum(0)
    total = np.where(counted, values, 0).sum(0)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


NeighborLists = Int[np.ndarray | Array, "m _"]


class MinedLabels(NamedTuple):
    """Images as queries, with what is taken for their right answers.

    Attributes:
        query_images: Which images of the database are the queries, ascending.
        positives: Right answers of each query.
        used: Images that count: not the query itself, nothing uncertain.
        objects: What stands in for the object of each query: the name of the set of
            images that it reaches from positive to positive. Queries of one set share
            answers; see `split_by_object`.
    """

    query_images: Int[np.ndarray, " q"]
    positives: Bool[np.ndarray, "m q"]
    used: Bool[np.ndarray, "m q"]
    objects: tuple[str, ...]


def mine_positives(
    views: Sequence[NeighborLists],
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
    _check_views(tables, k, max_queries)
    m = len(tables[0])
    agreed = None
    listed = scipy.sparse.csr_array((m, m), dtype=bool)
    for table in tables:
        near = _listing_matrix(table[:, :k], m)
        mutual = near.multiply(near.T)
        agreed = mutual if agreed is None else agreed.multiply(mutual)
        whole = _listing_matrix(table, m)
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


def _without_self(table: NeighborLists, view: int) -> Int[np.ndarray, "m _"]:
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


def _check_views(tables: list[np.ndarray], k: int, max_queries: int | None) -> None:
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


def _listing_matrix(table: Int[np.ndarray, "m _"], m: int) -> scipy.sparse.csr_array:
    """Who lists whom, a matrix of m x m with only the entries that are there."""
    row, place = np.nonzero(table >= 0)
    where = (row, table[row, place])
    return scipy.sparse.csr_array((np.ones(row.size, bool), where), shape=(m, m))
