"""Describer: region vectors of pictures by a network, on all local devices."""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax._io import file_digest
from diffjax.caches import exported_networks_folder
from diffjax.networks import forward
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
from diffjax.weights import (
    KNOWN_WEIGHTS,
    CachedNetwork,
    KnownWeights,
    PretrainedNetwork,
    efficientnet_lite0_path,
    fetch_weights,
    load_or_export_network,
)

from ._canvas import input_sizes
from ._config import AggregateName, DescriptorConfig, IndexedPictures
from ._extraction import (
    BoxArray,
    DescribedPicture,
    PictureBatch,
    RegionBatch,
    describe_pictures,
)
from ._reading import Box, PictureSource

_AGGREGATES: Mapping[AggregateName, Callable[..., Array]] = MappingProxyType(
    {"mac": mac, "gem": gem, "spoc": spoc, "crow": crow}
)
_END_TO_END = "end-to-end"
_DEFAULT_GEM_POWER = 3.0  # Used where neither settings nor weights have a power.
# Numbers of given regions are padded to a multiple, so that few shapes are compiled.
_SLOT_MULTIPLE = 16


class WeightsFile(NamedTuple):
    """Weights file of a descriptor.

    Attributes:
        architecture: Architecture that the weights are for.
        path: Path of the file.
    """

    architecture: str
    path: pathlib.Path


def find_weights_file(
    config: DescriptorConfig, *, progress: Callable[[str, int, int], None] | None = None
) -> WeightsFile:
    """Finds the weights file for descriptor settings; downloads it where necessary.

    Raises:
        ValueError: If the network is unknown, or none of its weights are named.
        OSError: If the weights can't be downloaded.
    """
    known_weights = _known_weights()
    if config.weights is not None:
        architecture = config.network
        if config.network in known_weights:
            architecture = known_weights[config.network].architecture
        _check_architecture(architecture)
        return WeightsFile(architecture, pathlib.Path(config.weights))
    if config.network == "efficientnet-lite0":
        return WeightsFile(config.network, efficientnet_lite0_path())
    if config.network in known_weights:
        path = fetch_weights(config.network, progress=progress)
        return WeightsFile(known_weights[config.network].architecture, path)
    _check_architecture(config.network)
    raise ValueError(
        f"weights must be given with network {config.network!r}, or network must be "
        f"one whose weights are known: {', '.join(known_weights)}."
    )


def _check_architecture(name: str) -> None:
    from diffjax.weights import network_names  # noqa: PLC0415  # Slow: Flax.

    if name not in network_names():
        raise ValueError(
            f"network must be one of {', '.join(network_names())}, or one whose "
            f"weights are known: {', '.join(_known_weights())}; got {name!r}."
        )


def _known_weights() -> dict[str, KnownWeights]:
    return {weights.name: weights for weights in KNOWN_WEIGHTS}


def weights_digest(
    config: DescriptorConfig, *, progress: Callable[[str, int, int], None] | None = None
) -> str:
    """Hashes the weights file for descriptor settings, without loading it."""
    return file_digest(find_weights_file(config, progress=progress).path)


class _PlacedRegions(NamedTuple):
    """Regions of one picture, in two units.

    Attributes:
        cells: Regions in cells of the feature map, (y0, x0, y1, x1).
        boxes: Regions as fractions of the picture's width and height, (x0, y0, x1, y1).
    """

    cells: Int[np.ndarray, "r 4"]
    boxes: Float[np.ndarray, "r 4"]


