"""What learning makes smaller, first of all smooth average precision."""

import functools
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from diffjax._arguments import check_in_range
from diffjax.types import Scalar

from ._lists import at_least_one, check_lists, make_lists, mean_of_lists, positive_slots
from ._rax_losses import listwise_softmax, pairwise_hinge

_NUMBERS_AT_ONCE = 2**22  # Of one intermediate array, so 16 MiB in float32.


@runtime_checkable
class Objective(Protocol):
    """A loss of image scores, lower where positives come first.

    All of them standardise the scores of each query over the images that are used, so
    that neither the size of the scores nor their offset matters, and take the mean over
    the queries that count: those that are used and have a positive and a negative.
    Where none does the loss is 0, and so is its gradient.
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
            positives: Right answers of each query.
            used: Images that count for each query: not junk, no padding, not the query
                itself. What is not used is no positive either.
            queries_used: Queries that count, padding of a batch does not; None for all.
            max_positives: Most positives that any query has, a bound on time and
                memory. None counts them where they have values and else allows for m.

        Returns:
            The loss; not a number where a query that counts has more positives than
            `max_positives`, or a score that is not a number.
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
    r"""Computes 1 - AP with ranks made smooth by a sigmoid.

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
        positives: Right answers.
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
    most = check_lists(scores, positives, used, queries_used, max_positives)
    return _smooth(
        scores,
        jnp.asarray(positives),
        jnp.asarray(used),
        None if queries_used is None else jnp.asarray(queries_used),
        jnp.asarray(temperature, scores.dtype),
        most=most,
    )


@functools.partial(jax.jit, static_argnames="most")
def _smooth(
    scores: Array,
    positives: Array,
    used: Array,
    queries_used: Array | None,
    temperature: Array,
    *,
    most: int,
) -> Array:
    lists = make_lists(scores, positives, used, queries_used)
    queries, images = lists.scores.shape
    block = max(1, min(_NUMBERS_AT_ONCE // max(queries * images, 1), most))

    def precision(z, positive, negative):
        def at(image):
            above = jax.nn.sigmoid((z - z[image]) / temperature)
            # Its own 1/2 is taken out, and its own rank counts as 1.
            others = positive & (jnp.arange(images) != image)
            right = 1 + jnp.sum(above, where=others)
            return right / (right + jnp.sum(above, where=negative))

        slots, filled = positive_slots(positive, most=most)
        # Nothing of a block is kept for its derivative.
        values = jax.lax.map(jax.checkpoint(at), slots, batch_size=block)
        return jnp.sum(values, where=filled) / at_least_one(positive, z.dtype)

    smooth = jax.vmap(precision)(lists.scores, lists.positive, lists.negative)
    return mean_of_lists(1 - smooth, lists, most=most)


# By the names that settings and commands use.
OBJECTIVES: Mapping[str, Objective] = {
    "smooth-ap": smooth_average_precision,
    "softmax": listwise_softmax,
    "hinge": pairwise_hinge,
}
