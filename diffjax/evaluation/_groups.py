"""Numbers of queries added up over what the queries belong to."""

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


def differences(
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
