"""Cross-dimensional weighting: a sum over cells, weighted by place and by channel."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from diffjax._arguments import check_in_range
from diffjax.types import Scalar


def crow(
    maps: Float[Array, "b h w c"],
    mask: Bool[Array, "b h w"],
    *,
    a: Scalar = 2.0,
    b: Scalar = 2.0,
) -> Float[Array, "b c"]:
    r"""Sums the cells i of every channel c: v_c = I_c sum_i S_i x_ic.

    S_i = (s_i / |s|_a)^(1/b), s_i being the sum over channels: cells where much is seen
    count more. I_c = log(sum_c' q_c' / q_c), q_c being the proportion of cells where
    channel c is not zero: channels that are seldom seen count more.

    A cell or channel of zeros has weight 0. The proportions are counts, so no gradient
    passes through I.

    Args:
        maps: Feature maps without negative entries, as after a ReLU: a cell whose sum
            is negative has no root, and NaN comes out.
        mask: The cells to use.
        a: Order of the norm, above 0; may be traced and differentiated.
        b: Root, above 0; may be traced and differentiated.

    Returns:
        One vector per map; zeros where the mask has no cell, and where only one channel
        is active.

    Raises:
        ValueError: If `a` or `b` is not above 0.

    References:
        Kalantidis, Mellina and Osindero, Cross-dimensional weighting for aggregated
        deep convolutional features, ECCV Workshops 2016,
        https://arxiv.org/abs/1512.04065. Weights, defaults and the zero for a silent
        channel are those of the authors' program; the paper is cited without numbers.
    """
    check_in_range("a", a, low=0, high=np.inf)
    check_in_range("b", b, low=0, high=np.inf)
    kept = jnp.where(mask[..., None], maps, 0)
    places = _place_weights(
        kept.sum(-1), jnp.asarray(a, maps.dtype), jnp.asarray(b, maps.dtype)
    )
    return _channel_weights(kept) * (places[..., None] * kept).sum((1, 2))


def _place_weights(
    sums: Float[Array, "b h w"], a: Float[Array, ""], b: Float[Array, ""]
) -> Float[Array, "b h w"]:
    # The weights do not change with size: no gradient needs to pass through it.
    size = jax.lax.stop_gradient(jnp.abs(sums).max((1, 2), keepdims=True))
    share = sums / jnp.where(size == 0, 1, size)
    # The root is steep at 0, but x_ic S_i is flat there: S may be a constant.
    zero = share == 0
    share = jnp.where(zero, 1, share)
    mass = jnp.where(zero, 0, share**a).sum((1, 2), keepdims=True)
    norm = jnp.where(mass == 0, 1, mass) ** (1 / a)
    return jnp.where(zero, 0, (share / norm) ** (1 / b))


def _channel_weights(maps: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
    counts = (maps != 0).sum((1, 2)).astype(maps.dtype)
    total = counts.sum(-1, keepdims=True)
    silent = counts == 0
    ratio = jnp.where(silent, 1, total) / jnp.where(silent, 1, counts)
    return jnp.log(ratio)
