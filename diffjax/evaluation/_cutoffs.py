"""Precision and recall among the first answers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from ._relevance import (
    ImageNumbers,
    PositiveRanks,
    RelevanceLabels,
    find_all_positive_ranks,
    find_positive_ranks,
)


class CutoffReport(NamedTuple):
    """Precision and recall among the first answers, one entry per cutoff.

    Attributes:
        cutoffs: Numbers k of answers.
        mean_precision: Mean precision over the queries that have positives, in [0, 1].
        mean_recall: Mean recall over the queries that have positives, in [0, 1].
        precision: Precision per query, see `precision_at`; NaN without positives.
        recall: Recall per query, see `recall_at`; NaN without positives.
        num_without_positives: Number of queries without positives, which the means
            exclude.
    """

    cutoffs: tuple[int, ...]
    mean_precision: Float[np.ndarray, " c"]
    mean_recall: Float[np.ndarray, " c"]
    precision: Float[np.ndarray, "q c"]
    recall: Float[np.ndarray, "q c"]
    num_without_positives: int


def precision_at(
    ranking: Int[np.ndarray | Array, " m"],
    positives: ImageNumbers,
    junk: ImageNumbers = (),
    *,
    k: int,
) -> float:
    """Computes the precision among the first k answers, as the revisited protocol does.

    P@k = #{j: p_j < c} / c with c = min(k, 1 + p_last), p_j being the 0-based ranks of
    the positives after junk is removed. The cut at the last positive lets a query with
    fewer than k positives reach 1. A positive that is not in the ranking comes after
    all others: then c = k, and ranks beyond the end count as irrelevant. So a ranking
    that stops after k images and junk has the P@k of the complete ranking.

    Args:
        ranking: Image numbers, best first, none twice.
        positives: Relevant images.
        junk: Images that count neither as relevant nor as irrelevant.
        k: Number of answers.

    Returns:
        Precision in [0, 1]; NaN if there is no positive.

    Raises:
        ValueError: If `k` is below 1; else as `average_precision`.

    References:
        Radenovic et al., CVPR 2018 (Revisiting Oxford and Paris): the rule is that of
        its program, github.com/filipradenovic/revisitop, which ranks all images.

    Example:
        >>> precision_at(np.arange(6), [0, 2], k=5)  # The last one is third.
        0.6666666666666666
    """
    _check_cutoff("k", k)
    return _precision_at(find_positive_ranks(ranking, positives, junk), k)


def recall_at(
    ranking: Int[np.ndarray | Array, " m"],
    positives: ImageNumbers,
    junk: ImageNumbers = (),
    *,
    k: int,
) -> float:
    """Computes the recall among the first k answers.

    R@k = #{j: p_j < k} / #positives, with ranks as for `precision_at`. It is not the
    recall@k of metric learning, which is 1 as soon as one positive is among them.

    Args:
        ranking: Image numbers, best first, none twice.
        positives: Relevant images.
        junk: Images that count neither as relevant nor as irrelevant.
        k: Number of answers.

    Returns:
        Recall in [0, 1]; NaN if there is no positive.

    Raises:
        ValueError: If `k` is below 1; else as `average_precision`.

    Example:
        >>> recall_at(np.arange(6), [0, 5], k=5)
        0.5
    """
    _check_cutoff("k", k)
    return _recall_at(find_positive_ranks(ranking, positives, junk), k)


def evaluate_cutoffs(
    rankings: Int[np.ndarray | Array, "m q"],
    benchmark: RelevanceLabels,
    *,
    cutoffs: Sequence[int] = (1, 5, 10),
    num_images: int | None = None,
) -> CutoffReport:
    """Computes precision and recall at cutoffs for all queries of a benchmark.

    With the mean average precision of `evaluate` this is the revisited protocol.

    Args:
        rankings: Per query (column) the image numbers, best first; see `rank`.
        benchmark: Any object with `positives` and `junk` per query.
        cutoffs: Numbers k of answers.
        num_images: As for `evaluate`.

    Returns:
        Precision and recall at every cutoff, per query and on average.

    Raises:
        ValueError: If a cutoff is below 1; else as `evaluate`.
    """
    for cutoff in cutoffs:
        _check_cutoff("cutoffs", cutoff)
    ranks = find_all_positive_ranks(rankings, benchmark, num_images=num_images)
    has_positives = np.array([query.num_positives > 0 for query in ranks], bool)
    if not has_positives.any():
        raise ValueError("benchmark must have a query with positives, got none.")
    shape = len(ranks), len(cutoffs)
    precision, recall = (
        np.array([[measure(query, k) for k in cutoffs] for query in ranks]).reshape(
            shape
        )
        for measure in (_precision_at, _recall_at)
    )
    return CutoffReport(
        cutoffs=tuple(cutoffs),
        mean_precision=precision[has_positives].mean(axis=0),
        mean_recall=recall[has_positives].mean(axis=0),
        precision=precision,
        recall=recall,
        num_without_positives=int((~has_positives).sum()),
    )


def _precision_at(positive_ranks: PositiveRanks, k: int) -> float:
    if positive_ranks.num_positives == 0:
        return float("nan")
    ranks = positive_ranks.ranks
    all_ranked = ranks.size == positive_ranks.num_positives
    cutoff = min(k, int(ranks[-1]) + 1) if all_ranked else k
    return float(np.sum(ranks < cutoff) / cutoff)


def _recall_at(positive_ranks: PositiveRanks, k: int) -> float:
    if positive_ranks.num_positives == 0:
        return float("nan")
    return float(np.sum(positive_ranks.ranks < k) / positive_ranks.num_positives)


def _check_cutoff(name: str, k: int) -> None:
    if k < 1:
        raise ValueError(f"{name} must be at least 1, got {k}.")
