"""Rankings as a benchmark sees them: junk out, and only the positives' ranks kept."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Int

from ._truth import Images, Truth, check_in_database, check_truth, in_query


class Judged(NamedTuple):
    """One ranking, judged.

    Attributes:
        ranks: Ranks of the positives that were found, from 0 and ascending, after junk
            is taken out.
        num_positives: Positives there are, found or not.
    """

    ranks: Int[np.ndarray, " r"]
    num_positives: int


def judge(
    ranking: Int[np.ndarray | Array, " m"],
    positives: Images,
    junk: Images,
    *,
    query: int | None = None,
) -> Judged:
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
    right, ignored = split_truth(positives, junk, query=query)
    images, counts = np.unique(order, return_counts=True)
    if images.size != order.size:
        raise ValueError(
            "ranking must hold every image once, got image "
            f"{images[counts > 1][0]} twice or more{in_query(query)}."
        )
    kept = order[~np.isin(order, ignored)]
    return Judged(np.flatnonzero(np.isin(kept, right)), right.size)


def judge_all(
    rankings: Int[np.ndarray | Array, "m q"], truth: Truth, *, num_images: int | None
) -> list[Judged]:
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
    check_truth(truth, columns=table.shape[1], name="rankings", num_images=num_images)
    judged = []
    for query, (order, positives, junk) in enumerate(
        zip(table.T, truth.positives, truth.junk, strict=True)
    ):
        check_in_database("rankings", order, num_images=num_images, query=query)
        judged.append(judge(order, positives, junk, query=query))
        # Distinct images of the database: whether all are there is their number.
        if num_images is not None and order.size < num_images:
            missing = np.setdiff1d(np.arange(num_images), order)
            raise ValueError(
                f"rankings must hold all {num_images} images, got {missing.size} "
                f"missing, first image {missing[0]}{in_query(query)}."
            )
    return judged


def split_truth(
    positives: Images, junk: Images, *, query: int | None = None
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
            f"{both[0]} in both{in_query(query)}."
        )
    return right, ignored
