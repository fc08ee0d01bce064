"""Region pooling of feature maps: MAC, SPoC, GeM and CroW, and L2 normalisation."""

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
    """Aggregation function: the cells of each map under a mask become one vector.

    `mac`, `spoc`, `gem`, `crow` and `netvlad` are aggregates. An aggregate is pure and
    differentiable; a cell outside the mask is never used, whatever it holds, and a mask
    without a cell gives zeros with zero gradients. Settings other than the defaults,
    such as the power of `gem` or the layer of `netvlad`, are bound with
    `jax.tree_util.Partial(gem, p=p)`: they stay arguments of the compiled program, so
    that a new value compiles nothing and gradients reach it.
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
    r"""Computes the maximum of every channel: v_c = max_i x_ic over the cells i (MAC).

    Args:
        maps: Feature maps.
        mask: The cells to use.

    Returns:
        One vector per map; zeros where the mask has no cell.

    References:
        Razavian, Sullivan, Carlsson and Maki, Visual instance retrieval with deep
        convolutional networks, ITE Trans. 4(3), 2016, https://arxiv.org/abs/1412.6574.
        The name is that of Tolias, Sicre and Jegou, ICLR 2016,
        https://arxiv.org/abs/1511.05879.
    """
    largest = jnp.where(mask[..., None], maps, -jnp.inf).max((1, 2))
    return jnp.where(_has_cells(mask), largest, 0)


def spoc(
    maps: Float[Array, "b h w c"],
    mask: Bool[Array, "b h w"],
    *,
    centre_prior: bool | Bool[Array, ""] = False,
) -> Float[Array, "b c"]:
    r"""Computes the mean of every channel: v_c = sum_i w_i x_ic / sum_i w_i (SPoC).

    Without the prior w = 1. The authors compute the sum, which has the same direction.
    Their prior gives more weight to the centre: w = exp(-r^2 / (2 s^2)), r being the
    distance from the centre of the cells used, and s a third of the distance from the
    centre to the nearest edge.

    Args:
        maps: Feature maps.
        mask: The cells to use; centre and edges are those of the smallest box around
            them.
        centre_prior: Whether cells near the centre have larger weights.

    Returns:
        One vector per map; zeros where the mask has no cell.

    References:
        Babenko and Lempitsky, Aggregating deep convolutional features for image
        retrieval, ICCV 2015, https://arxiv.org/abs/1510.07493. Cited without an
        equation number: the prior is that of other programs.
    """
    exponents = jnp.where(centre_prior, _centre_prior_exponents(mask, maps.dtype), 0)
    # Only ratios of weights matter: the largest is made 1, so that not all underflow.
    largest = jnp.where(mask, exponents, -jnp.inf).max((1, 2), keepdims=True)
    has_cells = _has_cells(mask)
    shifted = exponents - jnp.where(has_cells[..., None], largest, 0)
    weights = jnp.where(mask, jnp.exp(jnp.where(mask, shifted, 0)), 0)
    # A weight of 0 would not stop a NaN outside the mask.
    masked_maps = jnp.where(mask[..., None], maps, 0)
    total = weights.sum((1, 2))[:, None]
    sums = (weights[..., None] * masked_maps).sum((1, 2))
    return sums / jnp.where(has_cells, total, 1)


def gem(
    maps: Float[Array, "b h w c"],
    mask: Bool[Array, "b h w"],
    *,
    p: Scalar | Float[Array | np.ndarray, " c"] = 3.0,
    eps: Scalar = 1e-6,
) -> Float[Array, "b c"]:
    r"""Computes the generalised mean of every channel: (mean_i max(x_ic, eps)^p)^(1/p).

    p = 1 is `spoc` on maps without negative entries, and p to infinity tends to `mac`
    (GeM). The largest cell is divided out before the power, so that a large p neither
    overflows nor underflows.

    Args:
        maps: Feature maps; an infinite entry gives NaN.
        mask: The cells to use.
        p: Power, above 0: one for all channels, or one for each; may be traced and
            differentiated.
        eps: Lower bound to which smaller entries are raised, above 0.

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
        for extreme in (np.min(np.asarray(p)), np.max(np.asarray(p))):
            check_in_range("p", extreme, low=0, high=np.inf)
    check_in_range("eps", eps, low=0, high=np.inf)
    dtype = maps.dtype
    power = jnp.broadcast_to(jnp.asarray(p, dtype), (channels,))
    is_used = mask[..., None]
    raised = jnp.maximum(jnp.where(is_used, maps, 0), jnp.asarray(eps, dtype))
    # The result does not depend on the scale: no gradient needs to pass through it.
    scale = jax.lax.stop_gradient(jnp.where(is_used, raised, 0).max((1, 2)))
    scale = jnp.where(_has_cells(mask), scale, 1)
    scaled = jnp.maximum(raised / scale[:, None, None, :], jnp.finfo(dtype).tiny)
    powers = jnp.where(is_used, jnp.exp(power[None, None, None] * jnp.log(scaled)), 0)
    count = jnp.maximum(mask.sum((1, 2)), 1).astype(dtype)[:, None]
    mean = jnp.where(_has_cells(mask), powers.sum((1, 2)) / count, 1)
    return jnp.where(_has_cells(mask), scale * jnp.exp(jnp.log(mean) / power[None]), 0)


