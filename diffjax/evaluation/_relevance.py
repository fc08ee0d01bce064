"""Relevance labels of a benchmark, their validation, ranks of positives."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Int

ImageNumbers = Int[np.ndarray, " _"] | Sequence[int]


@runtime_checkable
class RelevanceLabels(Protocol):
    """The part of a benchmark that evaluation needs."""

    @property
    def positives(self) -> Sequence[ImageNumbers]:
        """Per query the right answers."""
        ...

    @property
    def junk(self) -> Sequence[ImageNumbers]:
        """Per query the answers that do not count."""
        ...


def check_relevance(
    truth: RelevanceLabels, *, columns: int, name: str, num_images: int | None
) -> None:
    """Refuses a truth that can not belong to the rankings or scores at hand.

    Args:
        truth: The truth.
        columns: Queries that were ranked or scored.
        name: What holds one column per query.
        num_images: Images in the database; None if that is not known.

    Raises:
        ValueError: If the numbers of queries differ, or the truth names an image that
            is not in the database; with the query and the image.
    """
    wanted = len(truth.positives)
    if columns != wanted:
        raise ValueError(
            f"{name} must have one column per query, {wanted}, got {columns}."
        )
    if len(truth.junk) != wanted:
        raise ValueError(
            f"junk must have one entry per query, {wanted}, got {len(truth.junk)}."
        )
    for kind, lists in (("positives", truth.positives), ("junk", truth.junk)):
        for query, images in enumerate(lists):
            check_in_database(kind, images, num_images=num_images, query=query)


def check_in_database(
    name: str, images: ImageNumbers, *, num_images: int | None, query: int | None = None
) -> None:
    """Refuses numbers that are no images of the database.

    Raises:
        ValueError: With the first such number, and the query if there is one.
    """
    numbers = np.asarray(images)
    outside = numbers < 0
    rule = "count from 0"
    if num_images is not None:
        outside |= numbers >= num_images
        rule = f"be images of the database, 0 to {num_images - 1}"
    if outside.any():
        raise ValueError(
            f"{name} must {rule}, got {numbers[outside][0]}{query_suffix(query)}."
        )


def query_suffix(query: int | None) -> str:
    """Names the query in an error, where there are several."""
    return "" if query is None else f" (query {query})"


class PositiveRanks(NamedTuple):
    """One ranking, judged.

    Attributes:
        ranks: Ranks of the positives that were found, from 0 and ascending, after junk
            is taken out.
        num_positives: Positives there are, found or not.
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
    """Takes junk out of a ranking and finds the positives.

    Args:
        ranking: Image numbers, best first.
        positives: Right answers; one that is named twice counts once.
        junk: Answers that count neither way.
        query: Which query it is, for errors.

    Returns:
        The ranks of the positives.

    Raises:
        ValueError: If an image is both positive and junk, or ranked twice.
    """
    order = np.asarray(ranking)
    right, ignored = unique_relevance(positives, junk, query=query)
    images, counts = np.unique(order, return_counts=True)
    if images.size != order.size:
        raise ValueError(
            "ranking must hold every image once, got image "
            f"{images[counts > 1][0]} twice or more{query_suffix(query)}."
        )
    kept = order[~np.isin(order, ignored)]
    return PositiveRanks(np.flatnonzero(np.isin(kept, right)), right.size)


def find_all_positive_ranks(
    rankings: Int[np.ndarray | Array, "m q"],
    truth: RelevanceLabels,
    *,
    num_images: int | None,
) -> list[PositiveRanks]:
    """Judges the rankings of all queries.

    Args:
        rankings: Per query (column) the image numbers, best first.
        truth: Right answers and junk.
        num_images: Images in the database, all of which must be ranked; None if
            rankings may stop early, or that number is not known.

    Returns:
        One entry per query.

    Raises:
        ValueError: Naming the query and the image, if a ranking holds one twice, one
            that is not in the database, or leaves one out; if the truth does not fit.
    """
    table = np.asarray(rankings)
    if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
        raise ValueError(
            "rankings must be a matrix of image numbers, one column per query, got "
            f"{table.dtype} {list(table.shape)}: `rank` makes them from scores."
        )
    check_relevance(
        truth, columns=table.shape[1], name="rankings", num_images=num_images
    )
    judged = []
    for query, (order, positives, junk) in enumerate(
        zip(table.T, truth.positives, truth.junk, strict=True)
    ):
        check_in_database("rankings", order, num_images=num_images, query=query)
        judged.append(find_positive_ranks(order, positives, junk, query=query))
        # Distinct images of the database: whether all are there is their number.
        if num_images is not None and order.size < num_images:
            missing = np.setdiff1d(np.arange(num_images), order)
            raise ValueError(
                f"rankings must hold all {num_images} images, got {missing.size} "
                f"missing, first image {missing[0]}{query_suffix(query)}."
            )
    return judged


def unique_relevance(
    positives: ImageNumbers, junk: ImageNumbers, *, query: int | None = None
) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " j"]]:
    """Sorts positives and junk, each image once.

    Raises:
        ValueError: If an image is in both.
    """
    # An empty list is no list of floating point numbers.
    right = np.unique(np.asarray(positives, np.int64))
    ignored = np.unique(np.asarray(junk, np.int64))
    both = np.intersect1d(right, ignored)
    if both.size:
        raise ValueError(
            "positives and junk must be disjoint, got "
            f"{both[0]} in both{query_suffix(query)}."
        )
    return right, ignored
