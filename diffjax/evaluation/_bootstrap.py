"""Bootstrap intervals of a mean over queries, alone or between two methods."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ._groups import differences, sum_groups


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
        differences(values, baseline),
        groups=groups,
        level=level,
        resamples=resamples,
        seed=seed,
    )
