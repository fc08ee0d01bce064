"""CroW and NetVLAD descriptors of whole pictures, by the network of the regions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffjax.datasets import Benchmark
from diffjax.images import (
    BoxArray,
    DescribedPicture,
    DescriptorConfig,
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
from experiments._entries import load_pretrained, resolve_map

# Maps that NetVLAD aggregates, of networks where it is not the map of the regions.
_NETVLAD_MAPS = {"efficientnet-lite0": "stage6"}


class PictureVectors(NamedTuple):
    """Descriptors of whole pictures.

    Attributes:
        pictures: Descriptors of the database.
        queries: Descriptors of the queries.
    """

    pictures: Float[np.ndarray, "m d"]
    queries: Float[np.ndarray, "q d"]


def crow_vectors(
    truth: Benchmark,
    descriptor: DescriptorConfig,
    *,
    name: str | None = None,
    dim: int = 256,
) -> PictureVectors:
    """Describes a benchmark's pictures and queries by CroW, whitened as in its paper.

    Args:
        truth: The benchmark.
        descriptor: Network and side in pixels; its other settings are not used.
        name: Map that is aggregated; None is the descriptor's.
        dim: Dimensions after whitening, fitted on the database; at most half as many
            as there are pictures.

    Returns:
        Vectors of the database and of the queries, of unit length.
    """
    describe = _PictureDescriber(
        load_pretrained(descriptor).network,
        name or resolve_map(descriptor),
        jax.tree_util.Partial(crow),
    )
    return _whiten_pictures(_describe_benchmark(truth, describe, descriptor), dim)


def netvlad_vectors(
    truth: Benchmark,
    descriptor: DescriptorConfig,
    *,
    name: str | None = None,
    clusters: int = 16,
    cells: int = 20_000,
    dim: int = 256,
    seed: int = 0,
) -> PictureVectors:
    """Describes a benchmark's pictures and queries by NetVLAD, whitened as CroW is.

    The layer is initialised by k-means, as by its authors before training.

    Args:
        truth: The benchmark.
        descriptor: Network and side in pixels; its other settings are not used.
        name: Map that is aggregated; None is stage6 of EfficientNet-Lite0, of other
            networks the descriptor's.
        clusters: Number of clusters.
        cells: Number of cells of database pictures, drawn at random, that clusters are
            fitted to.
        dim: Dimensions after whitening, as for `crow_vectors`.
        seed: Seed of the cells and the clusters.

    Returns:
        Vectors of the database and of the queries, of unit length.
    """
    pretrained = load_pretrained(descriptor)
    network = pretrained.network
    if name is None:
        name = _NETVLAD_MAPS.get(pretrained.architecture) or resolve_map(descriptor)
    draw = np.random.default_rng(seed)
    per_picture = -(-cells // len(truth.database))
    stream = describe_pictures(
        truth.database,
        _CellDescriber(network, name),
        sides=(descriptor.side,),
        batch_size=1,
    )
    sample = [
        picture.vectors[draw.permutation(len(picture.vectors))[:per_picture]]
        for picture in stream
        if isinstance(picture, DescribedPicture)
    ]
    layer = fit_netvlad(np.concatenate(sample), clusters=clusters, seed=seed)
    aggregate = jax.tree_util.Partial(netvlad, layer=layer)
    describe = _PictureDescriber(network, name, aggregate)
    return _whiten_pictures(_describe_benchmark(truth, describe, descriptor), dim)


class _CellDescriber:
    """Describer of every cell of a map as a region; an `images.BatchDescriber`."""

    def __init__(self, network: Network, name: str) -> None:
        self.network, self.name = network, name

    def __call__(
        self, scales: tuple[PictureBatch, ...], _: tuple[BoxArray | None, ...], /
    ) -> RegionBatch:
        images, sizes = scales[0]
        maps = forward(
            self.network, jnp.asarray(images), jnp.asarray(sizes), names=(self.name,)
        )
        (picture_map,) = np.asarray(maps[self.name])
        rows, columns = np.asarray(self.network.cells(self.name, sizes))[0]
        cells = picture_map[:rows, :columns].reshape(1, rows * columns, -1)
        boxes = np.zeros((1, rows * columns, 4), np.float32)
        return RegionBatch(cells, boxes, np.array([rows * columns]))


class _PictureDescriber:
    """Describer of a whole picture as one vector; an `images.BatchDescriber`."""

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


def _describe_benchmark(
    truth: Benchmark, describe: _PictureDescriber, descriptor: DescriptorConfig
) -> PictureVectors:
    pictures, queries = (
        {
            picture.position: picture.vectors[0]
            for picture in describe_pictures(
                sources, describe, boxes=boxes, sides=(descriptor.side,), batch_size=1
            )
            if isinstance(picture, DescribedPicture)
        }
        for sources, boxes in ((truth.database, None), (truth.queries, truth.boxes))
    )
    return PictureVectors(_stack_by_position(pictures), _stack_by_position(queries))


def _stack_by_position(
    vectors: dict[int, Float[np.ndarray, " d"]],
) -> Float[np.ndarray, "n d"]:
    return np.stack([vectors[position] for position in sorted(vectors)])


def _whiten_pictures(vectors: PictureVectors, dim: int) -> PictureVectors:
    """Whitens vectors by the moments of the database's."""
    dim = min(dim, len(vectors.pictures) // 2, vectors.pictures.shape[1])
    whitening = fit_pca_whitening(vectors.pictures, dim=dim)
    return PictureVectors(
        *(np.asarray(whiten(jnp.asarray(rows), whitening)) for rows in vectors)
    )
