"""Pictures to region vectors by a network, on all devices there are."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax.data import fitted_sizes
from diffjax.features import (
    PictureBatch,
    Pretrained,
    RegionBatch,
    Regions,
    forward,
    load_network,
)
from diffjax.regions import (
    boxes_to_cells,
    cells_to_boxes,
    combine_scales,
    crow,
    gem,
    l2_normalize,
    mac,
    max_regions,
    pool_regions,
    rmac_grid,
    spoc,
    whiten,
)
from diffjax.types import Whitening

from ._descriptor import AggregateName, DescriptorConfig
from ._networks import find_weights

_AGGREGATES: Mapping[AggregateName, Callable[..., Array]] = MappingProxyType(
    {"mac": mac, "gem": gem, "spoc": spoc, "crow": crow}
)
_GEM_POWER = 3.0  # Where neither the settings nor the weights say one.
_SLOTS = 16  # Regions of the user's own are filled up to a multiple: few shapes.


class _Laid(NamedTuple):
    """The regions of a picture.

    Attributes:
        cells: In cells of the map, (y0, x0, y1, x1).
        boxes: In parts of the picture's width and height, (x0, y0, x1, y1).
    """

    cells: Int[np.ndarray, "r 4"]
    boxes: Float[np.ndarray, "r 4"]


class Describer:
    """Computes L2-normalised region vectors; see `features.Describe`.

    Attributes:
        weights: SHA-256 of the network's weights.
        batch_size: Pictures per call that these devices like best. Always the same
            number, filled up: a picture's bits then do not depend on its batch mates.
    """

    def __init__(
        self,
        config: DescriptorConfig,
        *,
        mesh: jax.sharding.Mesh | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """Reads the network's weights.

        Args:
            config: Settings.
            mesh: Devices that compute, each its share of every batch; None is all that
                this process has.
            progress: Told of a download.

        Raises:
            ValueError: If weights are missing, damaged or of another network, or the
                network has no such map or whitening.
            OSError: If the weights can't be read or downloaded.
        """
        found = find_weights(config, progress=progress)
        pretrained = load_network(found.architecture, found.path)
        self.weights = pretrained.fingerprint
        self._map = _map_of(config, pretrained)
        self._stride = pretrained.network.strides[self._map]
        self._whitening = _whitening_of(config, pretrained)
        self._aggregate = _aggregate_of(config, pretrained)
        self._grid = config.grid
        self._slots = max_regions(
            fitted_sizes(side=config.sides[0]), stride=self._stride, scales=config.grid
        )
        if mesh is None:
            mesh = jax.make_mesh(
                (jax.local_device_count(),),
                ("batch",),
                axis_types=(jax.sharding.AxisType.Auto,),
                devices=jax.local_devices(),
            )
        self._sharded = jax.sharding.NamedSharding(mesh, jax.P(mesh.axis_names))
        self._network = jax.device_put(
            pretrained.network, jax.sharding.NamedSharding(mesh, jax.P())
        )
        # On a CPU one picture keeps all cores busy and stays in their caches.
        each = 1 if jax.default_backend() == "cpu" else 16
        self.batch_size = each * mesh.size

    def __call__(
        self, scales: tuple[PictureBatch, ...], regions: tuple[Regions | None, ...], /
    ) -> RegionBatch:
        """Describes a batch of pictures, each device its share of them."""
        sizes = scales[0].sizes.tolist()
        laid = [self._lay(size, own) for size, own in zip(sizes, regions, strict=True)]
        counts = np.array([len(each.cells) for each in laid], np.int32)
        slots = max(self._slots, -(-int(counts.max()) // _SLOTS) * _SLOTS)
        cells = _filled([each.cells for each in laid], slots)
        boxes = [each.boxes for each in laid]
        vectors = []
        for scale, (images, sizes) in enumerate(scales):
            if scale:
                pairs = zip(boxes, sizes.tolist(), strict=True)
                cells = _filled([self._cells(*pair) for pair in pairs], slots)
            put = functools.partial(jax.device_put, device=self._sharded)
            maps = forward(self._network, put(images), put(sizes), names=(self._map,))
            vectors.append(_pooled(maps[self._map], put(cells), self._aggregate))
        combined = _combined(vectors, self._whitening)
        return RegionBatch(combined, _filled(boxes, slots), counts)

    def _lay(self, size: list[int], own: Regions | None) -> _Laid:
        """Lays the grid, or the user's own regions, on a picture of (height, width)."""
        if own is not None:
            return _Laid(self._cells(own, size), own)
        height, width = size
        cells = rmac_grid(
            -(-height // self._stride), -(-width // self._stride), scales=self._grid
        )
        pixels = cells_to_boxes(cells, (height, width), stride=self._stride)
        return _Laid(cells, (pixels / ([width, height] * 2)).astype(np.float32))

    def _cells(self, boxes: Regions, size: list[int]) -> Int[np.ndarray, "r 4"]:
        """Regions in cells, from parts of the picture."""
        height, width = size
        # To a thousandth, or a box at the edge of a cell would begin the next.
        pixels = np.round(boxes * ([width, height] * 2), 3)
        return boxes_to_cells(pixels, (height, width), stride=self._stride)


def _filled(rows: list[np.ndarray], slots: int) -> np.ndarray:
    """Stacks what pictures have, [r, 4] each, with zeros in the empty slots."""
    return np.stack([np.pad(row, ((0, slots - len(row)), (0, 0))) for row in rows])


def _map_of(config: DescriptorConfig, pretrained: Pretrained) -> str:
    names = tuple(pretrained.network.strides)
    if config.map is None:
        # The authors of R-MAC drop the last pooling.
        return [name for name in names if not name.startswith("pool")][-1]
    if config.map not in names:
        raise ValueError(
            f"map of {pretrained.architecture} must be one of {', '.join(names)}, got "
            f"{config.map!r}."
        )
    return config.map


def _whitening_of(config: DescriptorConfig, pretrained: Pretrained) -> Whitening | None:
    if config.network_whitening is None:
        return None
    found = pretrained.whitenings.get(config.network_whitening)
    if found is None:
        there = ", ".join(pretrained.whitenings) or "none"
        raise ValueError(
            f"network_whitening must be one that the weights hold ({there}), got "
            f"{config.network_whitening!r}."
        )
    return found


def _aggregate_of(config: DescriptorConfig, pretrained: Pretrained):
    chosen = _AGGREGATES[config.aggregate]
    if config.aggregate != "gem":
        return jax.tree_util.Partial(chosen)
    known = pretrained.gem_power or _GEM_POWER
    power = known if config.gem_power is None else config.gem_power
    return jax.tree_util.Partial(chosen, p=jnp.float32(power))


@functools.lru_cache(maxsize=2)
def describer(config: DescriptorConfig) -> Describer:
    """Keeps the network between searches: reading it takes longer than using it."""
    return Describer(config)


@jax.jit
def _pooled(
    maps: Float[Array, "b h w c"],
    cells: Int[Array, "b r 4"],
    aggregate: jax.tree_util.Partial,
) -> Float[Array, "b r c"]:
    return l2_normalize(pool_regions(maps, cells, aggregate=aggregate))


@jax.jit
def _combined(
    vectors: list[Float[Array, "b r c"]], whitening: Whitening | None
) -> Float[Array, "b r p"]:
    first, *more = vectors
    mean = combine_scales(jnp.stack(vectors)) if more else first
    if whitening is None:
        return mean
    flat = whiten(mean.reshape(-1, mean.shape[-1]), whitening)
    return flat.reshape(*mean.shape[:-1], -1)
