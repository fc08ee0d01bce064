"""Describer: pictures to region vectors by a network, on all local devices."""

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


def _known_weights() -> dict[str, KnownWeights]:
    return {weights.name: weights for weights in KNOWN_WEIGHTS}


class WeightsFile(NamedTuple):
    """The weights that settings mean.

    Attributes:
        architecture: What they are of.
        path: Where they are.
    """

    architecture: str
    path: pathlib.Path


def find_weights_file(
    config: DescriptorConfig, *, progress: Callable[[str, int, int], None] | None = None
) -> WeightsFile:
    """Finds the weights that settings mean; known ones are downloaded if need be.

    Raises:
        ValueError: If the network has no name that is known, or no weights.
        OSError: If they can't be downloaded.
    """
    known = _known_weights()
    if config.weights is not None:
        architecture = config.network
        if config.network in known:
            architecture = known[config.network].architecture
        _check_architecture(architecture)
        return WeightsFile(architecture, pathlib.Path(config.weights))
    if config.network == "efficientnet-lite0":
        return WeightsFile(config.network, efficientnet_lite0_path())
    if config.network in known:
        path = fetch_weights(config.network, progress=progress)
        return WeightsFile(known[config.network].architecture, path)
    _check_architecture(config.network)
    raise ValueError(
        f"weights must be given with network {config.network!r}, or a network be named "
        f"whose weights are known: {', '.join(known)}."
    )


def _check_architecture(name: str) -> None:
    from diffjax.weights import network_names  # noqa: PLC0415  # Slow: Flax.

    if name not in network_names():
        raise ValueError(
            f"network must be one of {', '.join(network_names())}, or one whose "
            f"weights are known: {', '.join(_known_weights())}; got {name!r}."
        )


def weights_digest(
    config: DescriptorConfig, *, progress: Callable[[str, int, int], None] | None = None
) -> str:
    """Identifies the weights that settings mean, without loading them."""
    return file_digest(find_weights_file(config, progress=progress).path)


_AGGREGATES: Mapping[AggregateName, Callable[..., Array]] = MappingProxyType(
    {"mac": mac, "gem": gem, "spoc": spoc, "crow": crow}
)
_END_TO_END = "end-to-end"
_DEFAULT_GEM_POWER = 3.0  # Where neither the settings nor the weights say one.
_SLOT_MULTIPLE = (
    16  # Regions of the user's own are filled up to a multiple: few shapes.
)


class _PlacedRegions(NamedTuple):
    """The regions of a picture.

    Attributes:
        cells: In cells of the map, (y0, x0, y1, x1).
        boxes: In parts of the picture's width and height, (x0, y0, x1, y1).
    """

    cells: Int[np.ndarray, "r 4"]
    boxes: Float[np.ndarray, "r 4"]


class Describer:
    """Computes L2-normalised region vectors; see `images.BatchDescriber`.

    Attributes:
        weights: SHA-256 of the network's weights.
        sides: Longer sides in pixels at which it wants pictures.
        batch_size: Pictures per call that these devices like best. Always the same
            number, filled up: a picture's bits then do not depend on its batch mates,
            unless one of those has more regions of its own than there is room for.
        parallel_batches: Calls side by side that these devices like best.
    """

    def __init__(
        self,
        config: DescriptorConfig,
        *,
        mesh: jax.sharding.Mesh | None = None,
        progress: Callable[[str, int, int], None] | None = None,
        export_folder: pathlib.Path | None = None,
    ) -> None:
        """Reads the network's weights.

        Args:
            config: Settings.
            mesh: Devices that compute, each its share of every batch; None is all that
                this process has.
            progress: Told of a download.
            export_folder: Folder of networks that were built before, for one device;
                None to build it here.

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
        found = find_weights_file(config, progress=progress)
        load = functools.partial(_load_network, found)
        # A whitening is of the weights' file, and what it fits of the network itself.
        if (
            export_folder is None
            or mesh.size > 1
            or config.network_whitening is not None
        ):
            pretrained = load()
        else:
            pretrained = load_or_export_network(load, found.path, export_folder)
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
        # As their authors combine scales: those of GeM by its power, unless a layer
        # that is part of the network whitens each of them.
        whole = aggregate == "gem" and config.network_whitening != _END_TO_END
        self._scale_power = jnp.float32(power if whole else 1)
        self._whiten_first = config.network_whitening == _END_TO_END
        self.sides = config.sides
        self._grid = config.grid
        self._slots = max_regions(
            input_sizes(side=config.sides[0]), stride=self._stride, scales=config.grid
        )
        if mesh.size > 1:
            share = jax.sharding.NamedSharding(mesh, jax.P(mesh.axis_names))
            self._put = functools.partial(jax.device_put, device=share)
            everywhere = jax.sharding.NamedSharding(mesh, jax.P())
        else:
            # To share among one takes longer than to hand over.
            (everywhere,) = mesh.devices.flat
            self._put = functools.partial(jax.device_put, device=everywhere)
        if isinstance(pretrained, CachedNetwork):
            self._forward = pretrained.network
        else:
            network = jax.device_put(pretrained.network, everywhere)
            self._forward = functools.partial(forward, network)
        # On a CPU one picture keeps all cores busy and stays in their caches.
        each = 1 if jax.default_backend() == "cpu" else 16
        self.batch_size = each * mesh.size
        # Two on several devices might start in another order on each of them.
        self.parallel_batches = 2 if mesh.size == 1 else 1

    def __call__(
        self, scales: tuple[PictureBatch, ...], regions: tuple[BoxArray | None, ...], /
    ) -> RegionBatch:
        """Describes a batch of pictures, each device its share of them."""
        sizes = scales[0].sizes.tolist()
        laid = [
            self._place_regions(size, own)
            for size, own in zip(sizes, regions, strict=True)
        ]
        counts = np.array([len(each.cells) for each in laid], np.int32)
        slots = max(
            self._slots, -(-int(counts.max()) // _SLOT_MULTIPLE) * _SLOT_MULTIPLE
        )
        cells = _pad_slots([each.cells for each in laid], slots)
        boxes = [each.boxes for each in laid]
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
            each = _pool_and_normalize(
                maps[self._map], self._put(cells), self._aggregate
            )
            if self._whitening is not None and self._whiten_first:
                each = _whiten_regions(each, self._whitening)
            vectors.append(each)
        combined = vectors[0]
        if len(vectors) > 1:
            combined = combine_scales(jnp.stack(vectors), p=self._scale_power)
        if self._whitening is not None and not self._whiten_first:
            combined = _whiten_regions(combined, self._whitening)
        return RegionBatch(combined, _pad_slots(boxes, slots), counts)

    def _place_regions(self, size: list[int], own: BoxArray | None) -> _PlacedRegions:
        """Lays the grid, or the user's own regions, on a picture of (height, width)."""
        if own is not None:
            return _PlacedRegions(self._regions_to_cells(own, size), own)
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
        """Regions in cells, from parts of the picture."""
        height, width = size
        # To a thousandth, or a box at the edge of a cell would begin the next.
        pixels = np.round(boxes * ([width, height] * 2), 3)
        return boxes_to_cells(pixels, (height, width), stride=self._stride)


