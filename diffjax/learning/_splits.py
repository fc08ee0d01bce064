"""Splits of queries by what they show, fixed by a rule before anything is run."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

# Of the objects to learn on, those that choose and stop are one in so many.
_HELD_OUT_ONE_IN = 4


class Split(NamedTuple):
    """Which queries learn, which choose and which test; each is in one part.

    Attributes:
        train: Queries whose loss has a gradient.
        held_out: Queries that tell when to stop and which settings are best.
        test: Queries that nothing is chosen on.
    """

    train: Bool[np.ndarray, " q"]
    held_out: Bool[np.ndarray, " q"]
    test: Bool[np.ndarray, " q"]


def object_splits(
    objects: Sequence[str], *, splits: int = 10, seed: int = 0
) -> tuple[Split, ...]:
    """Splits queries by object, never by query alone.

    Two queries for one object are not independent: one in training and one in the test
    would show how well an object is remembered, not how well others are found. So all
    queries of an object are in one part. The rule, for split i of 0, 1, 2, ...: the
    sorted list of different objects is put in the order of
    `np.random.default_rng(seed + i).permutation`. The first half of it, the smaller
    where the number is odd, is to learn on, the rest is the test. Of that first half a
    quarter, rounded down but at least one, its first ones, are held out; the others
    train. Pictures of the database are not split: all are searched in every part.

    Args:
        objects: What each query shows.
        splits: Number of splits, at least 1.
        seed: Seed of the first split; the others follow it.

    Returns:
        The splits.

    Raises:
        ValueError: If there are fewer than four different objects (two to learn on are
            the fewest that can be split again), or `splits` or `seed` is too small.

    Example:
        >>> (split,) = object_splits(["a", "a", "b", "c", "d"], splits=1)
        >>> [int(part.sum()) for part in split]
        [2, 1, 2]
    """
    if splits < 1:
        raise ValueError(f"splits must be at least 1, got {splits}.")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}.")
    names, number = np.unique(np.asarray(objects, dtype=object), return_inverse=True)
    if names.size < 2 * 2:
        raise ValueError(
            "objects must be at least 4 different ones, 2 to learn on (1 of them held "
            f"out) and 2 to test on, got {names.size}: {', '.join(map(str, names))}."
        )
    learning = names.size // 2
    held_out = max(1, learning // _HELD_OUT_ONE_IN)
    made = []
    for i in range(splits):
        order = np.random.default_rng(seed + i).permutation(names.size)
        place = np.argsort(order)[number.reshape(-1)]
        made.append(
            Split(
                train=(place >= held_out) & (place < learning),
                held_out=place < held_out,
                test=place >= learning,
            )
        )
    return tuple(made)


def hold_out(objects: Sequence[str], *, seed: int = 0) -> Bool[np.ndarray, " q"]:
    """Draws a quarter of the objects, rounded down but at least one, to stop by.

    Args:
        objects: What each query shows.
        seed: Of the draw from the sorted list of different objects.

    Returns:
        Which queries are held out.

    Raises:
        ValueError: If there are fewer than two different objects.
    """
    names = sorted(set(objects))
    if len(names) < 2:
        raise ValueError(
            "objects must be at least 2, one to learn from and one to stop by, got "
            f"{len(names)}."
        )
    drawn = np.random.default_rng(seed).permutation(len(names))
    away = {names[i] for i in drawn[: max(1, len(names) // _HELD_OUT_ONE_IN)]}
    return np.array([name in away for name in objects])


def pool_splits(
    precision: Sequence[Float[np.ndarray, " q"]], splits: Sequence[Split]
) -> Float[np.ndarray, " q"]:
    """Takes for each query the mean over the splits in which it was tested.

    A query is tested in about half of the splits, so what comes out is not of
    independent numbers: give it to `evaluation.paired_bootstrap` with the objects as
    `groups`, once, not once per split.

    Args:
        precision: Per split the average precision of all queries; what it holds for
            queries that were not tested is not looked at.
        splits: The splits.

    Returns:
        One number per query; NaN where it was never tested, or is NaN wherever it was.

    Raises:
        ValueError: If there is not one array per split, with one number per query.
    """
    if len(precision) != len(splits) or not splits:
        raise ValueError(
            f"precision must have one array per split, {len(splits)} of them and at "
            f"least 1, got {len(precision)}."
        )
    queries = splits[0].test.shape
    for values, split in zip(precision, splits, strict=True):
        if not values.shape == split.test.shape == queries:
            raise ValueError(
                f"precision must have one number per query, {queries[0]}, got "
                f"{values.shape} for a split of {split.test.shape}."
            )
    values = np.stack(precision)
    counted = np.stack([split.test for split in splits]) & ~np.isnan(values)
    number = counted.sum(0)
    total = np.where(counted, values, 0).sum(0)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)
