"""Average precision as the benchmarks of the field compute it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from ._judged import Judged, judge, judge_all
from ._truth import Images, Truth


class Report(NamedTuple):
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
    ranking: Int[np.ndarray | Array, " m"], positives: Images, junk: Images = ()
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
    return _area(judge(ranking, positives, junk))


def evaluate(
    rankings: Int[np.ndarray | Array, "m q"],
    benchmark: Truth,
    *,
    num_images: int | None = None,
) -> Report:
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
    judged = judge_all(rankings, benchmark, num_images=num_images)
    return make_report(np.array([_area(one) for one in judged]))


def make_report(per_query: Float[np.ndarray, " q"]) -> Report:
    """Takes the mean over the queries that have positives, and counts the others.

    Args:
        per_query: Average precision; NaN where there is no positive.

    Raises:
        ValueError: If no query has positives.
    """
    without = int(np.isnan(per_query).sum())
    if without == per_query.size:
        raise ValueError("benchmark must have a query with positives, got none.")
    return Report(float(np.nanmean(per_query)), per_query, without)


def _area(judged: Judged) -> float:
    """Area under precision over recall; NaN if there is no positive."""
    if judged.num_positives == 0:
        return float("nan")
    ranks, found = judged.ranks, np.arange(judged.ranks.size)
    # At rank 0 the precision before the first answer is 1 by convention.
    before = np.where(ranks > 0, found / np.maximum(ranks, 1), 1.0)
    after = (found + 1) / (ranks + 1)
    return float(np.sum((before + after) / 2) / judged.num_positives)
