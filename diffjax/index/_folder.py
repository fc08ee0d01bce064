"""Index of a folder of pictures: extraction, whitening, build, save."""

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from diffjax.images import (
    DescriptorConfig,
    IndexedPictures,
    cached_describer,
    weights_digest,
)
from diffjax.regions import (
    RunningCovariance,
    merge_covariances,
    running_covariance,
    whiten,
)
from diffjax.types import Whitening

from ._build import fit_whitening
from ._config import GraphConfig, IndexConfig
from ._describe_missing import (
    Progress,
    RegionsByName,
    describe_missing,
    list_pictures,
    list_readable_pictures,
    open_region_store,
)
from ._index import Index
from ._region_store import PictureRegions, RegionStore
from ._store import check_destination, verify, write_store

_BLOCK_REGIONS = 4096  # Regions in memory at a time before they are whitened.


class _PreparedCollection(NamedTuple):
    """Whitened region vectors of a collection, with their images and boxes.

    Attributes:
        vectors: Region vectors, whitened.
        image_ids: Picture of every region.
        boxes: Box of every region, (x0, y0, x1, y1) in pixels of its picture.
        whitening: Fitted whitening; None without.
    """

    vectors: Float[np.ndarray, "n p"]
    image_ids: Int[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]
    whitening: Whitening | None


def index_folder(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    config: IndexConfig | None = None,
    descriptor: DescriptorConfig | None = None,
    workers: int = 2,
    strict: bool = False,
    regions: RegionsByName | None = None,
    pictures: Sequence[pathlib.Path] | None = None,
    progress: Progress | None = None,
) -> Index:
    """Builds the index of all pictures in a folder, and saves it.

    Extracted regions are stored beside the index: a build that was stopped continues
    where it was, and a build with other graph settings describes no picture again.
    Regions are whitened block by block, so that only whitened vectors fill memory.

    Args:
        folder: Folder of pictures, also in subfolders.
        path: Folder of the index; see `Index.save`.
        config: Settings of the index; None for those of `pictures_config`.
        descriptor: Settings that describe pictures; None for the defaults.
        workers: Processes that read pictures.
        strict: Refuse a folder with unreadable pictures, instead of skipping them.
        regions: Region boxes by name of the picture, see `extract_folder`.
        pictures: Pictures to index, in this order, instead of all in `folder`; they may
            be in other folders.
        progress: Called with the task, how much of it is done, and of how much.

    Returns:
        The index, as saved. `index.pictures.skipped` lists what could not be read.

    Raises:
        ValueError: If there is no picture that can be read, `strict` is set and one
            can't, or `path` holds something else.
        OSError: If the index can't be written; what it held is then untouched.
    """
    config = config or pictures_config()
    folder, path = pathlib.Path(folder), pathlib.Path(path)
    check_destination(path)
    listed = list_pictures(folder, regions, chosen=pictures, progress=progress)
    descriptor = (descriptor or DescriptorConfig()).descriptor()
    weights = weights_digest(descriptor, progress=progress)
    info = IndexedPictures(
        folder=str(folder.resolve()),
        names=listed.names,
        skipped={},
        descriptor=descriptor,
        weights=weights,
        content=listed.content,
    )
    current = _open_if_current(path, info, config)
    if current is not None and not (strict and _skipped_pictures(current)):
        return current
    store = open_region_store(path, descriptor, weights)
    reasons = describe_missing(
        listed,
        store,
        lambda: cached_describer(descriptor, weights=weights),
        workers=workers,
        progress=progress,
    )
    readable = list_readable_pictures(folder, listed, reasons, strict=strict)
    if progress:
        progress("building the graph", 0, 1)
    prepared = _read_and_whiten(store, [listed.keys[i] for i in readable], config.graph)
    index = Index.build(
        prepared.vectors,
        prepared.image_ids,
        config=config,
        pictures=info._replace(
            names=tuple(listed.names[i] for i in readable),
            skipped={listed.names[i]: reason for i, reason in reasons.items()},
        ),
        whitening=prepared.whitening,
        prepared=True,
        boxes=prepared.boxes,
    )
    write_store(path, index.store)
    if progress:
        progress("building the graph", 1, 1)
    return index


def _open_if_current(
    path: pathlib.Path, info: IndexedPictures, config: IndexConfig
) -> Index | None:
    """Opens the index in `path` if it has these pictures and settings, else None."""
    try:
        verify(path)
        index = Index.open(path)
    except ValueError:  # None, a damaged one, or one in double precision.
        return None
    has_same_pictures = index.pictures is not None and info == index.pictures._replace(
        names=info.names, skipped={}
    )
    return index if has_same_pictures and index.config == config else None


def pictures_config() -> IndexConfig:
    """Default settings of an index of pictures: vectors whitened to 256 dimensions."""
    return IndexConfig(graph=GraphConfig(dim=256))


def _skipped_pictures(index: Index) -> dict[str, str]:
    return index.pictures.skipped if index.pictures else {}


def _read_and_whiten(
    store: RegionStore, keys: list[str], config: GraphConfig
) -> _PreparedCollection:
    """Reads regions and whitens them, block by block."""
    total: RunningCovariance | None = None
    counts, boxes = [], []
    for block in _block_regions(store.read(keys)):
        counts += [len(regions.vectors) for regions in block]
        boxes += [regions.boxes for regions in block]
        if config.dim is not None:
            block_covariance = running_covariance(
                np.concatenate([regions.vectors for regions in block])
            )
            total = (
                block_covariance
                if total is None
                else merge_covariances(total, block_covariance)
            )
    whitening = None if total is None else fit_whitening(total, config)
    whitened_blocks = [
        _whiten_block(np.concatenate([regions.vectors for regions in block]), whitening)
        for block in _block_regions(store.read(keys))
    ]
    return _PreparedCollection(
        vectors=np.concatenate(whitened_blocks),
        image_ids=np.repeat(np.arange(len(keys), dtype=np.int32), counts),
        boxes=np.concatenate(boxes),
        whitening=whitening,
    )


def _block_regions(
    pictures: Iterator[PictureRegions],
) -> Iterator[list[PictureRegions]]:
    """Groups pictures into blocks of at least `_BLOCK_REGIONS` regions."""
    block, rows = [], 0
    for regions in pictures:
        block.append(regions)
        rows += len(regions.vectors)
        if rows >= _BLOCK_REGIONS:
            yield block
            block, rows = [], 0
    if block:
        yield block


def _whiten_block(
    vectors: Float[np.ndarray, "r c"], whitening: Whitening | None
) -> Float[np.ndarray, "r p"]:
    if whitening is None:
        return vectors
    # Padded, so that one program serves most blocks.
    rows = -(-len(vectors) // _BLOCK_REGIONS) * _BLOCK_REGIONS
    padded = np.pad(vectors, ((0, rows - len(vectors)), (0, 0)))
    return np.asarray(whiten(jnp.asarray(padded), whitening))[: len(vectors)]
