"""Losses of lists and of pairs from the library `rax`."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ._lists import at_least_one, check_lists, make_lists, mean_of_lists, positive_slots

_WIDTH = 128  # Positives, and negatives, that are compared at a time.


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
        positives: Right answers.
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
    most = check_lists(scores, positives, used, queries_used, max_positives)
    masks = jnp.asarray(positives), jnp.asarray(used)
    wanted = None if queries_used is None else jnp.asarray(queries_used)
    return _rax_loss(scores, *masks, wanted, loss=_softmax, most=most)


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

    The library's loss compares all images with all: it is given a block of positives
    and a block of negatives at a time, so that nothing is m x m.

    Args:
        scores: See `Objective`, as for what follows.
        positives: Right answers.
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
    most = check_lists(scores, positives, used, queries_used, max_positives)
    masks = jnp.asarray(positives), jnp.asarray(used)
    wanted = None if queries_used is None else jnp.asarray(queries_used)
    return _rax_loss(scores, *masks, wanted, loss=_hinge, most=most)


@functools.partial(jax.jit, static_argnames=("loss", "most"))
def _rax_loss(
    scores: Array,
    positives: Array,
    used: Array,
    queries_used: Array | None,
    *,
    loss: Callable[..., Array],
    most: int,
) -> Array:
    lists = make_lists(scores, positives, used, queries_used)
    # The library mixes types and ranks freely.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        per_query = jax.vmap(functools.partial(loss, most=most))(
            lists.scores, lists.positive, lists.negative
        )
    return mean_of_lists(per_query.astype(scores.dtype), lists, most=most)


def _softmax(z, positive, negative, *, most):
    del most
    import rax  # noqa: PLC0415  # Only these two losses need it.

    # Of an empty list it is not a number, in the value alone, which is not counted.
    return rax.softmax_loss(
        z,
        positive.astype(z.dtype) / at_least_one(positive, z.dtype),
        where=positive | negative,
        reduce_fn=jnp.sum,
    )


def _hinge(z, positive, negative, *, most):
    import rax  # noqa: PLC0415  # Only these two losses need it.

    slots, filled = positive_slots(positive, most=most)
    width = min(most, _WIDTH)
    labels = jnp.repeat(jnp.asarray([1, 0], z.dtype), width)

    def cut(values):
        blocks = -(-values.size // width)
        return jnp.pad(values, (0, blocks * width - values.size)).reshape(-1, width)

    def against(right, wrong):
        return rax.pairwise_hinge_loss(
            jnp.concatenate([right[0], wrong[0]]),
            labels,
            where=jnp.concatenate([right[1], wrong[1]]),
            reduce_fn=jnp.sum,
        )

    def row(right):
        # Nothing of a block is kept for its derivative.
        pairs = jax.checkpoint(functools.partial(against, right))
        return jnp.sum(jax.lax.map(pairs, (cut(z), cut(negative))))

    total = jnp.sum(jax.lax.map(row, (cut(z[slots]), cut(filled))))
    return total / (at_least_one(positive, z.dtype) * at_least_one(negative, z.dtype))