def _pad_slots(rows: list[np.ndarray], slots: int) -> np.ndarray:
    """Stacks what pictures have, [r, 4] each, with zeros in the empty slots."""
    return np.stack([np.pad(row, ((0, slots - len(row)), (0, 0))) for row in rows])


def _load_network(found: WeightsFile) -> PretrainedNetwork:
    # With it comes Flax, which takes long to import; see
    # `features.load_or_export_network`.
    from diffjax.weights import load_network  # noqa: PLC0415

    return load_network(found.architecture, found.path)


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
    found = pretrained.whitenings.get(config.network_whitening)
    if found is None:
        there = ", ".join(pretrained.whitenings) or "none"
        raise ValueError(
            f"network_whitening must be one that the weights hold ({there}), got "
            f"{config.network_whitening!r}."
        )
    channels = _count_channels(pretrained, name)
    if found.mean.shape[0] != channels:
        raise ValueError(
            f"network_whitening {config.network_whitening!r} is of vectors of "
            f"{found.mean.shape[0]} dimensions, got map {name!r} of {channels}: choose "
            "another map."
        )
    return found


def _count_channels(pretrained: PretrainedNetwork, name: str) -> int:
    """Channels of a map, from its shape alone."""
    side = max(pretrained.network.strides.values())
    maps = jax.eval_shape(
        lambda network: network(
            jnp.zeros((1, side, side, 3)), jnp.full((1, 2), side, jnp.int32)
        ),
        pretrained.network,
    )
    return maps[name].shape[-1]


def cached_describer(
    config: DescriptorConfig,
    *,
    weights: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Describer:
    """Keeps the network between searches: reading it takes longer than using it.

    A file of weights that was changed meanwhile is read again.

    Args:
        config: Settings.
        weights: Their SHA-256, if it is known already; None to find it.
        progress: Told of a download.

    Raises:
        ValueError: As `Describer`, or if the file was changed since.
        OSError: As `Describer`.
    """
    weights = weights or weights_digest(config, progress=progress)
    return _load_describer(config, weights)


@functools.lru_cache(maxsize=2)
def _load_describer(config: DescriptorConfig, weights: str) -> Describer:
    made = Describer(config, export_folder=exported_networks_folder())
    if made.weights != weights:
        raise ValueError(
            f"weights of {config.network} must stay as they are while they are read, "
            "got a file that was changed: run the same command again."
        )
    return made


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


class QueryRegions(NamedTuple):
    """Regions of query pictures, before whitening.

    Attributes:
        vectors: One row per region.
        query_ids: Picture of every row.
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
    """Describes query pictures; see `Index.describe`."""
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
            f"here are {describe.weights[:16]}: name that file, or build the index "
            "again."
        )
    found: dict[int, np.ndarray] = {}
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
            found[result.position] = result.vectors
            if progress:
                progress("describing queries", len(found), len(pictures))
    each = [found[position] for position in range(len(pictures))]
    ids = np.repeat(np.arange(len(each), dtype=np.int32), [len(v) for v in each])
    return QueryRegions(np.concatenate(each), ids)
