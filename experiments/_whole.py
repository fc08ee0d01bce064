"""Whole pictures by NetVLAD, in the stream that describes regions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffjax.data import Benchmark
from diffjax.features import (
    Described,
    Network,
    PictureBatch,
    RegionBatch,
    Regions,
    describe_pictures,
    forward,
    load_efficientnet_lite0,
)
from diffjax.regions import NetVLAD, aggregate_maps, fit_netvlad, netvlad

_SIDE = 320  # px


class _Cells:
    """Every cell of a map as a region of its own; a `Describe`."""

    def __init__(self, network: Network, name: str) -> None:
        self.network, self.name = network, name

    def __call__(
        self, scales: tuple[PictureBatch, ...], _: tuple[Regions | None, ...], /
    ) -> RegionBatch:
        images, sizes = scales[0]
        maps = forward(
            self.network, jnp.asarray(images), jnp.asarray(sizes), names=(self.name,)
        )
        (found,) = np.asarray(maps[self.name])
        rows, columns = np.asarray(self.network.cells(self.name, sizes))[0]
        cells = found[:rows, :columns].reshape(1, rows * columns, -1)
        boxes = np.zeros((1, rows * columns, 4), np.float32)
        return RegionBatch(cells, boxes, np.array([rows * columns]))


class _Whole:
    """A whole picture by NetVLAD; a `Describe`."""

    def __init__(self, network: Network, name: str, layer: NetVLAD) -> None:
        self.network, self.name = network, name
        self.aggregate = jax.tree_util.Partial(netvlad, layer=layer)

    def __call__(
        self, scales: tuple[PictureBatch, ...], _: tuple[Regions | None, ...], /
    ) -> RegionBatch:
        images, sizes = scales[0]
        maps = forward(
            self.network, jnp.asarray(images), jnp.asarray(sizes), names=(self.name,)
        )
        cells = jnp.asarray(self.network.cells(self.name, sizes))
        vectors = aggregate_maps(maps[self.name], cells, aggregate=self.aggregate)
        count = len(images)
        boxes = np.tile(np.array([[0, 0, 1, 1]], np.float32), (count, 1, 1))
        return RegionBatch(vectors[:, None], boxes, np.ones(count, np.int32))


def netvlad_descriptors(
    truth: Benchmark, *, name: str, clusters: int, cells: int, seed: int
) -> tuple[Float[np.ndarray, "m d"], Float[np.ndarray, "q d"]]:
    """Describes a benchmark's pictures and queries by NetVLAD.

    Args:
        truth: The benchmark.
        name: Map whose cells are taken.
        clusters: Number of clusters.
        cells: Cells of database pictures, drawn at random, that clusters are found
            with.
        seed: Of the cells and the clusters.

    Returns:
        Vectors of the database and of the queries.
    """
    network = load_efficientnet_lite0()
    describe = functools.partial(describe_pictures, sides=(_SIDE,), batch_size=1)
    draw = np.random.default_rng(seed)
    each = [
        found.vectors[draw.permutation(len(found.vectors))[: _share(truth, cells)]]
        for found in describe(truth.database, _Cells(network, name))
        if isinstance(found, Described)
    ]
    layer = fit_netvlad(np.concatenate(each), clusters=clusters, seed=seed)
    whole = _Whole(network, name, layer)
    pictures, queries = (
        {
            found.position: found.vectors[0]
            for found in describe(sources, whole, boxes=boxes)
            if isinstance(found, Described)
        }
        for sources, boxes in ((truth.database, None), (truth.queries, truth.boxes))
    )
    return _in_order(pictures), _in_order(queries)


def _share(truth: Benchmark, cells: int) -> int:
    """Cells of each picture."""
    return -(-cells // len(truth.database))


def _in_order(found: dict[int, Float[np.ndarray, " d"]]) -> Float[np.ndarray, "n d"]:
    return np.stack([found[position] for position in sorted(found)])
