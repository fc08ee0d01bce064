"""Region vectors of a folder of pictures: extraction to a folder, and reading."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from diffjax._io import write_atomically
from diffjax.images import (
    DescriptorConfig,
    cached_describer,
    descriptor_config_from_json,
    weights_digest,
)

from ._describe_missing import (
    Progress,
    RegionsByName,
    describe_missing,
    list_pictures,
    list_readable_pictures,
    open_region_store,
)
from ._region_store import REGIONS_JSON, PictureRegions
from ._store import check_destination

_FORMAT, _VERSION = "diffjax regions", 1


class FolderRegions(NamedTuple):
    """Region vectors of a folder of pictures, on disk.

    Attributes:
        path: Folder of the vectors.
        folder: Folder of the pictures.
        names: Paths of the pictures, relative to their folder.
        skipped: Paths of unreadable pictures, with the reason.
        keys: Key of each picture in the store: a hash of its content.
        counts: Number of regions of each picture.
        descriptor: Settings with which pictures were described.
        weights: SHA-256 of the network's weights.
    """

    path: pathlib.Path
    folder: str
    names: tuple[str, ...]
    skipped: dict[str, str]
    keys: tuple[str, ...]
    counts: tuple[int, ...]
    descriptor: DescriptorConfig
    weights: str

    def pictures(self) -> Iterator[PictureRegions]:
        """Reads the regions picture by picture, in the order of `names`."""
        store = open_region_store(self.path, self.descriptor, self.weights)
        return store.read(list(self.keys))

    def load(self) -> "Regions":
        """Loads the regions of all pictures, ready for `Index.build`."""
        pictures = list(self.pictures())
        return Regions(
            vectors=np.concatenate([regions.vectors for regions in pictures]),
            image_ids=np.repeat(np.arange(len(pictures), dtype=np.int32), self.counts),
            boxes=np.concatenate([regions.boxes for regions in pictures]),
        )


class Regions(NamedTuple):
    """Regions of many pictures.

    Attributes:
        vectors: One row per region, of unit length.
        image_ids: Picture of every row.
        boxes: What each covers, (x0, y0, x1, y1) in pixels of the upright picture.
    """

    vectors: Float[np.ndarray, "n c"]
    image_ids: Int[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]


def extract_folder(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    config: DescriptorConfig | None = None,
    workers: int = 2,
    strict: bool = False,
    regions: RegionsByName | None = None,
    progress: Progress | None = None,
) -> FolderRegions:
    """Extracts the region vectors of all pictures in a folder, and saves them.

    Memory does not grow with the number of pictures. A run that was stopped continues
    where it was; pictures that were described before are not described again.

    Args:
        folder: Folder of pictures, also in subfolders.
        path: Folder for the vectors: files of the safetensors format with two arrays
            for each picture, and `regions.json`, which is written last. `index_folder`
            with the same path finds them there.
        config: Settings that describe pictures; None for the defaults.
        workers: Processes that read pictures.
        strict: Refuse a folder with unreadable pictures, instead of skipping them.
        regions: Region boxes by name of the picture, in pixels of the upright picture;
            other pictures, and all for None, get the grid.
        progress: Called with the task, how much of it is done, and of how much.

    Returns:
        The extracted regions, as `read_folder_regions` reads them.

    Raises:
        ValueError: If there is no picture that can be read, `strict` is set and one
            can't, `regions` names pictures that are not there, or `path` holds
            something else.
        OSError: If vectors can't be written.
    """
    config = (config or DescriptorConfig()).descriptor()
    folder, path = pathlib.Path(folder), pathlib.Path(path)
    check_destination(path)
    pictures = list_pictures(folder, regions, progress=progress)
    weights = weights_digest(config, progress=progress)
    store = open_region_store(path, config, weights)
    reasons = describe_missing(
        pictures,
        store,
        lambda: cached_describer(config, weights=weights),
        workers=workers,
        progress=progress,
    )
    readable = list_readable_pictures(folder, pictures, reasons, strict=strict)
    keys = [pictures.keys[i] for i in readable]
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "folder": str(folder.resolve()),
        "names": [pictures.names[i] for i in readable],
        "skipped": {pictures.names[i]: reason for i, reason in reasons.items()},
        "keys": keys,
        "counts": [
            len(regions_of_picture.vectors) for regions_of_picture in store.read(keys)
        ],
        "descriptor": dataclasses.asdict(config),
        "weights": weights,
    }
    # Escaped to ASCII: a file name may hold bytes that are no text.
    text = json.dumps(header, indent=1, sort_keys=True)
    write_atomically(path / REGIONS_JSON, (text + "\n").encode())
    return read_folder_regions(path)


def read_folder_regions(path: str | os.PathLike[str]) -> FolderRegions:
    """Reads the list of regions that `extract_folder` wrote, without their vectors.

    Args:
        path: Folder of the vectors.

    Returns:
        The regions on disk.

    Raises:
        ValueError: If the folder holds no regions, or is damaged or incomplete.
    """
    path = pathlib.Path(path)
    file = path / REGIONS_JSON
    if not file.is_file():
        raise ValueError(
            f"{path} holds no regions ({REGIONS_JSON} is missing): extract them first."
        )
    try:
        header = json.loads(file.read_bytes())
        if (header["format"], header["version"]) != (_FORMAT, _VERSION):
            raise ValueError(f"version {header['version']} of {header['format']!r}")
        regions = FolderRegions(
            path=path,
            folder=header["folder"],
            names=tuple(header["names"]),
            skipped=header["skipped"],
            keys=tuple(header["keys"]),
            counts=tuple(header["counts"]),
            descriptor=descriptor_config_from_json(header["descriptor"]),
            weights=header["weights"],
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{file} is damaged or of another version ({error}): extract again."
        ) from error
    store = open_region_store(path, regions.descriptor, regions.weights)
    missing = sum(key not in store for key in regions.keys)
    if missing:
        raise ValueError(
            f"{path} lacks the regions of {missing} of {len(regions.keys)} pictures: "
            "extract again, what is there is kept."
        )
    return regions
