"""Scores of queries made ready for an objective: masked, and of one scale."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from diffjax._arguments import check_matrix, check_not_halved, is_concrete


class Lists(NamedTuple):
    """What an objective looks at, one row per query.

    Attributes:
        scores: Standardised scores; 0 for images that are not used.
        positive: Right answers among the images that are used.
        negative: The others among them.
        counted: Queries that have both and are wanted; the rows of the others are
            empty.
    """

    scores: Float[Array, "q m"]
    positive: Bool[Array, "q m"]
    negative: Bool[Array, "q m"]
    counted: Bool[Array, " q"]


def make_lists(
    scores: Float[Array, "m q"],
    positives: Bool[Array, "m q"],
    used: Bool[Array, "m q"],
    queries_used: Bool[Array, " q"] | None,
) -> Lists:
    """Takes out what does not count and standardises what is left, query by query.

    Args:
        scores: Image scores, one column per query.
        positives: Right answers.
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
    standard = jax.vmap(standardize)(scores.T, positive | negative)
    return Lists(standard, positive, negative, counted)


def standardize(
    scores: Float[Array, " m"], used: Bool[Array, " m"]
) -> Float[Array, " m"]:
    r"""Takes scores to mean 0 and variance 1 over the images that are used.

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
    kept = jnp.where(used, scores, jnp.zeros_like(scores))
    low = jnp.min(scores, where=used, initial=jnp.inf)
    high = jnp.max(scores, where=used, initial=-jnp.inf)
    low = jax.lax.stop_gradient(jnp.where(low <= high, low, 0))
    spread = jax.lax.stop_gradient(jnp.where(high > low, high - low, 1))
    scaled = jnp.where(used, (kept - low) / spread, jnp.zeros_like(kept))
    count = jnp.maximum(jnp.sum(used, dtype=scores.dtype), 1)
    centred = scaled - jnp.sum(scaled) / count
    centred = jnp.where(used, centred, jnp.zeros_like(centred))
    variance = jnp.sum(centred**2) / count
    # Exactly 0 where all scores are the same: they are then all 0 above. NaN is not.
    flat = variance == 0
    deviation = jnp.sqrt(jnp.where(flat, jnp.ones_like(variance), variance))
    return jnp.where(flat, jnp.zeros_like(centred), centred / deviation)


def check_lists(
    scores: Any, positives: Any, used: Any, queries_used: Any, max_positives: int | None
) -> int:
    """Refuses what does not fit together; returns how many positives to allow for."""
    check_matrix("scores", scores)
    check_not_halved("scores", scores)
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
    most = int(counts.max(initial=1))
    if max_positives is not None and max_positives < most:
        raise ValueError(f"max_positives must be at least {most}, got {max_positives}.")
    return min(most if max_positives is None else max_positives, m)


def positive_slots(
    positive: Bool[Array, " m"], *, most: int
) -> tuple[Int[Array, " p"], Bool[Array, " p"]]:
    """Where the positives are, in `most` slots, and which slots are filled."""
    slots = jnp.nonzero(positive, size=most, fill_value=0)[0]
    return slots, jnp.arange(most) < jnp.sum(positive)


def at_least_one(mask: Bool[Array, " m"], dtype: Any) -> Float[Array, ""]:
    """The number of images in a mask, 1 for none: those have weight 0 anyway."""
    return jnp.maximum(jnp.sum(mask, dtype=dtype), 1)


def mean_of_lists(
    per_query: Float[Array, " q"], lists: Lists, *, most: int
) -> Float[Array, ""]:
    """The mean over the queries that count; 0 if there is none."""
    # Positives that were left out for want of slots must not go unseen.
    fits = jnp.sum(lists.positive, axis=1) <= most
    known = jnp.where(fits, per_query, jnp.full_like(per_query, jnp.nan))
    total = jnp.sum(jnp.where(lists.counted, known, jnp.zeros_like(known)))
    return total / at_least_one(lists.counted, per_query.dtype)