def _has_cells(mask: Bool[Array, "b h w"]) -> Bool[Array, "b 1"]:
    """Whether the mask of each map has any cell."""
    return mask.any((1, 2))[:, None]


def _centre_prior_exponents(
    mask: Bool[Array, "b h w"], dtype: np.dtype
) -> Float[Array, "b h w"]:
    """Exponents of the centre prior, -r^2 / (2 s^2)."""
    (rows, height), (columns, width) = (
        _distances_from_centre(mask.any(axis), dtype) for axis in (2, 1)
    )
    deviation = jnp.minimum(height, width) / 6
    squares = rows[:, :, None] ** 2 + columns[:, None, :] ** 2
    return -squares / (2 * deviation[:, None, None] ** 2)


def _distances_from_centre(
    is_used: Bool[Array, "b n"], dtype: np.dtype
) -> tuple[Float[Array, "b n"], Float[Array, " b"]]:
    """Distances from the centre of the used cells along one axis, and their extent."""
    length = is_used.shape[1]
    first = is_used.argmax(1)
    end = length - is_used[:, ::-1].argmax(1)
    doubled_centres = 2 * jnp.arange(length, dtype=first.dtype) + 1
    doubled_distances = doubled_centres[None, :] - (first + end)[:, None]
    return doubled_distances.astype(dtype) / 2, (end - first).astype(dtype)


def crow(
    maps: Float[Array, "b h w c"],
    mask: Bool[Array, "b h w"],
    *,
    a: Scalar = 2.0,
    b: Scalar = 2.0,
) -> Float[Array, "b c"]:
    r"""Computes the weighted sum of every channel: v_c = I_c sum_i S_i x_ic (CroW).

    S_i = (s_i / |s|_a)^(1/b), s_i being the sum over channels: cells of strong
    activation have larger weights. I_c = log(sum_c' q_c' / q_c), q_c being the
    proportion of cells where channel c is not zero: rare channels have larger weights.

    A cell or channel of zeros has weight 0. The proportions are counts, so no gradient
    passes through I.

    Args:
        maps: Feature maps without negative entries, as after a ReLU: a cell whose sum
            is negative has no root and gives NaN.
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
        channel are those of the authors' program; the paper is cited without equation
        numbers.
    """
    check_in_range("a", a, low=0, high=np.inf)
    check_in_range("b", b, low=0, high=np.inf)
    masked_maps = jnp.where(mask[..., None], maps, 0)
    spatial_weights = _spatial_weights(
        masked_maps.sum(-1), jnp.asarray(a, maps.dtype), jnp.asarray(b, maps.dtype)
    )
    sums = (spatial_weights[..., None] * masked_maps).sum((1, 2))
    return _channel_weights(masked_maps) * sums


def _spatial_weights(
    sums: Float[Array, "b h w"], a: Float[Array, ""], b: Float[Array, ""]
) -> Float[Array, "b h w"]:
    """Weights S_i of the cells."""
    # The weights do not depend on the scale: no gradient needs to pass through it.
    scale = jax.lax.stop_gradient(jnp.abs(sums).max((1, 2), keepdims=True))
    scaled = sums / jnp.where(scale == 0, 1, scale)
    # The root is steep at 0, but x_ic S_i is flat at 0: S may be a constant.
    is_zero = scaled == 0
    scaled = jnp.where(is_zero, 1, scaled)
    mass = jnp.where(is_zero, 0, scaled**a).sum((1, 2), keepdims=True)
    norm = jnp.where(mass == 0, 1, mass) ** (1 / a)
    return jnp.where(is_zero, 0, (scaled / norm) ** (1 / b))


