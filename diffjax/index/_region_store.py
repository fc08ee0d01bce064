"""Store of extracted region vectors on disk, keyed by the content of the picture."""

import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import safetensors
from jaxtyping import Float

from diffjax._io import remove_partial_files, write_safetensors

# Folder of extracted regions, and the file that lists them, beside an index.
EXTRACTED_FOLDER, REGIONS_JSON = "extracted", "regions.json"

_SHARD = "regions"
_PICTURES_PER_SHARD = 64
_BOXES = ".boxes"


class PictureRegions(NamedTuple):
    """Regions of one picture.

    Attributes:
        vectors: One per region, of unit length.
        boxes: Box of each, (x0, y0, x1, y1) in pixels of the upright picture.
    """

    vectors: Float[np.ndarray, "r c"]
    boxes: Float[np.ndarray, "r 4"]


class RegionStore:
    """Store of raw region vectors in a folder, keyed by the content of the picture.

    The key is a hash of the picture's bytes, and the folder one of the descriptor
    settings: a renamed picture is not described again, a changed one is. Regions are
    written in shards, each atomically.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        """Lists the shards of a folder.

        Args:
            folder: Folder of one set of descriptor settings; made at the first write.
        """
        self._folder = folder
        self._shard_of_key: dict[str, pathlib.Path] = {}
        self._unwritten: dict[str, PictureRegions] = {}
        self._damaged: list[pathlib.Path] = []
        self._is_clean = False
        for shard in sorted(folder.glob(f"{_SHARD}-*.safetensors")):
            try:
                with safetensors.safe_open(shard, "numpy") as file:
                    names = set(file.keys())
            except safetensors.SafetensorError:
                # Cut short by a full disk or another program: compute it again.
                self._damaged.append(shard)
                continue
            complete = [name for name in names if f"{name}{_BOXES}" in names]
            self._shard_of_key |= dict.fromkeys(complete, shard)

    def __contains__(self, key: str) -> bool:
        """Whether the store has the regions of a picture with this key."""
        return key in self._shard_of_key or key in self._unwritten

    def add(self, key: str, regions: PictureRegions) -> None:
        """Adds the regions of a picture, and writes a shard when it is full."""
        self._unwritten[key] = regions
        if len(self._unwritten) >= _PICTURES_PER_SHARD:
            self.flush()

    def flush(self) -> None:
        """Writes the regions that are not on disk yet."""
        if not self._unwritten:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self.remove_damaged_shards()
        arrays = {key: regions.vectors for key, regions in self._unwritten.items()}
        arrays |= {f"{k}{_BOXES}": r.boxes for k, r in self._unwritten.items()}
        stored = write_safetensors(self._folder, _SHARD, arrays)
        self._shard_of_key |= dict.fromkeys(self._unwritten, self._folder / stored.name)
        self._unwritten = {}

    def remove_damaged_shards(self) -> None:
        """Removes damaged and partial shards; a process that only reads never does."""
        if self._is_clean:
            return
        remove_partial_files(self._folder, _SHARD)
        for shard in self._damaged:
            shard.unlink(missing_ok=True)
        self._is_clean = True

    def read(self, keys: list[str]) -> Iterator[PictureRegions]:
        """Reads the regions of pictures one by one, in the order of the keys.

        One shard is open at a time, so memory is constant; in the order in which
        pictures were described, each shard is opened once.
        """
        self.flush()
        shard, file = None, None
        for key in keys:
            if shard != self._shard_of_key[key] or file is None:
                shard = self._shard_of_key[key]
                file = safetensors.safe_open(shard, "numpy")
            yield PictureRegions(
                file.get_tensor(key), file.get_tensor(f"{key}{_BOXES}")
            )
