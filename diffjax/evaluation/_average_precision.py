"""Average precision of rankings, of scores with ties, and of random order."""

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
    """How good rankings are.

    Attributes:
        mean_average_precision: Mean over the queries that have positives, in [0, 1].
        average_precision: Per query; NaN where it has no positive.
        num_without_positives: Queries that have no positive and are left out.
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
    rank of the j-th positive (j from 0) after junk is taken out, and j / p_j = 1 at
    p_j = 0. A positive that is not in the ranking adds nothing.

    Args:
        ranking: Image numbers, best first, none twice.
        positives: Right answers.
        junk: Answers that count neither way.

    Returns:
        AP in [0, 1]; NaN if there is no positive.

    Raises:
        ValueError: If an image is both positive and junk, or ranked twice.

    References:
        The evaluation program of Philbin et al., CVPR 2007 (Oxford Buildings), which
        Iscen et al., CVPR 2017, follow; it could not be opened here. The program of
        the revisited benchmarks (github.com/filipradenovic/revisitop), which was,
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
    """Evaluates the rankings of all queries of a benchmark.

    Queries without a positive ask nothing: they are left out of the mean, and counted.

    Args:
        rankings: Per query (column) the image numbers, best first; see `rank`.
        benchmark: Anything with `positives` and `junk` per query.
        num_images: Images in the database. Where it is given every ranking must hold
            all of them; None for rankings that stop early: a positive that is not in
            one adds nothing to its AP.

    Returns:
        Average precision per query and its mean.

    Raises:
        ValueError: If there is not one column per query, or no query has positives;
            naming query and image, if a ranking holds one twice or leaves one out, if
            an image is not in the database, or is both positive and junk.
    """
    judged = find_all_positive_ranks(rankings, benchmark, num_images=num_images)
    return make_report(np.array([_trapezoidal_precision(one) for one in judged]))


def make_report(per_query: Float[np.ndarray, " q"]) -> PrecisionReport:
    """Takes the mean over the queries that have positives, and counts the others.

    Args:
        per_query: Average precision; NaN where there is no positive.

    Raises:
        ValueError: If no query has positives.
    """
    without = int(np.isnan(per_query).sum())
    if without == per_query.size:
        raise ValueError("benchmark must have a query with positives, got none.")
    return PrecisionReport(float(np.nanmean(per_query)), per_query, without)


def _trapezoidal_precision(judged: PositiveRanks) -> float:
    """Area under precision over recall; NaN if there is no positive."""
    if judged.num_positives == 0:
        return float("nan")
    ranks, found = judged.ranks, np.arange(judged.ranks.size)
    # At rank 0 the precision before the first answer is 1 by convention.
    before = np.where(ranks > 0, found / np.maximum(ranks, 1), 1.0)
    after = (found + 1) / (ranks + 1)
    return float(np.sum((before + after) / 2) / judged.num_positives)


def expected_average_precision(
    scores: Float[np.ndarray | Array, " m"],
    positives: ImageNumbers,
    junk: ImageNumbers = (),
) -> float:
    r"""Computes the mean average precision over all orders of images of one score.

    Images of one score stand in no order, and any order that is made of them is luck:
    by lower index, say, the precision depends on how the database is sorted. Here each
    order is as likely as another. After junk is taken out, let a group of g images of
    which r are positive come after b images of which R are positive. Its place i (from
    0) holds a positive with chance r / g, and j_i = R + i (r - 1) / (g - 1) positives
    are then before it on average. The trapezoids are linear in that number, so

        AP = sum_groups sum_i (r / g) (j_i / (b + i) + (j_i + 1) / (b + i + 1)) / 2
             / #positives,

    with 1 for the first fraction at b + i = 0. Without ties it is `average_precision`.

    Args:
        scores: Score of every image, higher is better; equal means tied.
        positives: Right answers.
        junk: Answers that count neither way.

    Returns:
        AP in [0, 1]; NaN if there is no positive.

    Raises:
        ValueError: If a score is NaN, an image has no score, or is both positive and
            junk.

    References:
        McSherry and Najork, ECIR 2008, do this for the rectangular average precision;
        the paper could not be opened here, the trapezoids are worked out above.

    Example:
        Two tied images: AP is 1 if the positive is first, (0 / 1 + 1 / 2) / 2 if not.

        >>> expected_average_precision(np.zeros(2), [0])
        0.625
    """
    return _expected_precision(np.asarray(scores), positives, junk, query=None)


def evaluate_scores(
    scores: Float[np.ndarray | Array, "m q"], benchmark: RelevanceLabels
) -> PrecisionReport:
    """Evaluates scores without breaking ties: see `expected_average_precision`.

    Args:
        scores: Image scores, one column per query, higher is better.
        benchmark: Anything with `positives` and `junk` per query.

    Returns:
        Expected average precision per query and its mean.

    Raises:
        ValueError: Naming query and image, if a score is NaN, or the benchmark names an
            image that has no score; else as `evaluate`.
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
        _expected_precision(column, positives, junk, query=query)
        for query, (column, positives, junk) in enumerate(
            zip(table.T, benchmark.positives, benchmark.junk, strict=True)
        )
    ]
    return make_report(np.array(per_query))