class Describer:
    """Computes L2-normalised region vectors; see `images.BatchDescriber`.

    Attributes:
        weights: SHA-256 of the network's weights.
        sides: Longer sides in pixels of the pictures that a call takes.
        batch_size: Number of pictures per call that is fastest on these devices. Every
            batch is padded to it: the bits of a picture then do not depend on the
            others of its batch, unless one of those has more given regions than slots.
        parallel_batches: Number of simultaneous calls that is fastest.
    """

    def __init__(
        self,
        config: DescriptorConfig,
        *,
        mesh: jax.sharding.Mesh | None = None,
        progress: Callable[[str, int, int], None] | None = None,
        export_folder: pathlib.Path | None = None,
    ) -> None:
        """Loads the network.

        Args:
            config: Settings of the descriptor.
            mesh: Devices that share every batch; None is all local devices.
            progress: Called with (task, megabytes done, megabytes in all) of a
                download.
            export_folder: Folder of the export cache, used on one device; None builds
                the network.

        Raises:
            ValueError: If weights are missing, damaged or of another network, or the
                network has no such map or whitening.
            OSError: If the weights can't be read or downloaded.
        """
        if mesh is None:
            mesh = jax.make_mesh(
                (jax.local_device_count(),),
                ("batch",),
                axis_types=(jax.sharding.AxisType.Auto,),
                devices=jax.local_devices(),
            )
        weights_file = find_weights_file(config, progress=progress)
        load = functools.partial(_load_network, weights_file)
        # The export cache has neither whitenings nor the channels that they must fit.
        if (
            export_folder is None
            or mesh.size > 1
            or config.network_whitening is not None
        ):
            pretrained = load()
        else:
            pretrained = load_or_export_network(load, weights_file.path, export_folder)
        self.weights = pretrained.fingerprint
        self._map = _choose_map(config, pretrained)
        self._stride = pretrained.network.strides[self._map]
        aggregate = config.aggregate or (
            "gem" if pretrained.gem_power or config.gem_power else "mac"
        )
        power = config.gem_power or pretrained.gem_power or _DEFAULT_GEM_POWER
        self._whitening = _choose_whitening(config, pretrained, self._map)
        self._aggregate = jax.tree_util.Partial(_AGGREGATES[aggregate])
        if aggregate == "gem":
            self._aggregate = jax.tree_util.Partial(gem, p=jnp.float32(power))
        # Scales are combined as in cirtorch: by the power of GeM, unless a layer of the
        # network whitens each of them.
        by_power = aggregate == "gem" and config.network_whitening != _END_TO_END
        self._scale_power = jnp.float32(power if by_power else 1)
        self._whiten_first = config.network_whitening == _END_TO_END
        self.sides = config.sides
        self._grid = config.grid
        self._slots = max_regions(
            input_sizes(side=config.sides[0]), stride=self._stride, scales=config.grid
        )
        if mesh.size > 1:
            sharded = jax.sharding.NamedSharding(mesh, jax.P(mesh.axis_names))
            self._put = functools.partial(jax.device_put, device=sharded)
            replicated = jax.sharding.NamedSharding(mesh, jax.P())
        else:
            # A plain copy is faster than a sharding over one device.
            (replicated,) = mesh.devices.flat
            self._put = functools.partial(jax.device_put, device=replicated)
        if isinstance(pretrained, CachedNetwork):
            self._forward = pretrained.network
        else:
            network = jax.device_put(pretrained.network, replicated)
            self._forward = functools.partial(forward, network)
        # On a CPU one picture keeps all cores busy and stays in their caches.
        batch_per_device = 1 if jax.default_backend() == "cpu" else 16
        self.batch_size = batch_per_device * mesh.size
        # Devices might start two simultaneous programs in different orders.
        self.parallel_batches = 2 if mesh.size == 1 else 1

    def __call__(
        self, scales: tuple[PictureBatch, ...], regions: tuple[BoxArray | None, ...], /
    ) -> RegionBatch:
        """Computes region vectors of a batch of pictures, sharded over the devices."""
        sizes = scales[0].sizes.tolist()
        placed = [
            self._place_regions(size, given_boxes)
            for size, given_boxes in zip(sizes, regions, strict=True)
        ]
        counts = np.array([len(regions.cells) for regions in placed], np.int32)
        slots = max(
            self._slots, -(-int(counts.max()) // _SLOT_MULTIPLE) * _SLOT_MULTIPLE
        )
        cells = _pad_slots([regions.cells for regions in placed], slots)
        boxes = [regions.boxes for regions in placed]
        vectors = []
        for scale, (images, sizes) in enumerate(scales):
            if scale:
                pairs = zip(boxes, sizes.tolist(), strict=True)
                cells = _pad_slots(
                    [self._regions_to_cells(*pair) for pair in pairs], slots
                )
            maps = self._forward(
                self._put(images), self._put(sizes), names=(self._map,)
            )
            pooled = _pool_and_normalize(
                maps[self._map], self._put(cells), self._aggregate
            )
            if self._whitening is not None and self._whiten_first:
                pooled = _whiten_regions(pooled, self._whitening)
            vectors.append(pooled)
        combined = vectors[0]
        if len(vectors) > 1:
            combined = combine_scales(jnp.stack(vectors), p=self._scale_power)
        if self._whitening is not None and not self._whiten_first:
            combined = _whiten_regions(combined, self._whitening)
        return RegionBatch(combined, _pad_slots(boxes, slots), counts)

    def _place_regions(
        self, size: list[int], given_boxes: BoxArray | None
    ) -> _PlacedRegions:
        """Places the grid, or given regions, on a picture of size (height, width)."""
        if given_boxes is not None:
            return _PlacedRegions(
                self._regions_to_cells(given_boxes, size), given_boxes
            )
        height, width = size
        cells = rmac_grid(
            -(-height // self._stride), -(-width // self._stride), scales=self._grid
        )
        pixels = cells_to_boxes(cells, (height, width), stride=self._stride)
        return _PlacedRegions(
            cells, (pixels / ([width, height] * 2)).astype(np.float32)
        )

    def _regions_to_cells(
        self, boxes: BoxArray, size: list[int]
    ) -> Int[np.ndarray, "r 4"]:
        """Converts regions from fractions of the picture to cells of the map."""
        height, width = size
        # Rounded to 0.001 px: a box that ends at a cell's edge must not enter the next.
        pixels = np.round(boxes * ([width, height] * 2), 3)
        return boxes_to_cells(pixels, (height, width), stride=self._stride)


def _pad_slots(rows: list[np.ndarray], slots: int) -> np.ndarray:
    """Stacks arrays [r, 4] of several pictures, padded with rows of zeros."""
    return np.stack([np.pad(row, ((0, slots - len(row)), (0, 0))) for row in rows])


def _load_network(weights_file: WeightsFile) -> PretrainedNetwork:
    # Imports Flax, which takes long; an exported network does without.
    from diffjax.weights import load_network  # noqa: PLC0415

    return load_network(weights_file.architecture, weights_file.path)


def _choose_map(
    config: DescriptorConfig, pretrained: PretrainedNetwork | CachedNetwork
) -> str:
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


def _choose_whitening(
    config: DescriptorConfig, pretrained: PretrainedNetwork | CachedNetwork, name: str
) -> Whitening | None:
    if config.network_whitening is None or isinstance(pretrained, CachedNetwork):
        return None
    whitening = pretrained.whitenings.get(config.network_whitening)
    if whitening is None:
        available = ", ".join(pretrained.whitenings) or "none"
        raise ValueError(
            f"network_whitening must be one that the weights hold ({available}), got "
            f"{config.network_whitening!r}."
        )
    channels = _count_channels(pretrained, name)
    if whitening.mean.shape[0] != channels:
        raise ValueError(
            f"network_whitening {config.network_whitening!r} is of vectors of "
            f"{whitening.mean.shape[0]} dimensions, got map {name!r} of {channels}: "
            "choose another map."
        )
    return whitening


def _count_channels(pretrained: PretrainedNetwork, name: str) -> int:
    """Counts the channels of a map, by tracing shapes alone."""
    side = max(pretrained.network.strides.values())
    maps = jax.eval_shape(
        lambda network: network(
            jnp.zeros((1, side, side, 3)), jnp.full((1, 2), side, jnp.int32)
        ),
        pretrained.network,
    )
    return maps[name].shape[-1]


@jax.jit
def _pool_and_normalize(
    maps: Float[Array, "b h w c"],
    cells: Int[Array, "b r 4"],
    aggregate: jax.tree_util.Partial,
) -> Float[Array, "b r c"]:
    return l2_normalize(pool_regions(maps, cells, aggregate=aggregate))


@jax.jit
def _whiten_regions(
    vectors: Float[Array, "b r c"], whitening: Whitening
) -> Float[Array, "b r p"]:
    flat = whiten(vectors.reshape(-1, vectors.shape[-1]), whitening)
    return flat.reshape(*vectors.shape[:-1], -1)


def cached_describer(
    config: DescriptorConfig,
    *,
    weights: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Describer:
    """Returns a describer from a cache in memory, keyed by settings and weights.

    Loading the network takes longer than a search. A weights file that has changed is
    loaded again.

    Args:
        config: Settings of the descriptor.
        weights: SHA-256 of the weights, if it is known; None computes it.
        progress: Called with (task, megabytes done, megabytes in all) of a download.

    Raises:
        ValueError: If `Describer` raises it, or the weights file changes meanwhile.
        OSError: If `Describer` raises it.
    """
    weights = weights or weights_digest(config, progress=progress)
    return _load_describer(config, weights)


@functools.lru_cache(maxsize=2)
def _load_describer(config: DescriptorConfig, weights: str) -> Describer:
    describer = Describer(config, export_folder=exported_networks_folder())
    if describer.weights != weights:
        raise ValueError(
            f"weights of {config.network} must stay as they are while they are read, "
            "got a file that was changed: run the same command again."
        )
    return describer


class QueryRegions(NamedTuple):
    """Region vectors of query pictures, before whitening.

    Attributes:
        vectors: Region vectors, one per row.
        query_ids: Position of the picture of every row.
    """

    vectors: Float[np.ndarray, "r c"]
    query_ids: Int[np.ndarray, " r"]


def describe_queries(
    info: IndexedPictures | None,
    pictures: Sequence[PictureSource],
    *,
    boxes: Sequence[Box | None] | None,
    weights: str | os.PathLike[str] | None,
    progress: Callable[[str, int, int], None] | None,
) -> QueryRegions:
    """Computes region vectors of query pictures; see `Index.describe`."""
    if not pictures:
        raise ValueError("pictures must be at least one, got none.")
    if info is None:
        raise ValueError(
            "the index must be one of pictures, got one of vectors: search it with "
            "vectors."
        )
    config = info.descriptor
    if weights is not None:
        config = dataclasses.replace(config, weights=os.fspath(weights))
    describe = cached_describer(config, progress=progress)
    if describe.weights != info.weights:
        raise ValueError(
            f"the index was made with weights {info.weights[:16]} of {config.network}, "
            f"not {describe.weights[:16]}: name that file, or build the index "
            "again."
        )
    vectors_by_position: dict[int, np.ndarray] = {}
    results = describe_pictures(
        pictures,
        describe,
        boxes=boxes,
        sides=config.sides,
        batch_size=describe.batch_size,
        parallel_batches=describe.parallel_batches,
    )
    with contextlib.closing(results):
        for result in results:
            if not isinstance(result, DescribedPicture):
                source = pictures[result.position]
                name = source if isinstance(source, str | os.PathLike) else "picture"
                raise ValueError(f"{name}: {result.reason}")
            vectors_by_position[result.position] = result.vectors
            if progress:
                progress("describing queries", len(vectors_by_position), len(pictures))
    vectors = [vectors_by_position[position] for position in range(len(pictures))]
    counts = [len(rows) for rows in vectors]
    query_ids = np.repeat(np.arange(len(vectors), dtype=np.int32), counts)
    return QueryRegions(np.concatenate(vectors), query_ids)
