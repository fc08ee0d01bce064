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
    """How good the first answers are; one entry per cutoff.

    Attributes:
        cutoffs: Numbers of answers looked at.
        mean_precision: Mean over the queries that have positives, in [0, 1].
        mean_recall: The same of the recall.
        precision: Per query; NaN where it has no positive. See `precision_at`.
        recall: Per query; NaN where it has no positive. See `recall_at`.
        num_without_positives: Queries that have no positive and are left out.
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
    the positives after junk is taken out. The cut at the last positive lets a query
    with fewer than k positives reach 1. A positive that is not in the ranking comes
    after everything: there c = k, and what is not ranked counts as wrong. So a ranking
    that stops after k images and junk has the P@k of the whole.

    Args:
        ranking: Image numbers, best first, none twice.
        positives: Right answers.
        junk: Answers that count neither way.
        k: Answers looked at.

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
    """Computes which part of the positives is among the first k answers.

    R@k = #{j: p_j < k} / #positives, with ranks as for `precision_at`. It is not the
    recall@k of metric learning, which is 1 as soon as one positive is there.

    Args:
        ranking: Image numbers, best first, none twice.
        positives: Right answers.
        junk: Answers that count neither way.
        k: Answers looked at.

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
    """Evaluates the first answers of all queries of a benchmark.

    With the mean average precision of `evaluate` this is the revisited protocol.

    Args:
        rankings: Per query (column) the image numbers, best first; see `rank`.
        benchmark: Anything with `positives` and `junk` per query.
        cutoffs: Numbers of answers to look at.
        num_images: As for `evaluate`.

    Returns:
        Precision and recall at every cutoff, per query and on average.

    Raises:
        ValueError: If a cutoff is below 1; else as `evaluate`.
    """
    for cutoff in cutoffs:
        _check_cutoff("cutoffs", cutoff)
    judged = find_all_positive_ranks(rankings, benchmark, num_images=num_images)
    known = np.array([one.num_positives > 0 for one in judged], bool)
    if not known.any():
        raise ValueError("benchmark must have a query with positives, got none.")
    shape = len(judged), len(cutoffs)
    precision, recall = (
        np.array([[measure(one, k) for k in cutoffs] for one in judged]).reshape(shape)
        for measure in (_precision_at, _recall_at)
    )
    return CutoffReport(
        cutoffs=tuple(cutoffs),
        mean_precision=precision[known].mean(axis=0),
        mean_recall=recall[known].mean(axis=0),
        precision=precision,
        recall=recall,
        num_without_positives=int((~known).sum()),
    )


def _precision_at(judged: PositiveRanks, k: int) -> float:
    if judged.num_positives == 0:
        return float("nan")
    all_found = judged.ranks.size == judged.num_positives
    cut = min(k, int(judged.ranks[-1]) + 1) if all_found else k
    return float(np.sum(judged.ranks < cut) / cut)


def _recall_at(judged: PositiveRanks, k: int) -> float:
    if judged.num_positives == 0:
        return float("nan")
    return float(np.sum(judged.ranks < k) / judged.num_positives)


def _check_cutoff(name: str, k: int) -> None:
    if k < 1:
        raise ValueError(f"{name} must be at least 1, got {k}.")
