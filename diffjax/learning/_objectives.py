"""Objectives of learning: smooth average precision, softmax and hinge losses."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from diffjax._arguments import (
    check_in_range,
    check_matrix,
    check_not_downcast,
    is_concrete,
)
from diffjax.types import Scalar


class MaskedScores(NamedTuple):
    """Masked, standardised scores with their labels, one row per query.

    Attributes:
        scores: Standardised scores; 0 for images that are not used.
        positive: Positives among the images that are used.
        negative: Negatives among the images that are used.
        counted: Queries that count and have both; the masks of others are empty.
    """

    scores: Float[Array, "q m"]
    positive: Bool[Array, "q m"]
    negative: Bool[Array, "q m"]
    counted: Bool[Array, " q"]


def mask_scores(
    scores: Float[Array, "m q"],
    positives: Bool[Array, "m q"],
    used: Bool[Array, "m q"],
    queries_used: Bool[Array, " q"] | None,
) -> MaskedScores:
    """Masks the images that do not count, and standardises scores query by query.

    Args:
        scores: Image scores, one column per query.
        positives: Relevant images.
        used: Images that count.
        queries_used: Queries that count; None if all do.

    Returns:
        One row per query.
    """
    positive, negative = (positives & used).T, (~positives & used).T
    counted = positive.any(1) & negative.any(1)
    if queries_used is not None:
        counted &= queries_used
    positive, negative = positive & counted[:, None], negative & counted[:, None]
    standard = jax.vmap(standardize_scores)(scores.T, positive | negative)
    return MaskedScores(standard, positive, negative, counted)


def standardize_scores(
    scores: Float[Array, " m"], used: Bool[Array, " m"]
) -> Float[Array, " m"]:
    r"""Standardises scores to mean 0 and variance 1 over the images that are used.

    z_i = (s_i - mean) / sqrt(mean of (s - mean)^2). Scores of a diffusion are tiny, and
    smaller for one query than for another; z is the same for a s + b, a > 0, whatever a
    and b are, so one temperature suits all. Squares of tiny numbers vanish in float32,
    so scores are first taken to [0, 1]; as z does not depend on that, nothing is lost
    by leaving it out of the gradient.

    Args:
        scores: Scores of one query.
        used: Images that count.

    Returns:
        z; 0 for images that are not used, and for all, with gradient 0, where all
        scores are the same. NaN among the scores that are used makes all of them NaN.
    """
    used_scores = jnp.where(used, scores, jnp.zeros_like(scores))
    low = jnp.min(scores, where=used, initial=jnp.inf)
    high = jnp.max(scores, where=used, initial=-jnp.inf)
    low = jax.lax.stop_gradient(jnp.where(low <= high, low, 0))
    spread = jax.lax.stop_gradient(jnp.where(high > low, high - low, 1))
    scaled = jnp.where(used, (used_scores - low) / spread, jnp.zeros_like(used_scores))
    count = jnp.maximum(jnp.sum(used, dtype=scores.dtype), 1)
    centred = scaled - jnp.sum(scaled) / count
    centred = jnp.where(used, centred, jnp.zeros_like(centred))
    variance = jnp.sum(centred**2) / count
    # Exactly 0 where all scores are the same: they are then all 0 above. NaN is not.
    is_flat = variance == 0
    deviation = jnp.sqrt(jnp.where(is_flat, jnp.ones_like(variance), variance))
    return jnp.where(is_flat, jnp.zeros_like(centred), centred / deviation)


def check_objective_arguments(
    scores: Any, positives: Any, used: Any, queries_used: Any, max_positives: int | None
) -> int:
    """Validates the arguments of an objective; returns the number of positive slots."""
    check_matrix("scores", scores)
    check_not_downcast("scores", scores)
    m, q = scores.shape
    if m == 0:
        raise ValueError(f"scores must have a row per image, got {(m, q)}.")
    for name, mask in (("positives", positives), ("used", used)):
        if mask.shape != (m, q):
            raise ValueError(
                f"{name} must have the shape of scores, {(m, q)}, got {mask.shape}."
            )
    if queries_used is not None and queries_used.shape != (q,):
        raise ValueError(
            f"queries_used must have one entry per query, {q}, got "
            f"{queries_used.shape}."
        )
    if max_positives is not None and max_positives < 1:
        raise ValueError(f"max_positives must be at least 1, got {max_positives}.")
    if not (is_concrete(positives) and is_concrete(used)):
        return m if max_positives is None else min(max_positives, m)
    counts = np.sum(np.asarray(positives) & np.asarray(used), axis=0)
    if queries_used is not None and is_concrete(queries_used):
        counts = counts * np.asarray(queries_used)
    num_slots = int(counts.max(initial=1))
    if max_positives is not None and max_positives < num_slots:
        raise ValueError(
            f"max_positives must be at least {num_slots}, got {max_positives}."
        )
    return min(num_slots if max_positives is None else max_positives, m)


def positive_slots(
    positive: Bool[Array, " m"], *, num_slots: int
) -> tuple[Int[Array, " p"], Bool[Array, " p"]]:
    """Positions of the positives in `num_slots` slots, and the mask of filled slots."""
    slots = jnp.nonzero(positive, size=num_slots, fill_value=0)[0]
    return slots, jnp.arange(num_slots) < jnp.sum(positive)


def count_at_least_one(mask: Bool[Array, " m"], dtype: Any) -> Float[Array, ""]:
    """Number of images in a mask, 1 for an empty one, whose sums are 0 anyway."""
    return jnp.maximum(jnp.sum(mask, dtype=dtype), 1)


def mean_over_queries(
    per_query: Float[Array, " q"], masked_scores: MaskedScores, *, num_slots: int
) -> Float[Array, ""]:
    """Mean over the queries that count; 0 if there is none."""
    # A query with more positives than slots makes the mean NaN.
    fits = jnp.sum(masked_scores.positive, axis=1) <= num_slots
    valid_losses = jnp.where(fits, per_query, jnp.full_like(per_query, jnp.nan))
    total = jnp.sum(
        jnp.where(masked_scores.counted, valid_losses, jnp.zeros_like(valid_losses))
    )
    return total / count_at_least_one(masked_scores.counted, per_query.dtype)


_HINGE_BLOCK = 128  # Positives, and negatives, compared at a time.


def listwise_softmax(
    scores: Float[Array, "m q"],
    positives: Bool[Array | np.ndarray, "m q"],
    used: Bool[Array | np.ndarray, "m q"],
    *,
    queries_used: Bool[Array | np.ndarray, " q"] | None = None,
    max_positives: int | None = None,
) -> Float[Array, ""]:
    r"""Computes the cross-entropy of a softmax over the list of each query.

    With z the standardised scores and P the positives of a query, the loss is
    -1/|P| sum_{i in P} log(exp(z_i) / sum_j exp(z_j)), j running over the images that
    are used.

    Args:
        scores: See `Objective`, as for what follows.
        positives: Relevant images.
        used: Images that count.
        queries_used: Queries that count.
        max_positives: Most positives of any query; no cost depends on it.

    Returns:
        The loss, above 0.

    Raises:
        ValueError: If shapes differ or `max_positives` is too small.

    References:
        `rax.softmax_loss`, https://github.com/google/rax; read as code.
    """
    num_slots = check_objective_arguments(
        scores, positives, used, queries_used, max_positives
    )
    masks = jnp.asarray(positives), jnp.asarray(used)
    query_mask = None if queries_used is None else jnp.asarray(queries_used)
    return _rax_loss(
        scores, *masks, query_mask, loss=_rax_softmax_loss, num_slots=num_slots
    )


def pairwise_hinge(
    scores: Float[Array, "m q"],
    positives: Bool[Array | np.ndarray, "m q"],
    used: Bool[Array | np.ndarray, "m q"],
    *,
    queries_used: Bool[Array | np.ndarray, " q"] | None = None,
    max_positives: int | None = None,
) -> Float[Array, ""]:
    r"""Computes the hinge loss over pairs of a positive and a negative.

    With z the standardised scores, P the positives and N the negatives of a query, the
    loss is 1/(|P| |N|) sum_{i in P, j in N} max(0, 1 - (z_i - z_j)).

    The loss of rax compares all images with all: it gets a block of positives and a
    block of negatives at a time, so that no array is m x m.

    Args:
        scores: See `Objective`, as for what follows.
        positives: Relevant images.
        used: Images that count.
        queries_used: Queries that count.
        max_positives: Most positives of any query.

    Returns:
        The loss, at least 0.

    Raises:
        ValueError: If shapes differ or `max_positives` is too small.

    References:
        `rax.pairwise_hinge_loss`, https://github.com/google/rax; read as code.
    """
    num_slots = check_objective_arguments(
        scores, positives, used, queries_used, max_positives
    )
    masks = jnp.asarray(positives), jnp.asarray(used)
    query_mask = None if queries_used is None else jnp.asarray(queries_used)
    return _rax_loss(
        scores, *masks, query_mask, loss=_rax_hinge_loss, num_slots=num_slots
    )


@functools.partial(jax.jit, static_argnames=("loss", "num_slots"))
def _rax_loss(
    scores: Array,
    positives: Array,
    used: Array,
    queries_used: Array | None,
    *,
    loss: Callable[..., Array],
    num_slots: int,
) -> Array:
    masked_scores = mask_scores(scores, positives, used, queries_used)
    # The library mixes types and ranks freely.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        per_query = jax.vmap(functools.partial(loss, num_slots=num_slots))(
            masked_scores.scores, masked_scores.positive, masked_scores.negative
        )
    return mean_over_queries(
        per_query.astype(scores.dtype), masked_scores, num_slots=num_slots
    )


def _rax_softmax_loss(z, positive, negative, *, num_slots):
    del num_slots
    import rax  # noqa: PLC0415  # Only these two losses need it.

    # The loss of an empty list is NaN, in the value alone, which is not counted.
    return rax.softmax_loss(
        z,
        positive.astype(z.dtype) / count_at_least_one(positive, z.dtype),
        where=positive | negative,
        reduce_fn=jnp.sum,
    )


def _rax_hinge_loss(z, positive, negative, *, num_slots):
    import rax  # noqa: PLC0415  # Only these two losses need it.

    slots, filled = positive_slots(positive, num_slots=num_slots)
    width = min(num_slots, _HINGE_BLOCK)
    labels = jnp.repeat(jnp.asarray([1, 0], z.dtype), width)

    def split_into_blocks(values):
        blocks = -(-values.size // width)
        return jnp.pad(values, (0, blocks * width - values.size)).reshape(-1, width)

    def block_loss(positive_block, negative_block):
        return rax.pairwise_hinge_loss(
            jnp.concatenate([positive_block[0], negative_block[0]]),
            labels,
            where=jnp.concatenate([positive_block[1], negative_block[1]]),
            reduce_fn=jnp.sum,
        )

    def positive_block_loss(positive_block):
        # Checkpointed: no intermediate array of a block is stored for the gradient.
        pairs = jax.checkpoint(functools.partial(block_loss, positive_block))
        return jnp.sum(
            jax.lax.map(pairs, (split_into_blocks(z), split_into_blocks(negative)))
        )

    total = jnp.sum(
        jax.lax.map(
            positive_block_loss,
            (split_into_blocks(z[slots]), split_into_blocks(filled)),
        )
    )
    return total / (
        count_at_least_one(positive, z.dtype) * count_at_least_one(negative, z.dtype)
    )


_MAX_BLOCK_NUMBERS = 2**22  # Of one intermediate array, so 16 MiB in float32.


@runtime_checkable
class Objective(Protocol):
    """Loss of image scores, lower where positives rank first.

    Objectives standardise the scores of each query over the images that are used, so
    that neither scale nor offset of the scores matters, and average over the queries
    that count: those that are used and have a positive and a negative. Without any the
    loss and its gradient are 0.
    """

    def __call__(
        self,
        scores: Float[Array, "m q"],
        positives: Bool[Array | np.ndarray, "m q"],
        used: Bool[Array | np.ndarray, "m q"],
        *,
        queries_used: Bool[Array | np.ndarray, " q"] | None = None,
        max_positives: int | None = None,
    ) -> Float[Array, ""]:
        """Computes the loss.

        Args:
            scores: Image scores, one column per query, higher is better.
            positives: Relevant images of each query.
            used: Images that count for each query: not junk, no padding, not the query
                itself. An image that is not used is no positive either.
            queries_used: Queries that count, padding of a batch does not; None for all.
            max_positives: Most positives of any query, a bound on time and memory. None
                counts concrete ones, and allows for m if they are traced.

        Returns:
            The loss; NaN where a query that counts has more positives than
            `max_positives`, or a score is NaN.
        """
        ...


def smooth_average_precision(
    scores: Float[Array, "m q"],
    positives: Bool[Array | np.ndarray, "m q"],
    used: Bool[Array | np.ndarray, "m q"],
    *,
    queries_used: Bool[Array | np.ndarray, " q"] | None = None,
    max_positives: int | None = None,
    temperature: Scalar = 0.01,
) -> Float[Array, ""]:
    r"""Computes 1 - AP with ranks smoothed by a sigmoid (Smooth-AP).

    With z the standardised scores, P the positives and N the negatives of a query,

        AP = 1/|P| sum_{i in P} R_P(i) / (R_P(i) + R_N(i)),
        R_P(i) = 1 + sum_{j in P, j != i} sigma((z_j - z_i) / temperature),
        R_N(i) = sum_{j in N} sigma((z_j - z_i) / temperature).

    As the temperature goes to 0 it tends, without ties, to the mean of the precisions
    at the ranks of the positives: the area by rectangles, not by the trapezoids of
    `evaluation.average_precision`, which it exceeds a little.

    Memory is a block of positives times images; nothing is m x m.

    Args:
        scores: See `Objective`, as for what follows.
        positives: Relevant images.
        used: Images that count.
        queries_used: Queries that count.
        max_positives: Most positives of any query.
        temperature: Of the sigmoid, above 0, in standard deviations of a query's
            scores; may be traced.

    Returns:
        The loss, in [0, 1).

    Raises:
        ValueError: If shapes differ, `max_positives` is too small, or `temperature` is
            not above 0.

    References:
        Brown, Xie, Kalogeiton and Zisserman, Smooth-AP: Smoothing the path towards
        large-scale image retrieval, ECCV 2020, https://arxiv.org/abs/2007.12163; read
        from copies of the authors' program and cited without equation numbers, as the
        paper was not at hand. There scores are cosines and are not standardised.

    Example:
        A positive behind one negative: precision 1/2.

        >>> import jax.numpy as jnp
        >>> scores, used = jnp.array([[3.0], [2.0], [1.0]]), jnp.ones((3, 1), bool)
        >>> positives = jnp.array([[False], [True], [False]])
        >>> float(smooth_average_precision(scores, positives, used))
        0.5
    """
    check_in_range("temperature", temperature, low=0, high=float("inf"))
    num_slots = check_objective_arguments(
        scores, positives, used, queries_used, max_positives
    )
    return _smooth_average_precision(
        scores,
        jnp.asarray(positives),
        jnp.asarray(used),
        None if queries_used is None else jnp.asarray(queries_used),
        jnp.asarray(temperature, scores.dtype),
        num_slots=num_slots,
    )


@functools.partial(jax.jit, static_argnames="num_slots")
def _smooth_average_precision(
    scores: Array,
    positives: Array,
    used: Array,
    queries_used: Array | None,
    temperature: Array,
    *,
    num_slots: int,
) -> Array:
    masked_scores = mask_scores(scores, positives, used, queries_used)
    queries, images = masked_scores.scores.shape
    block = max(1, min(_MAX_BLOCK_NUMBERS // max(queries * images, 1), num_slots))

    def query_precision(z, positive, negative):
        def precision_at(image):
            soft_comparison = jax.nn.sigmoid((z - z[image]) / temperature)
            # Without the image itself, whose rank is the 1.
            other_positives = positive & (jnp.arange(images) != image)
            positive_rank = 1 + jnp.sum(soft_comparison, where=other_positives)
            return positive_rank / (
                positive_rank + jnp.sum(soft_comparison, where=negative)
            )

        slots, filled = positive_slots(positive, num_slots=num_slots)
        # Checkpointed: no intermediate array of a block is stored for the gradient.
        values = jax.lax.map(jax.checkpoint(precision_at), slots, batch_size=block)
        return jnp.sum(values, where=filled) / count_at_least_one(positive, z.dtype)

    precisions = jax.vmap(query_precision)(
        masked_scores.scores, masked_scores.positive, masked_scores.negative
    )
    return mean_over_queries(1 - precisions, masked_scores, num_slots=num_slots)


# Objectives by the names that settings and commands use.
OBJECTIVES: Mapping[str, Objective] = {
    "smooth-ap": smooth_average_precision,
    "softmax": listwise_softmax,
    "hinge": pairwise_hinge,
}