def random_average_precision(num_positives: int, num_images: int) -> float:
    r"""Computes the mean average precision of a ranking in random order.

    With P positives among N images and c = (P - 1) / (N - 1), summing the formula of
    `expected_average_precision` for one group of all images gives

        AP = (P / N + c + (1 - c) H_N / N) / 2,   H_N = 1 + 1/2 + ... + 1/N.

    It is what chance gives: a method at this level has found nothing.

    Args:
        num_positives: Positives of the query.
        num_images: Images in the database, junk not counted.

    Returns:
        AP in [0, 1]; NaN if there is no positive.

    Raises:
        ValueError: If `num_positives` is not in [0, `num_images`].

    Example:
        >>> random_average_precision(1, 2)
        0.625
    """
    if not 0 <= num_positives <= num_images:
        raise ValueError(
            f"num_positives must be in [0, num_images], {num_images}, got "
            f"{num_positives}."
        )
    if num_positives == 0:
        return float("nan")
    # A single image is first in any case, whatever c is.
    c = (num_positives - 1) / max(num_images - 1, 1)
    harmonic = float(np.sum(1 / np.arange(1, num_images + 1)))
    return (num_positives / num_images + c + (1 - c) * harmonic / num_images) / 2


def _expected_precision(
    values: Float[np.ndarray, " m"],
    positives: ImageNumbers,
    junk: ImageNumbers,
    *,
    query: int | None,
) -> float:
    """`expected_average_precision`, naming the query in errors."""
    unknown = np.flatnonzero(np.isnan(values))
    if unknown.size:
        raise ValueError(
            f"scores must be numbers, got NaN for image "
            f"{unknown[0]}{query_suffix(query)}."
        )
    for name, images in (("positives", positives), ("junk", junk)):
        check_in_database(name, images, num_images=values.size, query=query)
    right, ignored = unique_relevance(positives, junk, query=query)
    if right.size == 0:
        return float("nan")
    kept = np.setdiff1d(np.arange(values.size), ignored)
    order = kept[np.argsort(-values[kept], kind="stable")]
    ordered = values[order]
    # Groups from the best to the worst; comparing suits infinities, subtracting not.
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    sizes = np.diff(starts, append=order.size)
    found = np.add.reduceat(np.isin(order, right).astype(np.int64), starts)
    ahead = np.cumsum(found) - found
    # Every place of the ranking, with what its group has.
    group = np.repeat(np.arange(starts.size), sizes)
    place = np.arange(order.size)
    with_positives = found[group] > 0
    group, place = group[with_positives], place[with_positives]
    # A group of one has one order: place 0 is its only one.
    rise = (found[group] - 1) / np.maximum(sizes[group] - 1, 1)
    before = ahead[group] + (place - starts[group]) * rise
    left = np.where(place > 0, before / np.maximum(place, 1), 1.0)
    area = (left + (before + 1) / (place + 1)) / 2
    chance = found[group] / sizes[group]
    return float(np.sum(chance * area) / right.size)
