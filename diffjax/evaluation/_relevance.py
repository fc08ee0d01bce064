"""Relevance labels of a benchmark, their validation, and the ranks of positives."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Int

ImageNumbers = Int[np.ndarray, " _"] | Sequence[int]


@runtime_checkable
class RelevanceLabels(Protocol):
    """Relevance labels of a benchmark: positives and junk per query."""

    @property
    def positives(self) -> Sequence[ImageNumbers]:
        """Relevant images per query."""
        ...

    @property
    def junk(self) -> Sequence[ImageNumbers]:
        """Images per query that count neither as relevant nor as irrelevant."""
        ...


def check_relevance(
    benchmark: RelevanceLabels, *, columns: int, name: str, num_images: int | None
) -> None:
    """Refuses relevance labels that do not fit the rankings or scores.

    Args:
        benchmark: Relevance labels.
        columns: Number of queries that were ranked or scored.
        name: Argument that holds one column per query, for errors.
        num_images: Number of images in the database; None if unknown.

    Raises:
        ValueError: If the numbers of queries differ, or a label names an image that is
            not in the database; with the query and the image.
    """
    num_queries = len(benchmark.positives)
    if columns != num_queries:
        raise ValueError(
            f"{name} must have one column per query, {num_queries}, got {columns}."
        )
    if len(benchmark.junk) != num_queries:
        raise ValueError(
            f"junk must have one entry per query, {num_queries}, got "
            f"{len(benchmark.junk)}."
        )
    for kind, lists in (("positives", benchmark.positives), ("junk", benchmark.junk)):
        for query, images in enumerate(lists):
            check_in_database(kind, images, num_images=num_images, query=query)


def check_in_database(
    name: str, images: ImageNumbers, *, num_images: int | None, query: int | None = None
) -> None:
    """Refuses image numbers outside the database.

    Raises:
        ValueError: With the first such number, and the query if there is one.
    """
    numbers = np.asarray(images)
    is_outside = numbers < 0
    rule = "count from 0"
    if num_images is not None:
        is_outside |= numbers >= num_images
        rule = f"be images of the database, 0 to {num_images - 1}"
    if is_outside.any():
        raise ValueError(
            f"{name} must {rule}, got {numbers[is_outside][0]}{query_suffix(query)}."
        )


def query_suffix(query: int | None) -> str:
    """Suffix of an error that names the query; empty for None."""
    return "" if query is None else f" (query {query})"


class PositiveRanks(NamedTuple):
    """Ranks of the positives in one ranking.

    Attributes:
        ranks: Ranks of the positives in the ranking, from 0 and ascending, after junk
            is removed.
        num_positives: Number of positives, in the ranking or not.
    """

    ranks: Int[np.ndarray, " r"]
    num_positives: int


def find_positive_ranks(
    ranking: Int[np.ndarray | Array, " m"],
    positives: ImageNumbers,
    junk: ImageNumbers,
    *,
    query: int | None = None,
) -> PositiveRanks:
    """Removes junk from a ranking and finds the ranks of the positives.

    Args:
        ranking: Image numbers, best first.
        positives: Relevant images; one that is named twice counts once.
        junk: Images that count neither as relevant nor as irrelevant.
        query: Number of the query, for errors.

    Returns:
        The ranks of the positives.

    Raises:
        ValueError: If an image is both positive and junk, or ranked twice.
    """
    order = np.asarray(ranking)
    positives, junk = unique_relevance(positives, junk, query=query)
    images, counts = np.unique(order, return_counts=True)
    if images.size != order.size:
        raise ValueError(
            "ranking must hold every image once, got image "
            f"{images[counts > 1][0]} twice or more{query_suffix(query)}."
        )
    without_junk = order[~np.isin(order, junk)]
    ranks = np.flatnonzero(np.isin(without_junk, positives))
    return PositiveRanks(ranks, positives.size)


def find_all_positive_ranks(
    rankings: Int[np.ndarray | Array, "m q"],
    benchmark: RelevanceLabels,
    *,
    num_images: int | None,
) -> list[PositiveRanks]:
    """Finds the ranks of the positives of all queries.

    Args:
        rankings: Per query (column) the image numbers, best first.
        benchmark: Relevance labels.
        num_images: Number of images in the database, all of which must be ranked; None
            if rankings may stop early, or if the number is unknown.

    Returns:
        One entry per query.

    Raises:
        ValueError: Naming the query and the image, if a ranking holds an image twice or
            one that is not in the database, or omits one; if the labels do not fit.
    """
    table = np.asarray(rankings)
    if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
        raise ValueError(
            "rankings must be a matrix of image numbers, one column per query, got "
            f"{table.dtype} {list(table.shape)}: `rank` makes them from scores."
        )
    check_relevance(
        benchmark, columns=table.shape[1], name="rankings", num_images=num_images
    )
    ranks = []
    for query, (order, positives, junk) in enumerate(
        zip(table.T, benchmark.positives, benchmark.junk, strict=True)
    ):
        check_in_database("rankings", order, num_images=num_images, query=query)
        ranks.append(find_positive_ranks(order, positives, junk, query=query))
        # The images are distinct: the ranking is complete if their number is.
        if num_images is not None and order.size < num_images:
            missing = np.setdiff1d(np.arange(num_images), order)
            raise ValueError(
                f"rankings must hold all {num_images} images, got {missing.size} "
                f"missing, first image {missing[0]}{query_suffix(query)}."
            )
    return ranks


def unique_relevance(
    positives: ImageNumbers, junk: ImageNumbers, *, query: int | None = None
) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " j"]]:
    """Sorts positives and junk, each image once.

    Raises:
        ValueError: If an image is in both.
    """
    # NumPy would make an empty list an array of floating point.
    unique_positives = np.unique(np.asarray(positives, np.int64))
    unique_junk = np.unique(np.asarray(junk, np.int64))
    contradictory = np.intersect1d(unique_positives, unique_junk)
    if contradictory.size:
        raise ValueError(
            "positives and junk must be disjoint, got "
            f"{contradictory[0]} in both{query_suffix(query)}."
        )
    return unique_positives, unique_junk
