"""Whole pictures by CroW and NetVLAD, in the stream that describes regions."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffjax.datasets import Benchmark
from diffjax.images import (
    BoxArray,
    DescribedPicture,
    PictureBatch,
    RegionBatch,
    describe_pictures,
)
from diffjax.networks import Network, forward
from diffjax.regions import (
    aggregate_maps,
    crow,
    fit_netvlad,
    fit_pca_whitening,
    netvlad,
    whiten,
)
from diffjax.weights import load_efficientnet_lite0

_SIDE = 320  # px


class _CellDescriber:
    """Every cell of a map as a region of its own; a `BatchDescriber`."""

    def __init__(self, network: Network, name: str) -> None:
        self.network, self.name = network, name

    def __call__(
        self, scales: tuple[PictureBatch, ...], _: tuple[BoxArray | None, ...], /
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


class _PictureDescriber:
    """A whole picture as one vector; a `BatchDescriber`."""

    def __init__(
        self, network: Network, name: str, aggregate: jax.tree_util.Partial
    ) -> None:
        self.network, self.name, self.aggregate = network, name, aggregate

    def __call__(
        self, scales: tuple[PictureBatch, ...], _: tuple[BoxArray | None, ...], /
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


class PictureVectors(NamedTuple):
    """Descriptors of whole pictures.

    Attributes:
        pictures: Of the database.
        queries: Of the queries.
    """

    pictures: Float[np.ndarray, "m d"]
    queries: Float[np.ndarray, "q d"]


def netvlad_vectors(
    truth: Benchmark,
    *,
    name: str = "stage6",
    clusters: int = 16,
    cells: int = 20_000,
    dim: int = 256,
    seed: int = 0,
) -> PictureVectors:
    """Describes a benchmark's pictures and queries by NetVLAD, whitened as CroW is.

    The layer is set by k-means, as its authors' is before they train it.

    Args:
        truth: The benchmark.
        name: Map whose cells are taken.
        clusters: Number of clusters.
        cells: Cells of database pictures, drawn at random, that clusters are found
            with.
        dim: As for `crow_vectors`.
        seed: Of the cells and the clusters.

    Returns:
        Vectors of the database and of the queries, of unit length.
    """
    network = load_efficientnet_lite0()
    draw = np.random.default_rng(seed)
    share = -(-cells // len(truth.database))
    each = [
        found.vectors[draw.permutation(len(found.vectors))[:share]]
        for found in _describe(truth.database, _CellDescriber(network, name))
        if isinstance(found, DescribedPicture)
    ]
    layer = fit_netvlad(np.concatenate(each), clusters=clusters, seed=seed)
    aggregate = jax.tree_util.Partial(netvlad, layer=layer)
    return _whiten_pictures(
        _describe_benchmark(truth, _PictureDescriber(network, name, aggregate)), dim
    )


def crow_vectors(
    truth: Benchmark, *, name: str = "head", dim: int = 256
) -> PictureVectors:
    """Describes a benchmark's pictures and queries by CroW, whitened as its paper does.

    Args:
        truth: The benchmark.
        name: Map that is aggregated.
        dim: Dimensions after whitening, fitted on the database; at most half as many
            as there are pictures.

    Returns:
        Vectors of the database and of the queries, of unit length.
    """
    whole = _PictureDescriber(
        load_efficientnet_lite0(), name, jax.tree_util.Partial(crow)
    )
    return _whiten_pictures(_describe_benchmark(truth, whole), dim)


def _whiten_pictures(found: PictureVectors, dim: int) -> PictureVectors:
    """Whitens vectors by what the database's are like."""
    most = min(dim, len(found.pictures) // 2, found.pictures.shape[1])
    fitted = fit_pca_whitening(found.pictures, dim=most)
    return PictureVectors(*(np.asarray(whiten(jnp.asarray(v), fitted)) for v in found))


_describe = functools.partial(describe_pictures, sides=(_SIDE,), batch_size=1)


def _describe_benchmark(truth: Benchmark, whole: _PictureDescriber) -> PictureVectors:
    pictures, queries = (
        {
            found.position: found.vectors[0]
            for found in _describe(sources, whole, boxes=boxes)
            if isinstance(found, DescribedPicture)
        }
        for sources, boxes in ((truth.database, None), (truth.queries, truth.boxes))
    )
    return PictureVectors(_stack_by_position(pictures), _stack_by_position(queries))


def _stack_by_position(
    found: dict[int, Float[np.ndarray, " d"]],
) -> Float[np.ndarray, "n d"]:
    return np.stack([found[position] for position in sorted(found)])