def _channel_weights(maps: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
    """Weights I_c of the channels."""
    counts = (maps != 0).sum((1, 2)).astype(maps.dtype)
    total = counts.sum(-1, keepdims=True)
    is_silent = counts == 0
    ratio = jnp.where(is_silent, 1, total) / jnp.where(is_silent, 1, counts)
    return jnp.log(ratio)


def pool_regions(
    maps: Float[Array, "b h w c"],
    boxes: Int[Array, "b r 4"],
    *,
    aggregate: Aggregate = mac,
) -> Float[Array, "b r f"]:
    """Pools every region of every map to one vector.

    One region of all maps is pooled at a time, so that memory is a few copies of
    `maps`, whatever the number of regions, also for gradients.

    Args:
        maps: Feature maps; cells outside the boxes are never used.
        boxes: (y0, x0, y1, x1) in cells, the last row and column not included. A box
            without a cell is an empty slot.
        aggregate: `mac`, `spoc`, `gem`, `crow`, or a function like them; one with
            settings is `jax.tree_util.Partial(gem, p=p)`, or a `functools.partial`,
            which is converted to it. The settings are arguments of the compiled
            program: a new value compiles nothing, and gradients reach it.

    Returns:
        One vector per box, of the aggregate's f dimensions; zeros for an empty slot.

    Raises:
        ValueError: If `aggregate` is no function, or one of its settings is out of
            range.
    """
    return _pool_regions(maps, boxes, _bind_settings(aggregate, maps))


def aggregate_maps(
    maps: Float[Array, "b h w c"],
    cells: Int[Array, "b 2"],
    *,
    aggregate: Aggregate = mac,
) -> Float[Array, "b f"]:
    """Aggregates every map as a whole to one vector.

    Args:
        maps: Feature maps.
        cells: (rows, columns) of each map; cells beyond are padding and never used.
        aggregate: As in `pool_regions`.

    Returns:
        One vector per map, of the aggregate's f dimensions.

    Raises:
        ValueError: As in `pool_regions`.
    """
    boxes = jnp.concatenate([jnp.zeros_like(cells), cells], 1)[:, None]
    return pool_regions(maps, boxes, aggregate=aggregate)[:, 0]


def l2_normalize(vectors: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """Scales vectors to unit length: x / |x|.

    A zero vector stays zero, with a zero gradient; NaN and infinity give NaN.

    Args:
        vectors: Vectors along the last axis, of any length: vectors whose squares
            underflow or overflow are normalised as well.

    Returns:
        Vectors of length 1 or 0.
    """
    # The result does not depend on the scale: no gradient needs to pass through it.
    scale = jax.lax.stop_gradient(jnp.abs(vectors).max(-1, keepdims=True, initial=0))
    is_zero = scale == 0
    scaled = vectors / jnp.where(is_zero, 1, scale)
    square = jnp.sum(scaled**2, axis=-1, keepdims=True)
    return jnp.where(is_zero, 0, scaled / jnp.sqrt(jnp.where(is_zero, 1, square)))


def _bind_settings(aggregate: Aggregate, maps: Float[Array, "b h w c"]) -> Partial:
    """Binds the settings of an aggregate as arrays, and validates concrete ones."""
    if not callable(aggregate):
        raise ValueError(
            f"aggregate must be a function such as mac, got {aggregate!r}."
        )
    if not isinstance(aggregate, functools.partial):
        return Partial(aggregate)
    bound = Partial(aggregate.func, *aggregate.args, **aggregate.keywords)
    settings = jax.tree.leaves((bound.args, bound.keywords))
    if settings and all(map(is_concrete, settings)):
        # In the compiled program they have no values, and no check could read them.
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
    def pool_box(box: Int[Array, "b 4"]) -> Float[Array, "b f"]:
        y0, x0, y1, x1 = (box[:, i, None] for i in range(4))
        in_rows: Bool[Array, "b h"] = (rows >= y0) & (rows < y1)
        in_columns: Bool[Array, "b w"] = (columns >= x0) & (columns < x1)
        return aggregate(maps, in_rows[:, :, None] & in_columns[:, None, :])

    return jnp.moveaxis(jax.lax.map(pool_box, jnp.moveaxis(boxes, 1, 0)), 0, 1)
