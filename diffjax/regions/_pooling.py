"""One vector for each region of a feature map, and the unit length."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from diffjax._arguments import is_concrete

from ._aggregates import Aggregate, mac


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
    return _pool_regions(maps, boxes, _bound(aggregate, maps))


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


def _bound(aggregate: Aggregate, maps: Float[Array, "b h w c"]) -> Partial:
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
