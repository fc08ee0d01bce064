"""Cluster bootstrap intervals and the paired randomisation test over queries."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class GroupSums(NamedTuple):
    """Sums over groups, in the order in which groups appear.

    Attributes:
        sums: Sum of each group's numbers.
        counts: How many numbers each group has, at least 1.
    """

    sums: Float[np.ndarray, " g"]
    counts: Int[np.ndarray, " g"]


def sum_groups(
    values: Float[np.ndarray, " q"], groups: Sequence[Hashable] | None
) -> GroupSums:
    """Adds up the numbers of each group, NaN left out.

    Args:
        values: One number per query.
        groups: What each query belongs to; None if each is a group of its own.

    Returns:
        Sums and counts of the groups that have a number.

    Raises:
        ValueError: If nothing is left, or lengths differ.
    """
    if groups is not None and len(groups) != len(values):
        raise ValueError(
            f"groups must have one entry per value, {len(values)}, got {len(groups)}."
        )
    labels = list(range(len(values))) if groups is None else list(groups)
    known = np.flatnonzero(~np.isnan(values))
    if known.size == 0:
        raise ValueError("values must hold a number, got none.")
    numbers = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    owner = np.array([numbers[labels[i]] for i in known])
    sums = np.bincount(owner, values[known], minlength=len(numbers))
    counts = np.bincount(owner, minlength=len(numbers))
    used = counts > 0
    return GroupSums(sums[used], counts[used])


def paired_differences(
    values: Float[np.ndarray, " q"], baseline: Float[np.ndarray, " q"]
) -> Float[np.ndarray, " q"]:
    """Subtracts what a method is compared with, query by query.

    Raises:
        ValueError: If lengths differ.
    """
    if values.shape != baseline.shape:
        raise ValueError(
            f"baseline must have {values.shape[0]} values, got {baseline.shape[0]}."
        )
    return values - baseline


class Interval(NamedTuple):
    """A mean with its percentile bootstrap interval.

    Attributes:
        mean: The mean itself.
        low: Lower end.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: Float[np.ndarray, " q"],
    *,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Computes a percentile bootstrap interval of the mean over queries.

    Queries of one group are drawn together: two queries for the same object are not
    two independent observations.

    Args:
        values: One number per query, for example its average precision; NaN is left
            out, as in the mean.
        groups: What each query belongs to; None if queries are independent.
        level: Coverage, in (0, 1).
        resamples: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        The mean and the interval's ends.

    Raises:
        ValueError: If nothing is left, lengths differ, or `level` or `resamples` is out
            of range.

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}.")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}.")
    sums, counts = sum_groups(values, groups)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values[~np.isnan(values)].mean()), float(low), float(high))


def paired_bootstrap(
    values: Float[np.ndarray, " q"],
    baseline: Float[np.ndarray, " q"],
    *,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Computes the interval of the mean difference of two methods on the same queries.

    Args:
        values: One number per query for the method.
        baseline: The same queries' numbers for what it is compared with.
        groups: See `bootstrap_interval`.
        level: Coverage, in (0, 1).
        resamples: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        Mean of `values - baseline` and the interval's ends; a difference is seen at
        this level where the interval leaves 0 out.

    Raises:
        ValueError: If lengths differ; else as `bootstrap_interval`.
    """
    return bootstrap_interval(
        paired_differences(values, baseline),
        groups=groups,
        level=level,
        resamples=resamples,
        seed=seed,
    )


# Sums that differ by rounding alone are equal: relative to the sum of all sizes.
_ROUNDING = 1e-12


def paired_test(
    values: Float[np.ndarray, " q"],
    baseline: Float[np.ndarray, " q"],
    *,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> float:
    """Tests whether two methods differ, by a paired randomisation test of the mean.

    If the methods were alike, which of the two has which number would be luck: the
    sign of every group's difference could as well be the other one. The p value is the
    chance, over random signs, of a mean difference at least as large as the one seen,
    in either direction. With g groups there are 2^g ways to choose the signs: all are
    counted where that is at most `resamples`, which makes the p value exact (up to 13
    groups as it stands); else signs are drawn, and p = (1 + hits) / (1 + resamples),
    what was seen being one of the draws, so that p is never 0.

    Args:
        values: One number per query for the method, for example its average precision;
            a query that is NaN in either is left out.
        baseline: The same queries' numbers for what it is compared with.
        groups: What each query belongs to: queries of one group are not independent,
            and their signs change together. None if queries are independent.
        resamples: Number of draws, and of most choices to count.
        seed: Seed of the draws.

    Returns:
        Two-sided p value, in (0, 1].

    Raises:
        ValueError: If nothing is left, lengths differ, or `resamples` is below 1.

    References:
        Smucker, Allan and Carterette, A comparison of statistical significance tests
        for information retrieval evaluation, CIKM 2007 (the test); Phipson and Smyth,
        Permutation p-values should never be zero, Stat. Appl. Genet. Mol. Biol. 9(1),
        2010 (the added 1). Read in abstract only. Signs that change by group are ours.

    Example:
        Three queries, all better: of 8 choices of signs 2 go as far.

        >>> paired_test(np.array([0.5, 0.6, 0.7]), np.array([0.4, 0.4, 0.4]))
        0.25
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}.")
    sums = sum_groups(paired_differences(values, baseline), groups).sums
    far = abs(sums.sum()) - _ROUNDING * np.abs(sums).sum()
    if 2**sums.size <= resamples:
        return float(np.mean(np.abs(_sums_over_signs(sums)) >= far))
    draws = np.random.default_rng(seed).integers(
        2, size=(resamples, sums.size), dtype=np.int8
    )
    hits = np.sum(np.abs((2 * draws - 1) @ sums) >= far)
    return float((1 + hits) / (1 + resamples))


def _sums_over_signs(terms: Float[np.ndarray, " g"]) -> Float[np.ndarray, " s"]:
    """The sums of `terms` under every choice of signs."""
    totals = np.zeros(1)
    for term in terms:
        totals = np.concatenate([totals + term, totals - term])
    return totals
