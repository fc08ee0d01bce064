"""Region pooling of feature maps: MAC, SPoC, GeM and CroW, and the unit length."""

import functools
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

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
    return jnp.where(_has_cells(mask), top, 0)


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
    closeness = jnp.where(centre_prior, _centre_prior_exponents(mask, maps.dtype), 0)
    # Only ratios of weights count: the largest is made 1, so that not all underflow.
    largest = jnp.where(mask, closeness, -jnp.inf).max((1, 2), keepdims=True)
    some = _has_cells(mask)
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
    size = jnp.where(_has_cells(mask), size, 1)
    share = jnp.maximum(kept / size[:, None, None, :], jnp.finfo(dtype).tiny)
    powers = jnp.where(inside, jnp.exp(power[None, None, None] * jnp.log(share)), 0)
    count = jnp.maximum(mask.sum((1, 2)), 1).astype(dtype)[:, None]
    mean = jnp.where(_has_cells(mask), powers.sum((1, 2)) / count, 1)
    return jnp.where(_has_cells(mask), size * jnp.exp(jnp.log(mean) / power[None]), 0)


def _has_cells(mask: Bool[Array, "b h w"]) -> Bool[Array, "b 1"]:
    """Whether a map has any cell to use."""
    return mask.any((1, 2))[:, None]


def _centre_prior_exponents(
    mask: Bool[Array, "b h w"], dtype: np.dtype
) -> Float[Array, "b h w"]:
    """The exponents of the centre prior, -r^2 / (2 s^2)."""
    (rows, height), (columns, width) = (
        _distances_from_centre(mask.any(axis), dtype) for axis in (2, 1)
    )
    width_of_prior = jnp.minimum(height, width) / 6
    square = rows[:, :, None] ** 2 + columns[:, None, :] ** 2
    return -square / (2 * width_of_prior[:, None, None] ** 2)


def _distances_from_centre(
    used: Bool[Array, "b n"], dtype: np.dtype
) -> tuple[Float[Array, "b n"], Float[Array, " b"]]:
    """Distances from the middle of what is used along one axis, and its length."""
    length = used.shape[1]
    first = used.argmax(1)
    end = length - used[:, ::-1].argmax(1)
    middles = 2 * jnp.arange(length, dtype=first.dtype) + 1
    twice = middles[None, :] - (first + end)[:, None]
    return twice.astype(dtype) / 2, (end - first).astype(dtype)


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
    places = _spatial_weights(
        kept.sum(-1), jnp.asarray(a, maps.dtype), jnp.asarray(b, maps.dtype)
    )
    return _channel_weights(kept) * (places[..., None] * kept).sum((1, 2))


def _spatial_weights(
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


def pool_regions(
    maps: Float[Array, "b h w c"],
    boxes: Int[Array, "b r 4"],
    *,
    aggregate: Aggregate = mac,
) -> Float[Array, "b r f"]:
    """Takes every region of every map to one vector.

    One region of all maps at a time, so memory is a few copies of `maps`, whatever the
    number of regions, also for gradients.

    Args:
        maps: Feature maps; what lies outside the boxes is never used.
        boxes: (y0, x0, y1, x1) in cells, the last row and column not included. A box
            without a cell is an empty slot.
        aggregate: `mac`, `spoc`, `gem`, `crow`, or a function like them; one with
            settings is `jax.tree_util.Partial(gem, p=p)`, or a `functools.partial`,
            which is taken as that. The settings are arguments of the compiled program:
            a new value compiles nothing, and gradients reach it.

    Returns:
        One vector per box, f numbers as the aggregate has it; zeros for an empty slot.

    Raises:
        ValueError: If `aggregate` is no function, or a setting of it is out of range.
    """
    return _pool_regions(maps, boxes, _bind_settings(aggregate, maps))


def aggregate_maps(
    maps: Float[Array, "b h w c"],
    cells: Int[Array, "b 2"],
    *,
    aggregate: Aggregate = mac,
) -> Float[Array, "b f"]:
    """Takes every map as a whole to one vector.

    Args:
        maps: Feature maps.
        cells: (rows, columns) of each map; what lies beyond is padding and never used.
        aggregate: As in `pool_regions`.

    Returns:
        One vector per map, f numbers as the aggregate has it.

    Raises:
        ValueError: As in `pool_regions`.
    """
    whole = jnp.concatenate([jnp.zeros_like(cells), cells], 1)
    return pool_regions(maps, whole[:, None], aggregate=aggregate)[:, 0]


def l2_normalize(vectors: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """Scales vectors to unit length: x / |x|.

    A zero vector stays zero, with a zero gradient; NaN and infinity come out as NaN.

    Args:
        vectors: Any vectors along the last axis, of any length: one whose square is
            below or above the range of the type is normalised, too.

    Returns:
        Vectors of length 1 or 0.
    """
    # |x| does not change with x / size: no gradient needs to pass through size.
    size = jax.lax.stop_gradient(jnp.abs(vectors).max(-1, keepdims=True, initial=0))
    zero = size == 0
    scaled = vectors / jnp.where(zero, 1, size)
    square = jnp.sum(scaled**2, axis=-1, keepdims=True)
    return jnp.where(zero, 0, scaled / jnp.sqrt(jnp.where(zero, 1, square)))


def _bind_settings(aggregate: Aggregate, maps: Float[Array, "b h w c"]) -> Partial:
    """Makes the settings of an aggregate data, and looks at those that have values."""
    if not callable(aggregate):
        raise ValueError(
            f"aggregate must be a function such as mac, got {aggregate!r}."
        )
    if not isinstance(aggregate, functools.partial):
        return Partial(aggregate)
    bound = Partial(aggregate.func, *aggregate.args, **aggregate.keywords)
    settings = jax.tree.leaves((bound.args, bound.keywords))
    if settings and all(map(is_concrete, settings)):
        # In the compiled program they have no values, and no check would see them.
        shapes = (maps.shape, maps.dtype), (maps.shape[:3], np.bool_)
        jax.eval_shape(bound, *(jax.ShapeDtypeStruct(*shape) for shape in shapes))
    return bound


@jax.jit
def _pool_regions(
    maps: Float[Array, "b h w c"], boxes: Int[Array, "b r 4"], aggregate: Partial
) -> Float[Array, "b r f"]:
    rows, columns = (
        jnp.arange(length, dtype=boxes.dtype)[None, :] for length in maps.shape[1:3]
    )

    @jax.checkpoint
    def pool(box: Int[Array, "b 4"]) -> Float[Array, "b f"]:
        y0, x0, y1, x1 = (box[:, i, None] for i in range(4))
        in_rows: Bool[Array, "b h"] = (rows >= y0) & (rows < y1)
        in_columns: Bool[Array, "b w"] = (columns >= x0) & (columns < x1)
        return aggregate(maps, in_rows[:, :, None] & in_columns[:, None, :])

    return jnp.moveaxis(jax.lax.map(pool, jnp.moveaxis(boxes, 1, 0)), 0, 1)
