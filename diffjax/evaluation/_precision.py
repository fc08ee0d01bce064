"""Average precision as the benchmarks of the field compute it."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Int

Images = Int[np.ndarray, " _"] | Sequence[int]


@runtime_checkable
class Truth(Protocol):
    """The part of a benchmark that evaluation needs."""

    @property
    def positives(self) -> Sequence[Images]:
        """Per query the right answers."""
        ...

    @property
    def junk(self) -> Sequence[Images]:
        """Per query the answers that do not count."""
        ...


class Report(NamedTuple):
    """How good rankings are.

    Attributes:
        mean_average_precision: Mean over the queries that have positives, in [0, 1].
        average_precision: Per query; NaN where it has no positive.
    """

    mean_average_precision: float
    average_precision: Float[np.ndarray, " q"]


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
        Iscen et al., CVPR 2017, follow; it could not be opened here.

    Example:
        >>> round(average_precision(np.arange(6), [0, 2, 5]), 6)
        0.677778
    """
    order = np.asarray(ranking)
    positives, junk = np.unique(positives), np.unique(junk)
    both = np.intersect1d(positives, junk)
    if both.size:
        raise ValueError(f"positives and junk must be disjoint, got {both[0]} in both.")
    if np.unique(order).size != order.size:
        raise ValueError("ranking must hold every image once, got one twice.")
    if positives.size == 0:
        return float("nan")
    kept = order[~np.isin(order, junk)]
    ranks = np.flatnonzero(np.isin(kept, positives))
    found = np.arange(ranks.size)
    # At rank 0 the precision before the first answer is 1 by convention.
    before = np.where(ranks > 0, found / np.maximum(ranks, 1), 1.0)
    after = (found + 1) / (ranks + 1)
    return float(np.sum((before + after) / 2) / positives.size)


def evaluate(rankings: Int[np.ndarray | Array, "m q"], benchmark: Truth) -> Report:
    """Evaluates the rankings of all queries of a benchmark.

    Args:
        rankings: Per query (column) the image numbers, best first; see `rank`.
        benchmark: Anything with `positives` and `junk` per query.

    Returns:
        Average precision per query and its mean.

    Raises:
        ValueError: If there is not one column per query, or no query has positives.
    """
    table = np.asarray(rankings)
    wanted = len(benchmark.positives)
    if table.shape[1] != wanted:
        raise ValueError(
            f"rankings must have one column per query, {wanted}, got {table.shape[1]}."
        )
    per_query = np.array(
        [
            average_precision(column, positives, junk)
            for column, positives, junk in zip(
                table.T, benchmark.positives, benchmark.junk, strict=True
            )
        ]
    )
    if np.isnan(per_query).all():
        raise ValueError("benchmark must have a query with positives, got none.")
    return Report(float(np.nanmean(per_query)), per_query)
