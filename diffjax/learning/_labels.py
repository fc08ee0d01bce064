"""Labels of queries: query tables, splits by object, positives mined without labels."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Bool, Float, Int
from scipy.sparse.csgraph import connected_components

from diffjax._arguments import check_ids

from ._training_graphs import QueryDescriptors, TrainingGraphs


class LabelledQueries(NamedTuple):
    """Queries with relevance labels.

    Attributes:
        queries: Regions of the queries.
        positives: Relevant images of each query.
        used: Images that count for each query: not junk, not its own picture.
        objects: Name of the object that each query shows; empty if not known.
    """

    queries: QueryDescriptors
    positives: Bool[Array | np.ndarray, "m q"]
    used: Bool[Array | np.ndarray, "m q"]
    objects: tuple[str, ...] = ()


class QueryTable(NamedTuple):
    """Table of usable queries, which have a positive and a negative image.

    Attributes:
        vectors: For every view the regions of all queries.
        rows: Rows of a query's regions in `vectors`, -1 in padding.
        positives: Relevant images, one row per query.
        used: Images that count, one row per query.
        numbers: Number of each query among those that were given.
    """

    vectors: tuple[Float[Array, "r _"], ...]
    rows: Int[Array, "q s"]
    positives: Bool[Array, "q m"]
    used: Bool[Array, "q m"]
    numbers: Int[Array, " q"]


class RelevanceLists(NamedTuple):
    """Relevant and ignored images per query, as `evaluate` takes them.

    Attributes:
        positives: Relevant images.
        junk: Images that do not count.
    """

    positives: Sequence[Int[np.ndarray, " _"]]
    junk: Sequence[Int[np.ndarray, " _"]]


def make_query_table(
    name: str, labelled: LabelledQueries, training_graphs: TrainingGraphs
) -> QueryTable:
    """Makes the table of usable queries, and validates labels against the collection.

    Args:
        name: Name of the argument, for errors.
        labelled: Labelled queries, concrete.
        training_graphs: The collection with its graphs.

    Returns:
        The queries that have a positive and a negative image.

    Raises:
        ValueError: If shapes contradict the collection, or no query has both a positive
            and a negative.
    """
    ids = np.asarray(labelled.queries.query_ids)
    positives, used = np.asarray(labelled.positives), np.asarray(labelled.used)
    num_queries = positives.shape[1]
    num_images = int(np.asarray(training_graphs.image_ids)[-1]) + 1
    check_ids(f"{name}.query_ids", ids, rows=labelled.queries.vectors[0].shape[0])
    if ids.size and ids[-1] + 1 != num_queries:
        raise ValueError(
            f"{name}.positives must have one column per query, {ids[-1] + 1}, got "
            f"{num_queries}."
        )
    if positives.shape != (num_images, num_queries) or used.shape != positives.shape:
        raise ValueError(
            f"{name} must have positives and used of shape [{num_images}, "
            f"{num_queries}], the images of the collection, got "
            f"{list(positives.shape)} and {list(used.shape)}: are the labels those of "
            "another index?"
        )
    if labelled.objects and len(labelled.objects) != num_queries:
        raise ValueError(
            f"{name}.objects must be one per query, {num_queries}, got "
            f"{len(labelled.objects)}."
        )
    relevant = positives & used
    query_numbers = np.flatnonzero(relevant.any(0) & (~relevant & used).any(0))
    if not query_numbers.size:
        raise ValueError(
            f"{name} must have a query with a positive and a negative image, got none "
            f"among {num_queries}."
        )
    starts, ends = (
        np.searchsorted(ids, query_numbers),
        np.searchsorted(ids, query_numbers + 1),
    )
    slots = np.arange((ends - starts).max())
    rows = starts[:, None] + slots
    rows = np.where(rows < ends[:, None], rows, -1)
    return QueryTable(
        vectors=tuple(
            jnp.asarray(view_vectors) for view_vectors in labelled.queries.vectors
        ),
        rows=jnp.asarray(rows, jnp.int32),
        positives=jnp.asarray(relevant[:, query_numbers].T),
        used=jnp.asarray(used[:, query_numbers].T),
        numbers=jnp.asarray(query_numbers, jnp.int32),
    )


def images_of_objects(*labelled: LabelledQueries) -> dict[str, Int[np.ndarray, " _"]]:
    """Images of each object that is shown by two images or more.

    Args:
        labelled: Labelled queries with objects; several are joined.

    Returns:
        By the object's name, sorted, the numbers of the images that are relevant for
        any of its queries.
    """
    relevance: dict[str, np.ndarray] = {}
    for labels in labelled:
        positives = np.asarray(labels.positives)
        for query, name in enumerate(labels.objects):
            relevance[name] = (
                relevance.get(name, np.zeros(len(positives), bool))
                | (positives[:, query])
            )
    images = {name: np.flatnonzero(relevance[name]) for name in sorted(relevance)}
    return {name: numbers for name, numbers in images.items() if numbers.size > 1}


def split_query_table(
    table: QueryTable, fold_ids: Int[np.ndarray, " q"]
) -> tuple[QueryTable, ...]:
    """Splits the queries of a table into folds of one shape.

    Args:
        table: The table.
        fold_ids: Fold of every query, from 0 upwards; no fold is empty.

    Returns:
        The folds. Padding rows have no region and no positive.
    """
    size = int(np.bincount(fold_ids).max())

    def select_fold(fold_number):
        fold_rows = np.flatnonzero(fold_ids == fold_number)
        padded_rows = np.pad(fold_rows, (0, size - fold_rows.size))
        is_query = jnp.arange(size)[:, None] < fold_rows.size
        return table._replace(
            rows=jnp.where(is_query, table.rows[padded_rows], -1),
            positives=table.positives[padded_rows] & is_query,
            used=table.used[padded_rows] & is_query,
            numbers=table.numbers[padded_rows],
        )

    return tuple(
        select_fold(fold_number) for fold_number in range(int(fold_ids.max()) + 1)
    )


def select_queries(table: QueryTable, query_rows: Int[Array, " b"]) -> QueryDescriptors:
    """Selects queries of a table, in a shape that depends on their number only.

    Args:
        table: The table.
        query_rows: Rows of the table; -1 is padding, and gets a column of zeros.

    Returns:
        Regions of the queries. Padding rows belong to a query past the last.
    """
    count = query_rows.shape[0]
    rows = table.rows[jnp.maximum(query_rows, 0)]
    rows = jnp.where(query_rows[:, None] >= 0, rows, -1)
    columns = jnp.arange(count, dtype=jnp.int32)[:, None]
    ids = jnp.where(rows >= 0, columns, count).reshape(-1)
    row_indices = jnp.maximum(rows, 0).reshape(-1)
    return QueryDescriptors(
        tuple(vectors[row_indices] for vectors in table.vectors), ids
    )


def relevance_lists(table: QueryTable) -> RelevanceLists:
    """Lists the relevant and the ignored images for every query of a table."""
    return RelevanceLists(
        [np.flatnonzero(row) for row in np.asarray(table.positives)],
        [np.flatnonzero(~row) for row in np.asarray(table.used)],
    )


# One in so many of the objects to learn on is held out, to choose and to stop.
_HELD_OUT_ONE_IN = 4


class QuerySplit(NamedTuple):
    """Split of queries into training, held-out and test queries, without overlap.

    Attributes:
        train: Queries whose loss is minimised.
        held_out: Queries on which the stopping step and the settings are chosen.
        test: Queries on which nothing is chosen.
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
    queries of an object are in one subset. The rule, for split i of 0, 1, 2, ...: the
    sorted list of different objects is put in the order of
    `np.random.default_rng(seed + i).permutation`. Its first half, the smaller if the
    number is odd, is to learn on, the rest is the test. The first quarter of that half,
    rounded down but at least one object, is held out; the others train. Pictures of the
    database are not split: all are searched for every subset.

    Args:
        objects: Name of the object that each query shows.
        splits: Number of splits, at least 1.
        seed: Seed of the first split; the others follow it.

    Returns:
        The splits.

    Raises:
        ValueError: If there are fewer than four different objects (two to learn on are
            the fewest that can be split again), or `splits` or `seed` is too small.

    Example:
        >>> (split,) = split_by_object(["a", "a", "b", "c", "d"], splits=1)
        >>> [int(mask.sum()) for mask in split]
        [2, 1, 2]
    """
    if splits < 1:
        raise ValueError(f"splits must be at least 1, got {splits}.")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}.")
    names, object_of_query = np.unique(
        np.asarray(objects, dtype=object), return_inverse=True
    )
    if names.size < 2 * 2:
        raise ValueError(
            "objects must be at least 4 different ones, 2 to learn on (1 of them held "
            f"out) and 2 to test on, got {names.size}: {', '.join(map(str, names))}."
        )
    num_learning = names.size // 2
    num_held_out = max(1, num_learning // _HELD_OUT_ONE_IN)
    query_splits = []
    for i in range(splits):
        order = np.random.default_rng(seed + i).permutation(names.size)
        object_position = np.argsort(order)[object_of_query.reshape(-1)]
        query_splits.append(
            QuerySplit(
                train=(object_position >= num_held_out)
                & (object_position < num_learning),
                held_out=object_position < num_held_out,
                test=object_position >= num_learning,
            )
        )
    return tuple(query_splits)


def hold_out_objects(
    objects: Sequence[str], *, seed: int = 0
) -> Bool[np.ndarray, " q"]:
    """Draws the held-out objects: a quarter of all, rounded down but at least one.

    Args:
        objects: Name of the object that each query shows.
        seed: Seed of the draw from the sorted list of different objects.

    Returns:
        Mask of the held-out queries.

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
    held_out = {names[i] for i in drawn[: max(1, len(names) // _HELD_OUT_ONE_IN)]}
    return np.array([name in held_out for name in objects])


def average_over_splits(
    precision: Sequence[Float[np.ndarray, " q"]], splits: Sequence[QuerySplit]
) -> Float[np.ndarray, " q"]:
    """Averages the precision of each query over the splits in which it was tested.

    A query is tested in about half of the splits, so the results are not independent:
    give them to `evaluation.paired_bootstrap` with the objects as `groups`, once, not
    once per split.

    Args:
        precision: Per split the average precision of all queries; values of queries
            that were not tested are ignored.
        splits: The splits.

    Returns:
        One number per query; NaN if it was never tested, or only with NaN.

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
    is_tested = np.stack([split.test for split in splits]) & ~np.isnan(values)
    num_tested = is_tested.sum(0)
    total = np.where(is_tested, values, 0).sum(0)
    return np.where(num_tested > 0, total / np.maximum(num_tested, 1), np.nan)


NeighborLists = Int[np.ndarray | Array, "m _"]


class MinedLabels(NamedTuple):
    """Labels mined without annotation, for images as queries.

    Attributes:
        query_images: Numbers of the query images in the database, ascending.
        positives: Mined positives of each query.
        used: Images that count: not the query itself, no uncertain ones.
        objects: Substitute for the object of each query: the name of the connected
            component of its positives. Queries of one component share answers; see
            `split_by_object`.
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
    """Mines positives: pairs of images on which independent views agree.

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
    agreement = None
    listed = scipy.sparse.csr_array((m, m), dtype=bool)
    for table in tables:
        nearest = _listing_matrix(table[:, :k], m)
        mutual = nearest.multiply(nearest.T)
        agreement = mutual if agreement is None else agreement.multiply(mutual)
        listing = _listing_matrix(table, m)
        listed = listed + listing + listing.T
    agreement = scipy.sparse.csr_array(agreement, dtype=bool)
    agreement.eliminate_zeros()
    listed = scipy.sparse.csr_array(listed, dtype=bool)
    # All images but the query itself and the listed ones are negatives.
    num_positives, num_negatives = (
        np.diff(agreement.indptr),
        m - 1 - np.diff(listed.indptr),
    )
    queries = np.flatnonzero((num_positives > 0) & (num_negatives > 0))
    if queries.size == 0:
        raise ValueError(
            f"views must agree on a pair of images, got none within k = {k} that "
            "leaves a negative: take a larger k, or views that are less different."
        )
    if max_queries is not None and queries.size > max_queries:
        rng = np.random.default_rng(seed)
        queries = np.sort(rng.choice(queries, max_queries, replace=False))
    positives = agreement[queries].toarray().T
    used = positives | ~listed[queries].toarray().T
    used[queries, np.arange(queries.size)] = False
    _, component = connected_components(agreement, directed=False)
    objects = tuple(f"set {number}" for number in component[queries])
    return MinedLabels(queries, positives, used, objects)


def _without_self(table: NeighborLists, view: int) -> Int[np.ndarray, "m _"]:
    """Removes each image from its own neighbour list, and moves the others up."""
    if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
        raise ValueError(
            f"views must be matrices of image numbers, got {table.dtype} "
            f"{list(table.shape)} for view {view}."
        )
    is_self = table == np.arange(len(table))[:, None]
    # A stable sort by "is it empty" keeps the order of the others.
    others = np.where(is_self, -1, table)
    return np.take_along_axis(
        others, np.argsort(others < 0, axis=1, kind="stable"), axis=1
    )


def _check_views(tables: list[np.ndarray], k: int, max_queries: int | None) -> None:
    """Refuses views that are no neighbour lists, or not of the same images."""
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
            invalid_number = table[(table < -1) | (table >= m)][0]
            raise ValueError(
                f"views must hold image numbers, 0 to {m - 1}, or -1, got "
                f"{invalid_number} in view {view}."
            )
        rows = np.sort(table, axis=1)
        is_repeated = (rows[:, 1:] == rows[:, :-1]) & (rows[:, 1:] >= 0)
        if is_repeated.any():
            image, column = np.argwhere(is_repeated)[0]
            raise ValueError(
                f"views must list an image once, got {rows[image, column]} twice for "
                f"image {image} in view {view}."
            )
        for earlier_view in range(view):
            if np.array_equal(table, tables[earlier_view]):
                raise ValueError(
                    "views must be independent, got the same lists for views "
                    f"{earlier_view} and {view}."
                )


def _listing_matrix(table: Int[np.ndarray, "m _"], m: int) -> scipy.sparse.csr_array:
    """Sparse m x m matrix of neighbour lists: True where row i lists image j."""
    row, column = np.nonzero(table >= 0)
    coordinates = (row, table[row, column])
    return scipy.sparse.csr_array((np.ones(row.size, bool), coordinates), shape=(m, m))
