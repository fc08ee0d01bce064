"""Average precision of rankings, and of scores with ties."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from ._relevance import (
    ImageNumbers,
    PositiveRanks,
    RelevanceLabels,
    check_in_database,
    check_relevance,
    find_all_positive_ranks,
    find_positive_ranks,
    query_suffix,
    unique_relevance,
)


class PrecisionReport(NamedTuple):
    """Average precision of all queries of a benchmark, and its mean.

    Attributes:
        mean_average_precision: Mean over the queries that have positives, in [0, 1].
        average_precision: Average precision per query; NaN without positives.
        num_without_positives: Number of queries without positives, which the mean
            excludes.
    """

    mean_average_precision: float
    average_precision: Float[np.ndarray, " q"]
    num_without_positives: int


def average_precision(
    ranking: Int[np.ndarray | Array, " m"],
    positives: ImageNumbers,
    junk: ImageNumbers = (),
) -> float:
    r"""Computes the trapezoidal average precision of one ranking.

    AP = sum_j ((j / p_j) + (j + 1) / (p_j + 1)) / 2 / #positives, p_j being the 0-based
    rank of the j-th positive (j from 0) after junk is removed, and j / p_j = 1 at
    p_j = 0. A positive that is not in the ranking adds nothing.

    Args:
        ranking: Image numbers, best first, none twice.
        positives: Relevant images.
        junk: Images that count neither as relevant nor as irrelevant.

    Returns:
        AP in [0, 1]; NaN if there is no positive.

    Raises:
        ValueError: If an image is both positive and junk, or ranked twice.

    References:
        The evaluation program of Philbin et al., CVPR 2007 (Oxford Buildings), which
        Iscen et al., CVPR 2017, follow; it could not be opened. The program of the
        revisited benchmarks (github.com/filipradenovic/revisitop), which was opened,
        computes the same.

    Example:
        >>> round(average_precision(np.arange(6), [0, 2, 5]), 6)
        0.677778
    """
    return _trapezoidal_precision(find_positive_ranks(ranking, positives, junk))


def evaluate(
    rankings: Int[np.ndarray | Array, "m q"],
    benchmark: RelevanceLabels,
    *,
    num_images: int | None = None,
) -> PrecisionReport:
    """Computes the mean average precision of rankings on a benchmark.

    Queries without positives are excluded from the mean, and counted.

    Args:
        rankings: Per query (column) the image numbers, best first; see `rank`.
        benchmark: Any object with `positives` and `junk` per query.
        num_images: Number of images in the database, all of which every ranking must
            hold; None for rankings that stop early: a positive that is not in a ranking
            adds nothing to its AP.

    Returns:
        Average precision per query and its mean.

    Raises:
        ValueError: If there is not one column per query, or no query has positives;
            naming query and image, if a ranking holds an image twice or omits one, if
            an image is not in the database, or is both positive and junk.
    """
    ranks = find_all_positive_ranks(rankings, benchmark, num_images=num_images)
    return _make_report(np.array([_trapezoidal_precision(query) for query in ranks]))


def evaluate_scores(
    scores: Float[np.ndarray | Array, "m q"], benchmark: RelevanceLabels
) -> PrecisionReport:
    r"""Computes the mean average precision of scores, in expectation over tied orders.

    The order of images of equal score is arbitrary: by lower index, say, the precision
    depends on how the database is sorted. Here all orders are equally likely. After
    junk is removed, let a group of g images of equal score, r of them positive, come
    after b images, R of them positive. Its position i (from 0) holds a positive with
    probability r / g, and j_i = R + i (r - 1) / (g - 1) positives precede it on
    average. The trapezoids are linear in that number, so

        AP = sum_groups sum_i (r / g) (j_i / (b + i) + (j_i + 1) / (b + i + 1)) / 2
             / #positives,

    with 1 for the first fraction at b + i = 0. Without ties it is `average_precision`.

    Args:
        scores: Image scores, one column per query, higher is better.
        benchmark: Any object with `positives` and `junk` per query.

    Returns:
        Expected average precision per query and its mean.

    Raises:
        ValueError: Naming query and image, if a score is NaN, or the benchmark names an
            image that has no score; else as `evaluate`.

    References:
        McSherry and Najork, ECIR 2008, compute the expectation of the rectangular
        average precision; the paper could not be opened, the trapezoids are derived
        above.
    """
    table = np.asarray(scores)
    if table.ndim != 2 or not np.issubdtype(table.dtype, np.floating):
        raise ValueError(
            "scores must be a matrix of floating point, one column per query, got "
            f"{table.dtype} {list(table.shape)}: `evaluate` takes rankings."
        )
    check_relevance(
        benchmark, columns=table.shape[1], name="scores", num_images=table.shape[0]
    )
    per_query = [
        expected_precision(column, positives, junk, query=query)
        for query, (column, positives, junk) in enumerate(
            zip(table.T, benchmark.positives, benchmark.junk, strict=True)
        )
    ]
    return _make_report(np.array(per_query))


def expected_precision(
    scores: Float[np.ndarray, " m"],
    positives: ImageNumbers,
    junk: ImageNumbers,
    *,
    query: int | None = None,
) -> float:
    """Computes the expected average precision of one query, see `evaluate_scores`."""
    is_nan = np.flatnonzero(np.isnan(scores))
    if is_nan.size:
        raise ValueError(
            f"scores must be numbers, got NaN for image "
            f"{is_nan[0]}{query_suffix(query)}."
        )
    for name, images in (("positives", positives), ("junk", junk)):
        check_in_database(name, images, num_images=scores.size, query=query)
    positives, junk = unique_relevance(positives, junk, query=query)
    if positives.size == 0:
        return float("nan")
    images = np.setdiff1d(np.arange(scores.size), junk)
    order = images[np.argsort(-scores[images], kind="stable")]
    ordered = scores[order]
    # Groups from the best to the worst; comparing suits infinities, subtracting not.
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    sizes = np.diff(starts, append=order.size)
    group_positives = np.add.reduceat(
        np.isin(order, positives).astype(np.int64), starts
    )
    preceding = np.cumsum(group_positives) - group_positives
    # Every position of the ranking whose group has positives, and that group.
    group = np.repeat(np.arange(starts.size), sizes)
    position = np.arange(order.size)
    has_positives = group_positives[group] > 0
    group, position = group[has_positives], position[has_positives]
    # A group of one image has one order: i is 0.
    rise = (group_positives[group] - 1) / np.maximum(sizes[group] - 1, 1)
    before = preceding[group] + (position - starts[group]) * rise
    left_precision = np.where(position > 0, before / np.maximum(position, 1), 1.0)
    area = (left_precision + (before + 1) / (position + 1)) / 2
    probability = group_positives[group] / sizes[group]
    return float(np.sum(probability * area) / positives.size)


def _trapezoidal_precision(positive_ranks: PositiveRanks) -> float:
    """Area under precision over recall; NaN if there is no positive."""
    if positive_ranks.num_positives == 0:
        return float("nan")
    ranks = positive_ranks.ranks
    preceding = np.arange(ranks.size)
    # At rank 0 the precision before the first answer is 1 by convention.
    before = np.where(ranks > 0, preceding / np.maximum(ranks, 1), 1.0)
    after = (preceding + 1) / (ranks + 1)
    return float(np.sum((before + after) / 2) / positive_ranks.num_positives)


def _make_report(per_query: Float[np.ndarray, " q"]) -> PrecisionReport:
    """Averages over the queries that have positives, and counts the others."""
    num_without = int(np.isnan(per_query).sum())
    if num_without == per_query.size:
        raise ValueError("benchmark must have a query with positives, got none.")
    return PrecisionReport(float(np.nanmean(per_query)), per_query, num_without)
