"""Average precision by expectation: over the orders of tied images, and by chance."""

import numpy as np
from jaxtyping import Array, Float

from ._judged import split_truth
from ._precision import Report, make_report
from ._truth import Images, Truth, check_in_database, check_truth, in_query


def expected_average_precision(
    scores: Float[np.ndarray | Array, " m"],
    positives: Images,
    junk: Images = (),
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
    return _expected(np.asarray(scores), positives, junk, query=None)


def evaluate_scores(
    scores: Float[np.ndarray | Array, "m q"], benchmark: Truth
) -> Report:
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
    check_truth(
        benchmark, columns=table.shape[1], name="scores", num_images=table.shape[0]
    )
    per_query = [
        _expected(column, positives, junk, query=query)
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


def _expected(
    values: Float[np.ndarray, " m"],
    positives: Images,
    junk: Images,
    *,
    query: int | None,
) -> float:
    """`expected_average_precision`, naming the query in errors."""
    unknown = np.flatnonzero(np.isnan(values))
    if unknown.size:
        raise ValueError(
            f"scores must be numbers, got NaN for image {unknown[0]}{in_query(query)}."
        )
    for name, images in (("positives", positives), ("junk", junk)):
        check_in_database(name, images, num_images=values.size, query=query)
    right, ignored = split_truth(positives, junk, query=query)
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
