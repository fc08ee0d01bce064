"""One vector out of the cells of a map: maximum, mean and generalised mean."""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from diffjax._arguments import check_in_range, is_concrete
from diffjax.types import Scalar


@runtime_checkable
class Aggregate(Protocol):
    """What takes the cells of each map that a mask allows to one vector.

    `mac`, `spoc`, `gem`, `crow` and `netvlad` are of this kind. Each is pure and
    differentiable; a cell outside the mask is never used, whatever it holds, and a mask
    without a cell gives zeros with zero gradients. Settings beside the defaults, such
    as the power of `gem` or the layer of `netvlad`, are bound with
    `jax.tree_util.Partial(gem, p=p)`: they stay arguments of the compiled program, so
    another value needs no new one, and gradients reach them.
    """

    def __call__(
        self, maps: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], /
    ) -> Float[Array, "b f"]:
        """Aggregates every map of a batch.

        Args:
            maps: Feature maps.
            mask: The cells to use.
        """
        ...


def mac(
    maps: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]
) -> Float[Array, "b c"]:
    r"""Takes the maximum of every channel: v_c = max_i x_ic over the cells i.

    Args:
        maps: Feature maps.
        mask: The cells to use.

    Returns:
        One vector per map; zeros where the mask has no cell.

    References:
        Razavian, Sullivan, Carlsson and Maki, Visual instance retrieval with deep
        convolutional networks, ITE Trans. 4(3), 2016, https://arxiv.org/abs/1412.6574.
        Tolias, Sicre and Jegou, ICLR 2016, https://arxiv.org/abs/1511.05879, where it
        has its name.
    """
    top = jnp.where(mask[..., None], maps, -jnp.inf).max((1, 2))
    return jnp.where(_some(mask), top, 0)


def spoc(
    maps: Float[Array, "b h w c"],
    mask: Bool[Array, "b h w"],
    *,
    centre_prior: bool | Bool[Array, ""] = False,
) -> Float[Array, "b c"]:
    r"""Takes the weighted mean of every channel: v_c = sum_i w_i x_ic / sum_i w_i.

    Without the prior w = 1. The authors take the sum, which is the same vector but for
    its length. Their prior favours the middle: w = exp(-r^2 / (2 s^2)), r being the
    distance from the centre of the cells used, and s a third of the distance from the
    centre to the nearest edge.

    Args:
        maps: Feature maps.
        mask: The cells to use; centre and edges are those of the smallest box around
            them.
        centre_prior: Whether cells in the middle count more.

    Returns:
        One vector per map; zeros where the mask has no cell.

    References:
        Babenko and Lempitsky, Aggregating deep convolutional features for image
        retrieval, ICCV 2015, https://arxiv.org/abs/1510.07493. Cited without a number:
        the prior is written as other programs have it.
    """
    closeness = jnp.where(centre_prior, _closeness(mask, maps.dtype), 0)
    # Only ratios of weights count: the largest is made 1, so that not all underflow.
    largest = jnp.where(mask, closeness, -jnp.inf).max((1, 2), keepdims=True)
    some = _some(mask)
    shifted = closeness - jnp.where(some[..., None], largest, 0)
    weights = jnp.where(mask, jnp.exp(jnp.where(mask, shifted, 0)), 0)
    # A weight of 0 would not stop a NaN outside the mask.
    kept = jnp.where(mask[..., None], maps, 0)
    total = weights.sum((1, 2))[:, None]
    return (weights[..., None] * kept).sum((1, 2)) / jnp.where(some, total, 1)


def gem(
    maps: Float[Array, "b h w c"],
    mask: Bool[Array, "b h w"],
    *,
    p: Scalar | Float[Array | np.ndarray, " c"] = 3.0,
    eps: Scalar = 1e-6,
) -> Float[Array, "b c"]:
    r"""Takes the generalised mean of every channel: (mean_i max(x_ic, eps)^p)^(1/p).

    p = 1 is `spoc` on maps without negative entries, and p to infinity tends to `mac`.
    The largest cell is taken out before the power, so that a large p neither overflows
    nor underflows.

    Args:
        maps: Feature maps; an infinite entry comes out as NaN.
        mask: The cells to use.
        p: Power, above 0: one for all channels, or one for each; may be traced and
            differentiated.
        eps: What entries below it become, above 0.

    Returns:
        One vector per map, at least eps; zeros where the mask has no cell.

    Raises:
        ValueError: If `p` or `eps` is not above 0, or `p` has a shape that fits no map.

    References:
        Radenovic, Tolias and Chum, Fine-tuning CNN image retrieval with no human
        annotation, TPAMI 2018, https://arxiv.org/abs/1711.02512. eps is that of the
        authors' program.
    """
    channels = maps.shape[-1]
    if np.shape(p) not in {(), (channels,)}:
        raise ValueError(
            f"p must be a number or one for each of {channels} channels, got shape "
            f"{np.shape(p)}."
        )
    if is_concrete(p):
        for end in (np.min(np.asarray(p)), np.max(np.asarray(p))):
            check_in_range("p", end, low=0, high=np.inf)
    check_in_range("eps", eps, low=0, high=np.inf)
    dtype = maps.dtype
    power = jnp.broadcast_to(jnp.asarray(p, dtype), (channels,))
    inside = mask[..., None]
    kept = jnp.maximum(jnp.where(inside, maps, 0), jnp.asarray(eps, dtype))
    # The result does not change with size: no gradient needs to pass through it.
    size = jax.lax.stop_gradient(jnp.where(inside, kept, 0).max((1, 2)))
    size = jnp.where(_some(mask), size, 1)
    share = jnp.maximum(kept / size[:, None, None, :], jnp.finfo(dtype).tiny)
    powers = jnp.where(inside, jnp.exp(power[None, None, None] * jnp.log(share)), 0)
    count = jnp.maximum(mask.sum((1, 2)), 1).astype(dtype)[:, None]
    mean = jnp.where(_some(mask), powers.sum((1, 2)) / count, 1)
    return jnp.where(_some(mask), size * jnp.exp(jnp.log(mean) / power[None]), 0)


def _some(mask: Bool[Array, "b h w"]) -> Bool[Array, "b 1"]:
    """Whether a map has any cell to use."""
    return mask.any((1, 2))[:, None]


def _closeness(mask: Bool[Array, "b h w"], dtype: np.dtype) -> Float[Array, "b h w"]:
    """The exponents of the centre prior, -r^2 / (2 s^2)."""
    (rows, height), (columns, width) = (
        _from_centre(mask.any(axis), dtype) for axis in (2, 1)
    )
    width_of_prior = jnp.minimum(height, width) / 6
    square = rows[:, :, None] ** 2 + columns[:, None, :] ** 2
    return -square / (2 * width_of_prior[:, None, None] ** 2)


def _from_centre(
    used: Bool[Array, "b n"], dtype: np.dtype
) -> tuple[Float[Array, "b n"], Float[Array, " b"]]:
    """Distances from the middle of what is used along one axis, and its length."""
    length = used.shape[1]
    first = used.argmax(1)
    end = length - used[:, ::-1].argmax(1)
    middles = 2 * jnp.arange(length, dtype=first.dtype) + 1
    twice = middles[None, :] - (first + end)[:, None]
    return twice.astype(dtype) / 2, (end - first).astype(dtype)
